//! The ways to give a network its addresses, and the lines that refuse the others.

use crate::support::{Plugin, refused, run, sh};

#[test]
fn a_foreign_pool_is_refused_and_the_line_says_what_to_type() {
    let plugin = Plugin::start();
    let said = plugin.create(&[], "net");
    let (name, lease) = (&plugin.name, &plugin.lease);
    let expected = format!(
        "is not inside this host's flannel lease {lease}.0/24: type \"docker network create -d {name} --ipam-driver \
         {name} NAME\", or \"docker network create -d {name} --subnet {lease}.0/24 NAME\""
    );
    assert!(!said.ok && said.stderr.ends_with(&expected), "{}", said.stderr);
    // The commands, word for word.
    for (i, command) in said.stderr.split('"').skip(1).step_by(2).enumerate() {
        let short = format!("typed{i}");
        let typed = command.replace("NAME", &plugin.named(&short));
        let words: Vec<_> = typed.split(' ').collect();
        sh(words[0], &words[1..]);
        plugin.remove_network(&short);
    }
    assert_eq!(plugin.leftovers(&[]), Vec::<String>::new());
}

/// Lets other flannel networks of the host in.
const OPEN: &str = "flannel.isolation=false";

#[test]
fn dockers_own_addresses_inside_the_lease() {
    let plugin = Plugin::start();
    let (low, high) = (format!("{}.0/25", plugin.lease), format!("{}.128/25", plugin.lease));
    let gateway = plugin.ip(126);
    let said = plugin.create(
        &["--subnet", &low, "--gateway", &gateway, "-o", "com.docker.network.driver.mtu=1400", "-o", OPEN],
        "low",
    );
    assert!(said.ok, "{}", said.stderr);
    plugin.network(&["--subnet", &high, "-o", OPEN], "high");
    plugin.must_run("low", "a", &["--ip", &plugin.ip(50)]);
    plugin.must_run("high", "b", &["--ip", &plugin.ip(200)]);
    let link = plugin.exec("a", &["ip", "addr", "show", "eth0"]).stdout;
    assert!(link.contains("mtu 1400"), "{link}");
    assert!(link.contains(&format!("{}/25", plugin.ip(50))), "{link}");
    // Parts of one lease, told to be open, reach each other through the host.
    plugin.must_ping("a", &plugin.ip(200));
    plugin.must_ping("b", &plugin.ip(126));
    // A container in both, joined while it runs.
    sh("docker", &["network", "connect", &plugin.named("high"), &plugin.named("a")]);
    plugin.must_ping("a", &plugin.named("b"));
    sh("docker", &["network", "disconnect", &plugin.named("high"), &plugin.named("a")]);
    plugin.must_ping("a", &plugin.ip(200));
    let busy = plugin.container("high", "c", &["--ip", &plugin.ip(200)]);
    assert!(!busy.ok && busy.stderr.contains("is in use: choose another --ip"), "{}", busy.stderr);
    for name in ["a", "b", "c"] {
        plugin.remove_container(name);
    }
    plugin.remove_network("low");
    plugin.remove_network("high");
    assert_eq!(plugin.leftovers(&[]), Vec::<String>::new());
}

#[test]
fn a_second_network_on_the_lease_is_refused_and_harms_nobody() {
    let plugin = Plugin::start();
    let id = plugin.network(&[], "one");
    plugin.must_run("one", "a", &[]);
    let said = plugin.create(&["--ipam-driver", &plugin.name], "two");
    assert!(!said.ok && said.stderr.contains(&format!("belongs to network {id}")), "{}", said.stderr);
    // The first network's pool is still there.
    plugin.must_run("one", "b", &[]);
    plugin.must_ping("a", &plugin.named("b"));
}

// Docker asks for a pool again and again while the answer overlaps a route of the host.
#[test]
fn a_route_over_the_lease_does_not_keep_docker_asking() {
    let mut plugin = Plugin::start();
    // As upstream's udp backend makes it, if only as large as need be: other tests have leases beside this one.
    let low: u8 = plugin.lease.rsplit('.').next().unwrap().parse().unwrap();
    plugin.add_route(&format!("10.213.{}.0/23 dev docker0", low & !1));
    plugin.network(&[], "net");
    plugin.must_run("net", "a", &[]);
    plugin.must_run("net", "b", &[]);
    assert_eq!(plugin.inspect("b", "net", "IPAddress"), plugin.ip(3));
    plugin.must_ping("a", &plugin.named("b"));
    plugin.must_ping("a", &plugin.ip(1));
    let asked = plugin.log().matches("IpamDriver.RequestPool: done").count();
    assert_eq!(asked, 1, "{}", plugin.log());
}

#[test]
fn part_of_the_lease_on_another_bridge_is_left_out() {
    let plugin = Plugin::start();
    let other = plugin.named("bridge");
    sh("docker", &["network", "create", "--subnet", &format!("{}.0/26", plugin.lease), &other]);
    plugin.network(&[], "net");
    plugin.must_run("net", "a", &[]);
    assert_eq!(plugin.inspect("a", "net", "IPAddress"), plugin.ip(130));
    plugin.must_ping("a", &plugin.ip(129));
}

#[test]
fn without_a_lease_the_line_names_the_file() {
    let plugin = Plugin::start();
    plugin.network(&[], "net");
    plugin.remove_lease();
    let said = plugin.create(&["--ipam-driver", &plugin.name], "other");
    assert!(
        !said.ok && said.stderr.contains("subnet.env is not there: flanneld has not written it"),
        "{}",
        said.stderr
    );
    let said = plugin.container("net", "a", &[]);
    assert!(!said.ok && said.stderr.contains("subnet.env is not there"), "{}", said.stderr);
    plugin.write_lease(&plugin.lease.clone());
    let started = run("docker", &["start", &plugin.named("a")]);
    assert!(started.ok, "{}", started.stderr);
    plugin.must_ping("a", &plugin.ip(1));
}

#[test]
fn a_changed_lease_is_told_at_the_next_container() {
    let plugin = Plugin::start();
    let id = plugin.network(&[], "net");
    plugin.write_lease("10.213.19");
    let name = plugin.named("a");
    let network = plugin.named("net");
    let image = format!("{}:img", plugin.name);
    let error = refused("docker", &["run", "--rm", "--name", &name, "--network", &network, &image, "sleep", "1"]);
    let expected =
        format!("network {id} has pool {}.0/24, but this host's flannel lease is 10.213.19.0/24", plugin.lease);
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains(&format!("recreate it, with \"docker network rm {id}\"")), "{error}");
}

#[test]
fn a_config_only_network_hides_the_choice() {
    let plugin = Plugin::start();
    let (config, name) = (plugin.named("config"), plugin.named("net"));
    sh("docker", &["network", "create", "--config-only", "--ipam-driver", &plugin.name, &config]);
    sh("docker", &["network", "create", "-d", &plugin.name, "--config-from", &config, &name]);
    plugin.must_run("net", "a", &[]);
    assert_eq!(plugin.inspect("a", "net", "IPAddress"), plugin.ip(2));
    plugin.must_ping("a", &plugin.ip(1));
    plugin.remove_container("a");
    plugin.remove_network("net");
    plugin.remove_network("config");
    assert_eq!(plugin.leftovers(&[]), Vec::<String>::new());
}
