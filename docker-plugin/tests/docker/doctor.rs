//! Each thing the doctor compares is broken, found by its name, and put right.

use std::fs;

use flannel_testbed::{Result, Signal};
use serde_json::{Value, json};

use crate::site::Site;
use crate::site::typed::serves;

/// A site with two containers whose plugin is gone, so that nothing puts itself right.
fn unattended() -> Site {
    let site = Site::boot(&[], &[]).unwrap();
    site.network("net").unwrap();
    site.run("net", "c1", "").unwrap();
    site.run("net", "c2", "").unwrap();
    site.is_well().unwrap();
    site.end_plugin(Signal::TERM).unwrap();
    site
}

/// The kinds of what is off, the silent plugin left out.
fn kinds(report: &Value) -> Vec<String> {
    let all = report["problems"].as_array().unwrap().iter();
    let kinds = all.map(|p| p["kind"].as_str().unwrap().to_owned());
    kinds.filter(|k| k != "plugin-unreachable").collect()
}

/// Is found by these names and put right by the doctor in the plugin's place.
fn found_and_fixed(site: &Site, expected: &[&str]) -> Result<()> {
    let (report, code) = site.doctor_json("")?;
    assert_eq!((kinds(&report), code.as_str()), (expected.iter().map(|&k| k.to_owned()).collect(), "1"), "{report:#}");
    let (report, _) = site.doctor_json("-fix")?;
    assert_eq!(kinds(&report), Vec::<String>::new(), "{report:#}");
    site.ping("c1", "c2")
}

fn edit(site: &Site, change: impl FnOnce(&mut Value)) {
    let mut state = site.state().unwrap();
    change(&mut state);
    fs::write(site.state_file(), state.to_string()).unwrap();
}

fn only(map: &mut Value) -> &mut Value {
    map.as_object_mut().unwrap().values_mut().next().unwrap()
}

#[test]
fn the_kernel_is_put_right() {
    let site = unattended();
    let id = site.docker("network inspect -f {{.Id}} net").unwrap();
    let bridge = format!("fl-{}", &id[..12]);
    let endpoint = site.docker("inspect -f {{.NetworkSettings.Networks.net.EndpointID}} c1").unwrap();
    let cable = format!("flh{}", &endpoint[..12]);
    let (c1, wrong, unplugged) = (&cable, ["bridge-wrong"], ["veth-detached"]);
    let check = |command: String, expected: &[&str]| {
        site.machine().exec(&command).unwrap();
        found_and_fixed(&site, expected).unwrap_or_else(|e| panic!("{command}: {e}"));
    };
    check(format!("ip link set {bridge} mtu 1400"), &wrong);
    check(format!("ip addr flush dev {bridge}"), &wrong);
    check(format!("ip link set {bridge} down"), &wrong);
    check(format!("ip link set {c1} nomaster"), &unplugged);
    check(format!("ip link del {bridge}"), &["bridge-missing", "veth-detached", "veth-detached"]);
    check(
        format!("ip link add flh000000000000 master {bridge} type veth peer name flc000000000000"),
        &["device-orphaned"],
    );
    check("iptables -D FORWARD -j FLANNEL-DOCKER".to_owned(), &["rules-wrong"]);
    check("iptables -F FLANNEL-DOCKER".to_owned(), &["rules-wrong"]);
    check(format!("iptables -A FLANNEL-DOCKER -o {bridge} -j DROP"), &["rules-wrong"]);
}

#[test]
fn the_state_is_put_right() {
    let site = unattended();
    let check = |what: &str, change: &dyn Fn(&mut Value), expected: &[&str]| {
        edit(&site, |state| change(state));
        found_and_fixed(&site, expected).unwrap_or_else(|e| panic!("{what}: {e}"));
    };
    let add_used = |s: &mut Value| only(&mut s["pools"])["used"].as_array_mut().unwrap().push(json!("10.5.72.99"));
    check("an address nobody has", &add_used, &["address-leaked"]);
    let forget_used =
        |s: &mut Value| only(&mut s["pools"])["used"].as_array_mut().unwrap().retain(|a| a != "10.5.72.2");
    check("an address somebody has", &forget_used, &["address-untaken"]);
    let add_endpoint = |s: &mut Value| {
        let endpoints = &mut only(&mut s["networks"])["endpoints"];
        let mut ghost = only(endpoints).clone();
        ghost["addresses"] = json!(["10.5.72.77/24"]);
        endpoints["f".repeat(64)] = ghost;
    };
    check("a container of the past", &add_endpoint, &["endpoint-gone"]);
    let forget_endpoints = |s: &mut Value| only(&mut s["networks"])["endpoints"] = json!({});
    check("containers unheard of", &forget_endpoints, &["endpoint-unknown", "endpoint-unknown"]);
    let add_network = |s: &mut Value| {
        let mut other = only(&mut s["networks"]).clone();
        other["endpoints"] = json!({});
        s["networks"]["e".repeat(64)] = other;
    };
    // Its rules are missing in two tables.
    let expected = ["network-gone", "bridge-missing", "rules-wrong", "rules-wrong"];
    check("a network of the past", &add_network, &expected);
    fs::write(site.state_file(), "{").unwrap();
    let (report, _) = site.doctor_json("").unwrap();
    assert!(kinds(&report).contains(&"state-unreadable".to_owned()), "{report:#}");
    let (report, _) = site.doctor_json("-fix").unwrap();
    assert_eq!(kinds(&report), Vec::<String>::new(), "{report:#}");
    site.ping("c1", "c2").unwrap();
}

