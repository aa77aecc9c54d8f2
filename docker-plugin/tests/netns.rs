//! Bridges, veths and rules in the real kernel, each test in a network namespace of its own. Needs root.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flannel_core::name::IfName;
use flannel_docker::firewall::iptables::Iptables;
use flannel_docker::firewall::{Bridge, BridgeRules, Firewall as _, Guard};
use flannel_docker::links::netlink::Netlink;
use flannel_docker::links::{BridgeSpec, HostRoute, LinkError, Links as _, Owned, VethSpec};
use ipnet::IpNet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[expect(clippy::disallowed_methods, reason = "a test has nothing else to do while the command runs")]
fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn sh(program: &str, args: &[&str]) -> String {
    let (ok, stdout) = run(program, args);
    assert!(ok, "{program} {}: {stdout}", args.join(" "));
    stdout
}

/// Removes the namespace it names.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

/// Runs a test on a thread in a new network namespace, which its child processes share.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    assert_eq!(sh("id", &["-u"]), "0", "these tests make network namespaces: run them as root");
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("fltns{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let namespace = Namespace(name);
    sh("ip", &["netns", "add", &namespace.0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{}", namespace.0)).unwrap();
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            sh("ip", &["link", "set", "lo", "up"]);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
    });
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn bridge(addresses: &[&str], mtu: u32) -> BridgeSpec {
    let mac = "02:00:0a:05:48:01".parse().unwrap();
    BridgeSpec { name: name("fl-111111111111"), addresses: nets(addresses), mtu, mac }
}

fn veth(mtu: u32) -> VethSpec {
    VethSpec {
        host: name("flhe1e1e1e1e1e1"),
        container: name("flce1e1e1e1e1e1"),
        bridge: name("fl-111111111111"),
        mtu,
        mac: "02:00:0a:05:48:02".parse().unwrap(),
        hairpin: false,
    }
}

fn link(name: &str) -> String {
    sh("ip", &["-d", "link", "show", name])
}

#[test]
fn a_bridge_is_created_and_repaired() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        let spec = bridge(&["10.5.72.1/24", "fd00:5::1/64"], 1450);
        links.ensure_bridge(&spec).await.unwrap();
        let shown = link("fl-111111111111");
        for part in
            ["mtu 1450", "02:00:0a:05:48:01", "alias flannel-docker /state", "<NO-CARRIER,BROADCAST,MULTICAST,UP>"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let addresses = || sh("ip", &["addr", "show", "fl-111111111111"]);
        assert!(addresses().contains("inet 10.5.72.1/24 brd 10.5.72.255"), "{}", addresses());
        assert!(addresses().contains("inet6 fd00:5::1/64 scope global nodad"), "{}", addresses());
        let before = addresses();
        links.ensure_bridge(&spec).await.unwrap();
        assert_eq!(addresses(), before, "a second time changes nothing");

        // Changed by somebody else: down, another MTU, another address, ours gone.
        sh("ip", &["link", "set", "fl-111111111111", "down", "mtu", "1300"]);
        sh("ip", &["addr", "flush", "dev", "fl-111111111111"]);
        sh("ip", &["addr", "add", "10.9.9.9/24", "dev", "fl-111111111111"]);
        links.ensure_bridge(&spec).await.unwrap();
        assert!(addresses().contains("10.5.72.1/24") && !addresses().contains("10.9.9.9"), "{}", addresses());
        assert!(addresses().contains("mtu 1450") && addresses().contains(",UP"), "{}", addresses());

        links.remove(&spec.name).await.unwrap();
        links.remove(&spec.name).await.unwrap();
        assert!(!run("ip", &["link", "show", "fl-111111111111"]).0);
    });
}

#[test]
fn another_device_of_that_name_is_left_alone() {
    in_namespace(|| async {
        sh("ip", &["link", "add", "fl-111111111111", "type", "veth", "peer", "name", "other"]);
        let links = Netlink::open("/state").unwrap();
        let error = links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap_err();
        assert_eq!(error, LinkError::NotOurs { name: "fl-111111111111".to_owned() });
        assert!(link("fl-111111111111").contains("veth"));
    });
}

