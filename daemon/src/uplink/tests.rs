//! The host of daemon/tests/vectors/recorded/iface-selection: lo; br7 172.31.99.9/24; eth0 169.254.9.9/16, 172.31.78.3/24, 172.31.78.33/24.

use super::*;
use crate::kernel::host::Address;

fn address(text: &str, host: bool) -> Address {
    Address { ip: text.parse().unwrap(), permanent: true, secondary: false, deprecated: false, host }
}

fn host() -> Vec<Interface> {
    let interface =
        |index, name: &str, mtu, addresses| Interface { index: LinkIndex(index), name: name.into(), mtu, addresses };
    vec![
        interface(1, "lo", 65536, vec![address("127.0.0.1", true), address("::1", true)]),
        interface(7, "br7", 1400, vec![address("172.31.99.9", false), address("fe80::9cf0:45ff:fe8d:d47c", false)]),
        interface(
            17,
            "eth0",
            1500,
            vec![
                address("169.254.9.9", false),
                address("172.31.78.3", false),
                address("172.31.78.33", false),
                address("fe80::ee:ff:fe00:3", false),
            ],
        ),
    ]
}

const V4: Families = Families::V4;
const V6: Families = Families::V6;
const DUAL: Families = Families::BOTH;

fn complete(choice: Result<Choice<'_>, String>, families: Families) -> Result<ExternalInterface, String> {
    choice?.complete(&IfaceOptions::default(), families)
}

fn chosen(choice: Result<Choice<'_>, String>) -> (String, String) {
    let uplink = complete(choice, V4).unwrap();
    (uplink.name.to_string(), uplink.v4.unwrap().own.to_string())
}

fn pair(name: &str, ip: &str) -> (String, String) {
    (name.into(), ip.into())
}

// parity: daemon/tests/vectors/recorded/iface-selection/STEPS.txt
#[test]
fn names_and_addresses_as_upstream() {
    let host = host();
    assert_eq!(chosen(by_value(&host, "br7", V4)), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_value(&host, "eth0", V4)), pair("eth0", "172.31.78.3"));
    assert_eq!(chosen(by_value(&host, "172.31.78.33", V4)), pair("eth0", "172.31.78.33"));
    assert_eq!(complete(by_value(&host, "lo", V4), V4).unwrap_err(), "interface lo has no usable IPv4 address");
    for missing in ["172.31.78.33/24", "nosuch"] {
        let error = by_value(&host, missing, V4).unwrap_err();
        assert!(error.starts_with("there is no such interface; there are lo, br7 (172.31.99.9), eth0 ("), "{error}");
    }
    assert!(by_value(&host, "203.0.113.1", V4).unwrap_err().starts_with("no interface has this address"));
}

// parity: daemon/tests/vectors/recorded/iface-selection/STEPS.txt
#[test]
fn patterns_match_addresses_before_names() {
    let host = host();
    assert_eq!(chosen(by_regex(&host, "^br", V4)), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_regex(&host, r"172\.31\.9", V4)), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_regex(&host, "eth", V4)), pair("eth0", "172.31.78.3"));
    assert_eq!(chosen(by_regex(&host, r"78\.33$", V4)), pair("eth0", "172.31.78.33"));
    assert!(by_regex(&host, "nomatch.*", V4).unwrap_err().starts_with("it matches no address and no name"));
    assert!(by_regex(&host, "(", V4).unwrap_err().starts_with("it is no regular expression"));
}

#[test]
fn ways_come_in_upstreams_order() {
    let options = IfaceOptions {
        names: vec!["a".into(), String::new()],
        regexes: vec!["b".into()],
        can_reach: "192.0.2.1".into(),
        ..IfaceOptions::default()
    };
    assert_eq!(
        ways(&options, V4),
        [Way::Given("iface", "a"), Way::DefaultRoute, Way::Regex("b"), Way::CanReach("192.0.2.1")]
    );
    assert_eq!(ways(&IfaceOptions::default(), V4), [Way::DefaultRoute]);
    let public = IfaceOptions { public_ip: "192.0.2.1".into(), ..IfaceOptions::default() };
    assert_eq!(ways(&public, V4), [Way::Given("public-ip", "192.0.2.1")]);
    assert_eq!(ways(&public, V6), [Way::DefaultRoute]);
}

#[test]
fn the_public_address_need_not_be_the_interfaces() {
    let host = host();
    let options = |public: &str| IfaceOptions { public_ip: public.into(), ..IfaceOptions::default() };
    let uplink = Choice::of(&host[2]).complete(&options("203.0.113.7"), V4).unwrap();
    let addresses = Addresses { own: [172, 31, 78, 3].into(), public: [203, 0, 113, 7].into() };
    assert_eq!((uplink.v4, uplink.v6), (Some(addresses), None));
    assert!(Choice::of(&host[2]).complete(&options("garbage"), V4).unwrap_err().contains("-public-ip"));
}

#[test]
fn both_families_come_from_one_interface() {
    let mut host = host();
    host[2].addresses.push(address("fd77::3", false));
    let uplink = complete(by_value(&host, "172.31.78.33", DUAL), DUAL).unwrap();
    assert_eq!(uplink.publics().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["172.31.78.33", "fd77::3"]);
    let uplink = complete(by_value(&host, "fd77::3", DUAL), DUAL).unwrap();
    assert_eq!(uplink.publics().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["172.31.78.3", "fd77::3"]);
    let uplink = complete(by_value(&host, "eth0", V6), V6).unwrap();
    assert_eq!(uplink.publics().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["fd77::3"]);
    // br7 has a matching IPv4 address, but eth0 is the first with both.
    let uplink = complete(by_regex(&host, r"^(172\.31\.|fd77)", DUAL), DUAL).unwrap();
    assert_eq!(uplink.name.as_str(), "eth0");
    // Link-local addresses do where there is no other.
    let uplink = complete(by_value(&host, "br7", V6), V6).unwrap();
    assert!(uplink.v6.unwrap().own.is_unicast_link_local());
    assert_eq!(complete(by_value(&host, "lo", V6), V6).unwrap_err(), "interface lo has no usable IPv6 address");
}

#[test]
fn better_addresses_come_first() {
    let mut interface = host().remove(2);
    interface.addresses[1].permanent = false;
    interface.addresses[2].secondary = true;
    assert_eq!(usable(&interface, Family::V4)[0], IpAddr::from([172, 31, 78, 33]));
    interface.addresses[2].deprecated = true;
    assert_eq!(usable(&interface, Family::V4)[0], IpAddr::from([172, 31, 78, 3]));
    interface.addresses.truncate(1);
    assert_eq!(usable(&interface, Family::V4), [IpAddr::from([169, 254, 9, 9])]);
}