#[test]
fn what_is_the_users_to_put_right_is_said() {
    let site = unattended();
    let (report, code) = site.doctor_json("").unwrap();
    assert_eq!(
        (report["problems"][0]["kind"].as_str(), code.as_str()),
        (Some("plugin-unreachable"), "1"),
        "{report:#}"
    );
    site.machine().exec("sysctl -w net.ipv4.ip_forward=0").unwrap();
    assert_eq!(kinds(&site.doctor_json("").unwrap().0), ["no-forwarding"]);
    site.machine().exec("sysctl -w net.ipv4.ip_forward=1").unwrap();
    fs::remove_file(site.subnet_file()).unwrap();
    assert_eq!(kinds(&site.doctor_json("").unwrap().0), ["lease-missing"]);
    site.move_lease("10.5.9").unwrap();
    let (report, _) = site.doctor_json("-fix").unwrap();
    assert_eq!(kinds(&report), ["lease-changed"]);
    site.move_lease("10.5.72").unwrap();
    let endpoint = site.docker("inspect -f {{.NetworkSettings.Networks.net.EndpointID}} c1").unwrap();
    site.machine().exec(&format!("ip link del flh{}", &endpoint[..12])).unwrap();
    let (report, _) = site.doctor_json("-fix").unwrap();
    assert_eq!(kinds(&report), ["veth-missing"]);
    let remedy = report["problems"].as_array().unwrap().iter().find(|p| p["kind"] == "veth-missing").unwrap();
    // Word for word what helps.
    let command = remedy["remedy"].as_str().unwrap().split('"').nth(1).unwrap();
    site.launch(&[]).unwrap();
    site.docker(command.strip_prefix("docker ").unwrap()).unwrap();
    site.ping("c1", "c2").unwrap();
    assert_eq!(site.doctor(&[]).unwrap(), "no problems found: 1 networks with 2 containers\n");
    site.end_docker(Signal::KILL).unwrap();
    assert_eq!(kinds(&site.doctor_json("").unwrap().0), ["docker-unreachable"]);
}

#[test]
fn the_running_plugin_does_it_when_told() {
    let site = unattended();
    site.launch(&[]).unwrap();
    site.is_well().unwrap();
    let id = site.docker("network inspect -f {{.Id}} net").unwrap();
    let bridge = format!("fl-{}", &id[..12]);
    site.machine().exec(&format!("ip link del {bridge}")).unwrap();
    site.machine().exec("iptables -F FLANNEL-DOCKER").unwrap();
    let (report, code) = site.doctor_json("-fix").unwrap();
    assert_eq!((kinds(&report), code.as_str()), (Vec::new(), "0"), "{report:#}");
    site.ping("c1", "c2").unwrap();
    site.leaves_nothing().unwrap();
}

// Looked at from outside, where a published port is for.
#[test]
fn ways_out_and_ports_are_put_right() {
    let site = Site::boot(&[], &[]).unwrap();
    site.network("-o flannel.gateway=true net").unwrap();
    let bridge = format!("fl-{}", &site.docker("network inspect -f {{.Id}} net").unwrap()[..12]);
    site.server("c1", "--network net -p 8080:80").unwrap();
    site.run("net", "c2", "").unwrap();
    site.is_well().unwrap();
    site.end_plugin(Signal::TERM).unwrap();
    let page = || site.page_outside(&format!("{}:8080", site.host().address()));
    serves("before", "c1", page).unwrap();
    for (command, breaks) in [
        ("nft delete table inet flannel-docker", true),
        ("nft flush chain inet flannel-docker ports", true),
        ("nft flush chain inet flannel-docker postrouting", false),
        ("nft insert rule inet flannel-docker ports tcp dport 8080 return", true),
        ("nft add rule inet flannel-docker guard tcp dport 9 drop", false),
        ("nft add chain inet flannel-docker more", false),
        ("nft add table inet flannel-docker { flags dormant ; }", true),
    ] {
        site.machine().exec(command).unwrap();
        assert_eq!(page().is_err(), breaks, "{command}");
        found_and_fixed(&site, &["ports-wrong"]).unwrap_or_else(|e| panic!("{command}: {e}"));
        serves(command, "c1", page).unwrap();
    }
    // Without it 127.0.0.1 does not reach containers, and other rules are in place.
    site.machine().exec(&format!("sysctl -w net.ipv4.conf.{bridge}.route_localnet=0")).unwrap();
    found_and_fixed(&site, &["ports-wrong"]).unwrap();
    serves("127.0.0.1", "c1", || site.page("127.0.0.1:8080")).unwrap();
    site.launch(&[]).unwrap();
    site.docker("rm -f c1 c2").unwrap();
    site.docker("network rm net").unwrap();
    site.end_plugin(Signal::TERM).unwrap();
    site.machine().exec("nft add table inet flannel-docker").unwrap();
    let (report, _) = site.doctor_json("-fix").unwrap();
    let fixed = report["fixed"][0].as_str().unwrap_or_default();
    assert!(fixed.contains("table inet flannel-docker is left over"), "{report:#}");
    site.launch(&[]).unwrap();
    site.leaves_nothing().unwrap();
}