#[test]
fn a_veth_is_attached_and_attached_again() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        let spec = veth(1400);
        let error = links.create_veth(&spec).await.unwrap_err().to_string();
        assert!(error.contains("fl-111111111111") && error.contains("no longer exists"), "{error}");
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        // Twice: the first one's answer never reached Docker.
        links.create_veth(&spec).await.unwrap();
        links.create_veth(&spec).await.unwrap();
        let host = link("flhe1e1e1e1e1e1");
        assert!(host.contains("mtu 1400") && host.contains("master fl-111111111111") && host.contains(",UP"), "{host}");
        let container = link("flce1e1e1e1e1e1");
        assert!(container.contains("mtu 1400") && container.contains("02:00:0a:05:48:02"), "{container}");
        // A port with a smaller MTU does not change the bridge's, nor its address.
        let shown = link("fl-111111111111");
        assert!(shown.contains("mtu 1450") && shown.contains("link/ether 02:00:0a:05:48:01"), "{shown}");

        // The bridge is lost and re-created.
        sh("ip", &["link", "del", "fl-111111111111"]);
        assert!(!link("flhe1e1e1e1e1e1").contains("master"));
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        links.attach_veth(&spec.host, &spec.bridge).await.unwrap();
        links.attach_veth(&spec.host, &spec.bridge).await.unwrap();
        assert!(link("flhe1e1e1e1e1e1").contains("master fl-111111111111"));
        links.attach_veth(&name("flhffffffffffff"), &spec.bridge).await.unwrap();

        links.remove(&spec.host).await.unwrap();
        links.remove(&spec.container).await.unwrap();
        assert!(!run("ip", &["link", "show", "flce1e1e1e1e1e1"]).0, "the other end is left");
    });
}

/// rtnetlink's handle let a second dump fail with EBUSY while the first still ran.
#[test]
fn concurrent_lists_are_complete() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        // More devices than fit into one datagram of a dump.
        let batch: String = (0..100).map(|n| format!("link add a{n} type veth peer name b{n}\n")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        sh("ip", &["-batch", file.path().to_str().unwrap()]);
        let lists = (links.owned(), links.owned(), links.routes(), links.owned());
        let (first, second, routes, third) = tokio::join!(lists.0, lists.1, lists.2, lists.3);
        for owned in [first, second, third] {
            assert_eq!(owned.unwrap().len(), 1);
        }
        routes.unwrap();
    });
}

#[test]
fn a_join_takes_few_round_trips() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        let spec = bridge(&["10.5.72.1/24"], 1450);
        links.ensure_bridge(&spec).await.unwrap();
        let before = links.round_trips();
        links.ensure_bridge(&spec).await.unwrap();
        links.create_veth(&veth(1450)).await.unwrap();
        let taken = links.round_trips() - before;
        assert!(taken <= 5, "{taken} round trips");
    });
}

#[test]
fn only_our_own_devices_are_ours() {
    in_namespace(|| async {
        let (links, others) = (Netlink::open("/state").unwrap(), Netlink::open("/other").unwrap());
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        links.create_veth(&veth(1450)).await.unwrap();
        let foreign = BridgeSpec { name: name("fl-222222222222"), ..bridge(&["10.5.73.1/24"], 1450) };
        others.ensure_bridge(&foreign).await.unwrap();
        sh("ip", &["link", "add", "br0", "type", "bridge"]);
        // Somebody's own interface in our bridge is not ours to remove.
        sh("ip", &["link", "add", "tap-of-a-vm", "type", "veth", "peer", "name", "vm"]);
        sh("ip", &["link", "set", "tap-of-a-vm", "master", "fl-111111111111"]);
        let mut owned = links.owned().await.unwrap();
        owned.sort_by(|a, b| a.name.cmp(&b.name));
        let bridge = Owned {
            name: "fl-111111111111".to_owned(),
            is_bridge: true,
            mtu: 1450,
            up: true,
            bridge: None,
            addresses: vec!["10.5.72.1/24".parse().unwrap()],
        };
        let veth = Owned {
            name: "flhe1e1e1e1e1e1".to_owned(),
            mtu: 1450,
            up: true,
            bridge: Some(bridge.name.clone()),
            ..Owned::default()
        };
        assert_eq!(owned, [bridge, veth]);
        // A veth that lost its bridge is still ours.
        sh("ip", &["link", "set", "flhe1e1e1e1e1e1", "nomaster"]);
        let owned = links.owned().await.unwrap();
        let veth = owned.iter().find(|o| o.name == "flhe1e1e1e1e1e1").unwrap();
        assert_eq!(veth.bridge, None);
    });
}

