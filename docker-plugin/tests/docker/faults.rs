//! The plugin dies, the host reboots, and containers go on.

use crate::support::{Plugin, refused, run, sh};

#[test]
fn goes_on_after_being_killed() {
    let mut plugin = Plugin::start();
    let id = plugin.network(&[], "net");
    plugin.must_run("net", "a", &[]);
    plugin.must_run("net", "b", &[]);
    plugin.end("-KILL");
    assert!(plugin.socket().exists(), "SIGKILL leaves the socket");
    plugin.must_ping("a", &plugin.named("b"));
    plugin.launch();
    plugin.must_ping("a", &plugin.named("b"));
    plugin.must_run("net", "c", &[]);
    assert_eq!(plugin.inspect("c", "net", "IPAddress"), plugin.ip(4));
    plugin.must_ping("c", &plugin.named("a"));
    // Stopping what was started before works too, and so does starting it again.
    sh("docker", &["restart", "-t", "0", &plugin.named("a")]);
    plugin.must_ping("a", &plugin.named("c"));

    let status = plugin.end("-TERM");
    assert!(status.success(), "{status}");
    assert!(!plugin.socket().exists(), "the socket is left");
    plugin.must_ping("a", &plugin.named("c"));
    plugin.launch();
    for name in ["a", "b", "c"] {
        plugin.remove_container(name);
    }
    plugin.remove_network("net");
    assert_eq!(plugin.leftovers(&[&id]), Vec::<String>::new());
}

// A reboot takes bridges and rules, and Docker never says CreateNetwork again.
#[test]
fn makes_bridges_and_rules_again() {
    let mut plugin = Plugin::start();
    let id = plugin.network(&[], "net");
    plugin.must_run("net", "a", &[]);
    plugin.must_run("net", "b", &[]);
    plugin.end("-KILL");
    sh("ip", &["link", "del", &format!("fl-{id}")]);
    let chain = plugin.chain();
    sh("iptables", &["-w", "-D", "FORWARD", "-j", &chain]);
    sh("iptables", &["-w", "-F", &chain]);
    sh("iptables", &["-w", "-X", &chain]);
    assert!(!plugin.pings("a", &plugin.ip(3)), "the fault did not strike");
    plugin.launch();
    // The bridge is back before the first call that needs it, cables and rules at the latest with it.
    plugin.must_run("net", "c", &[]);
    plugin.must_ping("a", &plugin.named("b"));
    plugin.must_ping("c", &plugin.named("a"));
    plugin.must_ping("c", &plugin.ip(1));
}

// Docker removes a network whose plugin is down, and nobody hears of it. Docker would try for 45 s; a plugin that knows
// nothing and says yes to all makes it as quick as it is without effect.
#[test]
fn a_network_removed_in_its_absence_frees_the_lease() {
    let mut plugin = Plugin::start();
    let id = plugin.network(&[], "net");
    plugin.end("-KILL");
    plugin.launch_ignorant();
    plugin.remove_network("net");
    plugin.end("-TERM");
    assert!(plugin.state().contains(&id), "the network is forgotten already");
    plugin.launch();
    let second = plugin.network(&[], "again");
    plugin.must_run("again", "a", &[]);
    plugin.must_ping("a", &plugin.ip(1));
    assert_ne!(id, second);
    assert_eq!(plugin.leftovers(&[]).iter().filter(|l| l.contains(&id)).count(), 0, "{:?}", plugin.leftovers(&[]));
}

#[test]
fn one_socket_and_one_state_have_one_plugin() {
    let plugin = Plugin::start();
    let socket = format!("-socket={}", plugin.socket().display());
    let program = env!("CARGO_BIN_EXE_flannel-docker");
    let elsewhere = tempfile::tempdir().unwrap();
    let state = format!("-state-dir={}", elsewhere.path().display());
    let error = refused(program, &[&socket, &state]);
    assert!(error.contains("another program answers there"), "{error}");
    // The running one is none the worse.
    plugin.network(&[], "net");
}

#[test]
fn bad_flags_are_one_line() {
    let program = env!("CARGO_BIN_EXE_flannel-docker");
    for (args, expected) in [
        (&["-sockets=/x"][..], "unknown flag -sockets"),
        (&["-v=loud"], "\"loud\" is no whole number"),
        (&["serve"], "\"serve\" is no flag"),
        (&["-socket=/tmp/plugin"], "choose such a name"),
    ] {
        let error = refused(program, args);
        assert!(error.contains(expected) && error.lines().count() == 1, "{args:?}: {error}");
    }
    let version = run(program, &["--version"]);
    assert!(version.ok && version.stdout.starts_with("flannel-docker "), "{version:?}");
}
