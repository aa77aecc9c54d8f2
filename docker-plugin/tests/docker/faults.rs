//! What others do to the plugin's things, and what is typed wrong.

use std::process::Command;

use flannel_testbed::{Result, Signal};

use crate::site::typed::{check, run};
use crate::site::{Site, on_site, program};

// A reboot takes bridges and rules, and Docker never says CreateNetwork again.
#[test]
fn makes_bridges_and_rules_again() {
    on_site(&[], |site| {
        let id = site.network("net")?;
        site.run("net", "a1", "")?;
        site.run("net", "b1", "")?;
        site.end_plugin(Signal::KILL)?;
        site.machine().exec(&format!("ip link del fl-{}", &id[..12]))?;
        for words in ["-D FORWARD -j", "-F", "-X"] {
            site.machine().exec(&format!("iptables -w {words} FLANNEL-DOCKER"))?;
        }
        check("the fault strikes", site.ping("a1", "10.5.72.3").is_err(), ())?;
        site.launch(&[])?;
        // The bridge is back before the first call that needs it, cables and rules at the latest with it.
        site.run("net", "c1", "")?;
        site.ping("c1", "a1")?;
        // The kernel in a1 drops what it holds for a neighbour that was asked for in vain a moment ago.
        site.talks("a1", "b1")?;
        site.ping("c1", "10.5.72.1")?;
        site.leaves_nothing()
    });
}

#[test]
fn one_socket_and_one_state_have_one_plugin() {
    on_site(&[], |site| {
        refuses(site, "-state-dir=/var/lib/other", "another program answers there")?;
        refuses(site, "-socket=/run/docker/plugins/other.sock", "is in use by another flannel-docker")?;
        // The running one is none the worse.
        site.network("net")?;
        site.leaves_nothing()
    });
}

/// A second plugin with this flag ends with this word.
fn refuses(site: &Site, flag: &str, expected: &str) -> Result<()> {
    let mut second = site.machine().command(program());
    let said = run(second.arg(flag))?;
    check(flag, !said.ok && said.stderr.contains(expected), said)
}

#[test]
fn bad_flags_are_one_line() {
    for (args, expected) in [
        (&["-sockets=/x"][..], "unknown flag -sockets"),
        (&["-v=loud"], "\"loud\" is no whole number"),
        (&["serve"], "\"serve\" is not a flag"),
        (&["-socket=/tmp/plugin"], "choose such a name"),
    ] {
        let said = run(Command::new(program()).args(args)).unwrap();
        assert!(!said.ok && said.stderr.contains(expected) && said.stderr.lines().count() == 1, "{args:?}: {said:?}");
    }
    let said = run(Command::new(program()).arg("--version")).unwrap();
    assert!(said.ok && said.stdout.starts_with("flannel-docker "), "{said:?}");
}