#[test]
fn sees_the_routes_docker_sees() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        sh("ip", &["route", "add", "blackhole", "10.6.0.0/16", "metric", "70"]);
        sh("ip", &["route", "add", "default", "via", "10.5.72.9"]);
        sh("ip", &["route", "add", "10.7.0.0/16", "via", "10.5.72.9", "table", "100"]);
        let mut routes = links.routes().await.unwrap();
        routes.sort_by_key(|r| r.destination);
        let is = |destination: &str, device: Option<&str>, metric| HostRoute {
            destination: destination.parse().unwrap(),
            device: device.map(str::to_owned),
            metric,
        };
        assert_eq!(routes, [is("10.5.72.0/24", Some("fl-111111111111"), 0), is("10.6.0.0/16", None, 70)]);
    });
}

fn rules(internal: bool, flannel: &[&str]) -> BridgeRules {
    BridgeRules {
        bridges: vec![Bridge { name: name("fl-111111111111"), internal, isolated: false, flannel: nets(flannel) }],
    }
}

#[test]
fn rules_are_put_in_once_and_taken_out_whole() {
    in_namespace(|| async {
        let firewall = Iptables::new("FLANNEL-DOCKER".to_owned());
        let shown = |program: &str, table: &str| {
            let all = sh(program, &["-t", table, "-S"]);
            all.lines().filter(|l| l.contains("FLANNEL")).collect::<Vec<_>>().join("\n")
        };
        sh("iptables", &["-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"]);
        let before = sh("iptables-save", &["-t", "filter"]).lines().filter(|l| l.starts_with('-')).count();
        let plain = rules(false, &["10.5.0.0/16"]);
        for changed in [true, false, false] {
            assert_eq!(firewall.apply(&plain).await, Ok(changed));
        }
        assert_eq!(
            shown("iptables", "filter"),
            "-N FLANNEL-DOCKER\n-A FORWARD -j FLANNEL-DOCKER\n-A FLANNEL-DOCKER -i fl-111111111111 -j ACCEPT\n\
             -A FLANNEL-DOCKER -o fl-111111111111 -j ACCEPT"
        );
        assert_eq!(shown("iptables", "mangle") + &shown("ip6tables", "filter"), "");

        firewall.apply(&rules(true, &["10.5.0.0/16", "fd00:5::/48"])).await.unwrap();
        assert!(shown("iptables", "mangle").contains("! -d 10.5.0.0/16 -i fl-111111111111 -j DROP"));
        assert!(shown("ip6tables", "mangle").contains("! -s fd00:5::/48 -o fl-111111111111 -j DROP"));
        assert!(shown("iptables", "filter").contains("-d 10.5.0.0/16 -i fl-111111111111 -j ACCEPT"));
        // Flushed by another program.
        sh("iptables", &["-F", "FORWARD"]);
        firewall.apply(&plain).await.unwrap();
        assert!(shown("iptables", "filter").contains("-A FORWARD -j FLANNEL-DOCKER"));
        assert_eq!(shown("iptables", "mangle") + &shown("ip6tables", "filter") + &shown("ip6tables", "mangle"), "");

        sh("iptables", &["-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"]);
        firewall.apply(&BridgeRules::default()).await.unwrap();
        let after = sh("iptables-save", &["-t", "filter"]).lines().filter(|l| l.starts_with('-')).count();
        assert_eq!((before, shown("iptables", "filter").as_str()), (after, ""));
    });
}

