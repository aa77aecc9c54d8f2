//! Devices by mode, and leases to peers; what the kernel does with them is not seen here.

use super::*;
use flannel_core::backend_config::{self, Kind};
use flannel_core::lease::LeaseAttrs;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOTH: Own = Own { families: Families::BOTH, v6_public: true };

fn options(text: &str) -> Options {
    let text = format!(r#"{{"Type":"wireguard"{text}}}"#);
    backend_config::parse(&text, &[Kind { name: "wireguard", read: Options::read }]).unwrap().1
}

fn backend(text: &str, own: Own) -> Wireguard {
    let options = options(text);
    let devices = devices(&options, own, 1500).unwrap();
    let links = (4..).zip(&devices).map(|(n, d)| Tunnel { link: LinkIndex(n), families: d.families }).collect();
    Wireguard { links, shared: None, routes: Vec::new(), mtu: devices[0].spec.mtu, options, own }
}

fn lease(key: &str, v4: &str, v6: Option<&str>) -> Lease {
    let data = |port: u16| format!(r#"{{"PublicKey":"{KEY}","Port":{port}}}"#);
    let attrs = LeaseAttrs {
        public_ipv6: v6.map(|ip| ip.parse().unwrap()),
        backend_type: "wireguard".into(),
        backend_data: Some(data(1111)),
        backend_v6_data: v6.map(|_| data(2222)),
        ..LeaseAttrs::new(v4.parse().unwrap())
    };
    Lease { key: key.parse().unwrap(), attrs }
}

const V4_ONLY: &str = "10.5.1.0-24";
const DUAL: &str = "10.5.1.0-24&fd00:5:0:1::-64";

/// Device, endpoint and subnets of each peer.
fn peers(backend: &Wireguard, lease: &Lease) -> Vec<String> {
    let entries = backend.entries(lease, Families::EMPTY).unwrap();
    let text = |entry: &Entry| match entry {
        Entry::Peer(p) => {
            format!("{} {} {}", p.link.0, p.endpoint, p.allowed.map(|a| a.to_string()).unwrap_or_default())
        }
        other => panic!("{other}"),
    };
    entries.iter().map(text).collect()
}

#[test]
fn devices_by_mode() {
    let families = |d: &Device| d.families.each().map(|f| f.to_string()).collect::<Vec<_>>().join("+");
    let names = |text: &str, own: Own| -> Result<Vec<String>, String> {
        let devices = devices(&options(text), own, 1500)?;
        Ok(devices.iter().map(|d| format!("{} {} {}", d.spec.name, d.port, families(d))).collect())
    };
    let v4_only = Own { families: Families::V4, v6_public: false };
    assert_eq!(names("", v4_only).unwrap(), ["flannel-wg 51820 IPv4"]);
    assert_eq!(names("", BOTH).unwrap(), ["flannel-wg 51820 IPv4", "flannel-wg-v6 51821 IPv6"]);
    assert_eq!(names(r#","Mode":"auto","ListenPort":7"#, BOTH).unwrap(), ["flannel-wg 7 IPv4+IPv6"]);
    assert_eq!(names(r#","Mode":"ipv4""#, v4_only).unwrap(), ["flannel-wg 51820 IPv4"]);
    assert!(names(r#","Mode":"ipv6""#, v4_only).unwrap_err().starts_with("Backend.Mode is ipv6"));
    assert_eq!(devices(&options(""), BOTH, 1500).unwrap()[0].spec.mtu, 1420);
    assert_eq!(devices(&options(r#","MTU":1400"#), BOTH, 1500).unwrap()[1].spec.mtu, 1320);
    assert!(devices(&options(r#","MTU":100"#), BOTH, 1500).unwrap_err().contains("Backend.MTU"));
}

#[test]
fn separate_devices_have_a_peer_each() {
    let lease = lease(DUAL, "192.0.2.7", Some("fd77::7"));
    let both = backend("", BOTH);
    assert_eq!(peers(&both, &lease), ["4 192.0.2.7:1111 10.5.1.0-24", "5 [fd77::7]:2222 0.0.0.0-0&fd00:5:0:1::-64"]);
    let v4 = backend("", Own { families: Families::V4, ..BOTH });
    assert_eq!(peers(&v4, &lease), ["4 192.0.2.7:1111 10.5.1.0-24"]);
}

#[test]
fn one_device_has_one_peer_over_the_familys_choice() {
    let private = lease(DUAL, "10.0.0.7", Some("2001:db8::7"));
    let peer =
        |mode: &str, own: Own, lease: &Lease| peers(&backend(&format!(r#","Mode":"{mode}""#), own), lease).concat();
    assert_eq!(peer("ipv4", BOTH, &private), "4 10.0.0.7:1111 10.5.1.0-24&fd00:5:0:1::-64");
    assert_eq!(peer("ipv6", BOTH, &private), "4 [2001:db8::7]:1111 10.5.1.0-24&fd00:5:0:1::-64");
    assert_eq!(peer("auto", BOTH, &private), "4 [2001:db8::7]:1111 10.5.1.0-24&fd00:5:0:1::-64");
    let hidden = Own { v6_public: false, ..BOTH };
    assert_eq!(peer("auto", hidden, &private), "4 10.0.0.7:1111 10.5.1.0-24&fd00:5:0:1::-64");
    let public = lease(DUAL, "192.0.2.7", Some("2001:db8::7"));
    assert_eq!(peer("auto", BOTH, &public), "4 192.0.2.7:1111 10.5.1.0-24&fd00:5:0:1::-64");
    assert_eq!(peer("auto", BOTH, &lease(V4_ONLY, "10.0.0.7", None)), "4 10.0.0.7:1111 10.5.1.0-24");
}

#[test]
fn a_peer_has_the_shared_key_and_our_port_where_it_names_none() {
    let psk = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let backend = backend(&format!(r#","PSK":"{psk}","PersistentKeepaliveInterval":25,"ListenPort":9"#), BOTH);
    let mut old = lease(V4_ONLY, "192.0.2.7", None);
    old.attrs.backend_data = Some(format!(r#"{{"PublicKey":"{KEY}"}}"#));
    let expected = Peer {
        link: LinkIndex(4),
        key: KEY.parse().unwrap(),
        endpoint: "192.0.2.7:9".parse().unwrap(),
        allowed: Some(V4_ONLY.parse().unwrap()),
        psk: Some(psk.parse().unwrap()),
        keepalive: 25,
    };
    assert_eq!(backend.entries(&old, Families::EMPTY), Ok(vec![Entry::Peer(Box::new(expected))]));
}

#[test]
fn bad_leases_say_why_and_other_backends_are_passed_over() {
    let backend = backend("", Own { families: Families::V4, ..BOTH });
    let says = |lease: &Lease| backend.entries(lease, Families::EMPTY).unwrap_err().0;
    let mut lease = lease(V4_ONLY, "0.0.0.0", None);
    assert_eq!(says(&lease), "it has no public address of the family that carries the tunnel");
    lease.attrs.backend_data = None;
    assert_eq!(says(&lease), "BackendData is missing");
    lease.attrs.backend_data = Some(r#"{"PublicKey":"x"}"#.into());
    assert!(says(&lease).starts_with("BackendData.PublicKey is \"x\""));
    lease.attrs.backend_type = "vxlan".into();
    assert_eq!(backend.entries(&lease, Families::EMPTY), Ok(Vec::new()));
}
