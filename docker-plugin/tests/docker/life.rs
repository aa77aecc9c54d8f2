//! What a user does on an ordinary day.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{Plugin, Remote, eventually, refused, run, sh};

/// A page of a published port.
fn page(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn containers_talk_and_leave_nothing() {
    let plugin = Plugin::start();
    let id = plugin.network(&[], "net");
    plugin.must_run("net", "a", &[]);
    plugin.must_run("net", "b", &[]);

    // By name, by address, and the gateway; FORWARD's policy is DROP where Docker switched forwarding on.
    plugin.must_ping("a", &plugin.named("b"));
    plugin.must_ping("b", &plugin.ip(2));
    plugin.must_ping("a", &plugin.ip(1));
    assert!(run("ping", &["-c1", "-W2", &plugin.ip(3)]).ok, "the host does not reach its container");

    let link = plugin.exec("a", &["ip", "link", "show", "eth0"]).stdout;
    assert!(link.contains("mtu 1450"), "{link}");
    let routes = plugin.exec("a", &["ip", "route"]).stdout;
    assert!(routes.contains(&format!("10.213.0.0/16 via {} dev eth0", plugin.ip(1))), "{routes}");
    let default = routes.lines().find(|l| l.starts_with("default")).unwrap_or_default();
    assert!(default.contains("dev eth1"), "the way out is not docker_gwbridge's: {routes}");
    let [a, b, c, d] = [10, 213, plugin.lease.rsplit('.').next().unwrap().parse::<u8>().unwrap(), 2];
    let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    assert_eq!(plugin.inspect("a", "net", "MacAddress"), mac);
    assert!(link.contains(&mac), "{link}");
    let bridge = sh("ip", &["link", "show", &format!("fl-{id}")]);
    assert!(bridge.contains("mtu 1450") && bridge.contains("UP"), "{bridge}");
    let subnet = sh("docker", &["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", &plugin.named("net")]);
    assert_eq!(subnet, format!("{}.0/24", plugin.lease));

    let endpoints = [plugin.inspect("a", "net", "EndpointID"), plugin.inspect("b", "net", "EndpointID")];
    assert!(refused("docker", &["network", "rm", &plugin.named("net")]).contains("active endpoints"));
    plugin.remove_container("a");
    // An address is not used again at once.
    plugin.must_run("net", "c", &[]);
    assert_eq!(plugin.inspect("c", "net", "IPAddress"), plugin.ip(4));
    plugin.remove_container("b");
    plugin.remove_container("c");
    plugin.remove_network("net");
    let ids = [id.as_str(), &endpoints[0][..12], &endpoints[1][..12]];
    assert_eq!(plugin.leftovers(&ids), Vec::<String>::new());
    let state = plugin.state();
    assert!(state.contains("\"networks\": {}") && state.contains("\"pools\": {}"), "{state}");
}

#[test]
fn published_ports_are_reached() {
    let plugin = Plugin::start();
    plugin.network(&[], "net");
    let command = ["sh", "-c", "echo of flannel > /index.html; httpd -f -p 80 -h /"];
    let said = plugin.container_running("net", "web", &["-p", "80"], &command);
    assert!(said.ok, "{}", said.stderr);
    let shown = sh("docker", &["port", &plugin.named("web"), "80/tcp"]);
    let port = shown.lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    eventually("the published port answers", || {
        page(&format!("127.0.0.1:{port}")).is_some_and(|p| p.contains("of flannel"))
    });
    // And without publishing, from the next container.
    plugin.must_run("net", "client", &[]);
    let url = format!("http://{}/index.html", plugin.ip(2));
    let got = plugin.exec("client", &["wget", "-q", "-O", "-", &url]);
    assert_eq!(got.stdout, "of flannel", "{got:?}");
}

#[test]
fn internal_networks_stay_inside_flannel() {
    let plugin = Plugin::start();
    let (low, high) = (format!("{}.0/25", plugin.lease), format!("{}.128/25", plugin.lease));
    plugin.network(&["--internal", "--subnet", &low], "in");
    plugin.network(&["--subnet", &high], "out");
    plugin.must_run("in", "a", &[]);
    plugin.must_run("in", "b", &[]);
    plugin.must_run("out", "c", &[]);
    plugin.must_run("bridge", "stranger", &[]);
    plugin.must_ping("a", &plugin.named("b"));
    let routes = plugin.exec("a", &["ip", "route"]).stdout;
    assert!(!routes.contains("default") && !routes.contains("eth1"), "{routes}");
    let (inside, outside) = (plugin.inspect("a", "in", "IPAddress"), plugin.inspect("c", "out", "IPAddress"));
    let remote = Remote::new(&plugin);
    assert!(remote.pings(&inside) && remote.pings(&outside), "another host does not get in\n{}", plugin.log());
    plugin.must_ping("a", &remote.ip);
    plugin.must_ping("c", &remote.ip);
    // Docker's own bridge is let out to anywhere by Docker's rules; here too, but for the internal network.
    plugin.must_ping("stranger", &outside);
    assert!(!plugin.pings("stranger", &inside), "a stranger got in");
    for name in ["a", "b", "c"] {
        plugin.remove_container(name);
    }
    plugin.remove_network("in");
    plugin.remove_network("out");
    assert_eq!(plugin.leftovers(&[]), Vec::<String>::new());
}

#[test]
fn both_families_work() {
    let plugin = Plugin::start();
    let id = plugin.network(&["--ipv6"], "net");
    plugin.must_run("net", "a", &[]);
    plugin.must_run("net", "b", &[]);
    let address = plugin.inspect("a", "net", "GlobalIPv6Address");
    assert!(address.starts_with("fd00:213:0:"), "{address}");
    let gateway = address.replace("::2", "::1");
    for target in [&address, &gateway] {
        let said = plugin.exec("b", &["ping6", "-c", "2", "-W", "2", target]);
        assert!(said.ok, "{target}: {} {}\n{}", said.stdout, said.stderr, plugin.log());
    }
    let routes = plugin.exec("a", &["ip", "-6", "route"]).stdout;
    assert!(routes.contains(&format!("fd00:213::/48 via {gateway} dev eth0")), "{routes}");
    plugin.must_ping("a", &plugin.named("b"));
    plugin.remove_container("a");
    plugin.remove_container("b");
    plugin.remove_network("net");
    assert_eq!(plugin.leftovers(&[&id]), Vec::<String>::new());
}

#[test]
fn many_start_at_once() {
    let plugin = Plugin::start();
    plugin.network(&[], "net");
    std::thread::scope(|scope| {
        for i in 0..8 {
            let plugin = &plugin;
            scope.spawn(move || plugin.must_run("net", &format!("c{i}"), &[]));
        }
    });
    let addresses: BTreeSet<_> = (0..8).map(|i| plugin.inspect(&format!("c{i}"), "net", "IPAddress")).collect();
    assert_eq!(addresses.len(), 8, "{addresses:?}");
    for target in &addresses {
        plugin.must_ping("c0", target);
    }
    let names: Vec<_> = (0..8).map(|i| plugin.named(&format!("c{i}"))).collect();
    let mut args = vec!["rm", "-f"];
    args.extend(names.iter().map(String::as_str));
    sh("docker", &args);
    plugin.remove_network("net");
    assert_eq!(plugin.leftovers(&[]), Vec::<String>::new());
}