fn guarded() -> (Guard, BridgeRules) {
    (Guard::start(Iptables::new("FLANNEL-DOCKER".to_owned())), rules(false, &["10.5.0.0/16"]))
}

async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + limit;
    let mut step = tokio::time::interval(Duration::from_millis(10));
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {limit:?}");
        step.tick().await;
    }
}

/// The periodic check comes after half a minute; the kernel announces the change.
#[test]
fn a_flush_is_repaired_at_once() {
    in_namespace(|| async {
        let (guard, rules) = guarded();
        guard.set(|| rules).await.unwrap();
        let intact = || {
            let saved = sh("iptables-save", &["-t", "filter"]);
            saved.contains("-A FORWARD -j FLANNEL-DOCKER\n") && saved.contains("-o fl-111111111111 -j ACCEPT")
        };
        assert!(intact());
        for damage in [&["iptables", "-F"][..], &["iptables", "-F", "FLANNEL-DOCKER"], &["nft", "flush", "ruleset"]] {
            sh(damage[0], &damage[1..]);
            until(&damage.join(" "), Duration::from_secs(2), intact).await;
        }
    });
}

/// Another program removes the rules whenever it sees them: five repairs at once, then one in five seconds.
#[test]
fn a_fight_over_the_rules_has_a_bounded_rate() {
    in_namespace(|| async {
        let (guard, rules) = guarded();
        guard.set(|| rules).await.unwrap();
        let (mut removed, until) = (0, tokio::time::Instant::now() + Duration::from_secs(4));
        let mut step = tokio::time::interval(Duration::from_millis(10));
        while tokio::time::Instant::now() < until {
            if sh("iptables-save", &["-t", "filter"]).contains("-i fl-111111111111 -j ACCEPT") {
                sh("iptables", &["-F", "FLANNEL-DOCKER"]);
                removed += 1;
            }
            step.tick().await;
        }
        assert!((3..=7).contains(&removed), "{removed} times in 4 s");
    });
}

/// What iptables cannot show is no reason to add rules once more.
#[test]
fn an_incompatible_table_is_reported_and_left_alone() {
    in_namespace(|| async {
        let firewall = Iptables::new("FLANNEL-DOCKER".to_owned());
        let plain = rules(false, &["10.5.0.0/16"]);
        firewall.apply(&plain).await.unwrap();
        sh("nft", &["add", "rule", "ip", "filter", "FORWARD", "meta", "mark", "set", "5"]);
        let before = sh("nft", &["list", "ruleset"]);
        for _ in 0..2 {
            firewall.apply(&plain).await.unwrap_err();
        }
        assert_eq!(sh("nft", &["list", "ruleset"]), before);
    });
}

/// A caller that goes away in the middle of a list leaves the kernel's dump running.
#[test]
fn an_abandoned_list_does_not_block_the_next() {
    in_namespace(|| async {
        let links = Netlink::open("/state").unwrap();
        links.ensure_bridge(&bridge(&["10.5.72.1/24"], 1450)).await.unwrap();
        let routes: String =
            (0..4000).map(|n| format!("route add blackhole 10.{}.{}.0/24\n", 64 + n / 250, n % 250)).collect();
        let file = std::env::temp_dir().join(format!("flannel-routes-{}", std::process::id()));
        std::fs::write(&file, routes).unwrap();
        sh("ip", &["-batch", file.to_str().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        // Polled once, which reads the first part and yields.
        let mut list = Box::pin(links.routes());
        assert!(futures_util::poll!(list.as_mut()).is_pending());
        drop(list);
        assert_eq!(links.routes().await.unwrap().len(), 4001);
    });
}
