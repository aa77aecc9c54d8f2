//! Every parser of bytes that come from etcd, a file or a flag: whatever it is given, it answers, in one line when it
//! refuses; and what it accepts, it writes back as the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use flannel_core::allocate;
use flannel_core::backend_config::{self, Extension, Ipip, Kind, Udp, Vxlan, Wireguard};
use flannel_core::config::NetworkConfig;
use flannel_core::family::Dual;
use flannel_core::flags::{self, Flag, Set, Stop};
use flannel_core::ipnet::{IpNet, Ipv4Net, Ipv6Net};
use flannel_core::key::{SubnetKey, etcd_key};
use flannel_core::lease::{LeaseAttrs, VxlanData};
use flannel_core::name::{IfName, Mac};
use flannel_core::subnet_env::{HostSubnet, PreviousSubnets, SubnetEnv};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Pieces that config, lease and file texts are made of, and such as have no business there.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "=",
    "\n",
    " ",
    "null",
    "true",
    "false",
    "-1",
    "0",
    "24",
    "31",
    "255",
    "1e999",
    "18446744073709551616",
    "0.5",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{fffd}",
    "é",
    "Network",
    "IPv6Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "Backend",
    "Type",
    "vxlan",
    "udp",
    "VNI",
    "Port",
    "MTU",
    "PublicIP",
    "PublicIPv6",
    "BackendType",
    "BackendData",
    "VtepMAC",
    "10.5.0.0/16",
    "10.5.0.0",
    "0.0.0.0/0",
    "fd00:5::/48",
    "::/0",
    "10.5.1.0-24",
    "&fd00::-64",
    "0.0.0.0-0",
    "02:00:00:00:00:01",
    "FLANNEL_SUBNET",
    "FLANNEL_MTU",
    "FLANNEL_NETWORK",
    "FLANNEL_IPV6_SUBNET",
    "10.5.1.1/24",
    "export ",
    "'",
    "#",
];

/// Texts good enough that a small change leads deep into a parser.
const NEARLY_GOOD: &[&str] = &[
    r#"{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.10.0","SubnetMax":"10.5.20.0","Backend":{"Type":"vxlan","VNI":7}}"#,
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","IPv6SubnetLen":64,"Backend":{"Type":"host-gw"}}"#,
    r#"{"PublicIP":"172.31.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"}}"#,
    r#"{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true,"Learning":true,"DirectRouting":false,"MTU":1400}"#,
    "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
    "/coreos.com/network/subnets/10.5.14.0-24&fd00:5:0:2e::-64",
];

/// Anything: random text, pieces in random order, good texts with a piece put in or cut out.
fn hostile() -> impl Strategy<Value = String> {
    let changed = (select(NEARLY_GOOD), any::<prop::sample::Index>(), 0..9_usize, select(PIECES));
    let changed = changed.prop_map(|(text, at, cut, piece)| {
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let rest = chars.iter().skip(at + cut);
        chars[..at].iter().copied().chain(piece.chars()).chain(rest.copied()).collect()
    });
    prop_oneof![any::<String>(), vec(select(PIECES), 0..30).prop_map(|pieces| pieces.concat()), changed,]
}

fn one_line(error: impl std::fmt::Display) -> Result<(), TestCaseError> {
    let text = error.to_string();
    prop_assert!(!text.is_empty() && !text.contains('\n') && !text.contains('\0'), "{text:?}");
    Ok(())
}

fn v4_net() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 1..=31_u8).prop_map(|(bits, len)| Ipv4Net::new(bits.into(), len).unwrap().trunc())
}

fn v6_net() -> impl Strategy<Value = Ipv6Net> {
    (any::<u128>(), 1..=127_u8).prop_map(|(bits, len)| Ipv6Net::new(bits.into(), len).unwrap().trunc())
}

fn key() -> impl Strategy<Value = SubnetKey> {
    (proptest::option::of(v4_net()), proptest::option::of(v6_net()))
        .prop_filter_map("one family at least", |(v4, v6)| SubnetKey::new(v4, v6))
}

/// JSON as a host may put it into its lease.
fn data() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            vec((any::<String>(), inner), 0..4).prop_map(|pairs| pairs.into_iter().collect::<serde_json::Value>()),
        ]
    });
    value.prop_map(|value| value.to_string())
}

fn attrs() -> impl Strategy<Value = LeaseAttrs> {
    let optional = || proptest::option::of(data());
    let v6 = proptest::option::of(any::<Ipv6Addr>());
    (any::<Ipv4Addr>(), v6, any::<String>(), optional(), optional()).prop_map(
        |(public_ip, public_ipv6, backend_type, backend_data, backend_v6_data)| LeaseAttrs {
            public_ip,
            public_ipv6,
            backend_type,
            backend_data,
            backend_v6_data,
        },
    )
}

const BACKENDS: &[Kind<()>] = &[
    Kind { name: "vxlan", read: |fields| _ = Vxlan::read(fields) },
    Kind { name: "udp", read: |fields| _ = Udp::read(fields) },
    Kind { name: "extension", read: |fields| _ = Extension::read(fields) },
    Kind { name: "ipip", read: |fields| _ = Ipip::read(fields) },
    Kind { name: "wireguard", read: |fields| _ = Wireguard::read(fields) },
    Kind { name: "alloc", read: |_| () },
];

proptest! {
    // A failing input is printed; no file beside the tests is written.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_round_trip_below_any_prefix(key in key(), prefix in "[a-z0-9/.&-]{0,20}") {
        prop_assert_eq!(key.to_string().parse::<SubnetKey>().unwrap(), key);
        prop_assert_eq!(SubnetKey::from_etcd_key(&format!("{prefix}/subnets/{key}")).unwrap(), key);
    }

    #[test]
    fn keys_of_any_text_are_refused_or_canonical(text in hostile()) {
        for parsed in [text.parse::<SubnetKey>(), SubnetKey::from_etcd_key(&text)] {
            match parsed {
                Ok(key) => {
                    prop_assert_eq!(key.to_string().parse::<SubnetKey>().unwrap(), key);
                    // A lease of everything would take the default route of every host.
                    prop_assert!(key.nets().all(|net| net.prefix_len() > 0), "{}", key);
                }
                Err(bad) => one_line(bad)?,
            }
        }
    }

    #[test]
    fn joined_keys_are_clean(prefix in "[a-z./]{0,20}") {
        let joined = etcd_key(&prefix, "subnets");
        prop_assert!(!joined.contains("//") && !joined.ends_with('/') && !joined.contains("/./"), "{}", joined);
        prop_assert_eq!(prefix.starts_with('/'), joined.starts_with('/'));
        prop_assert!(joined.ends_with("subnets"));
        prop_assert_eq!(etcd_key(&joined, ""), joined);
    }

    #[test]
    fn lease_values_round_trip(attrs in attrs()) {
        let read = LeaseAttrs::from_json(&attrs.to_json()).unwrap();
        prop_assert_eq!(read, attrs);
    }

    #[test]
    fn lease_values_of_any_text_are_refused_or_stable(text in hostile()) {
        match LeaseAttrs::from_json(&text) {
            Ok(attrs) => prop_assert_eq!(LeaseAttrs::from_json(&attrs.to_json()).unwrap(), attrs),
            Err(bad) => one_line(bad)?,
        }
        match VxlanData::from_json(&text) {
            Ok(data) => prop_assert_eq!(VxlanData::from_json(&data.to_json()).unwrap(), data),
            Err(bad) => one_line(bad)?,
        }
    }

    #[test]
    fn configs_of_any_text_are_refused_or_usable(text in hostile(), seed in any::<u64>()) {
        match NetworkConfig::parse(&text) {
            Ok(config) => {
                prop_assert!(!config.ranges.is_empty());
                for range in config.ranges.values() {
                    prop_assert!(range.network.contains(&range.min) && range.network.contains(&range.max), "{:?}", range);
                    prop_assert!(range.subnet_len > range.network.prefix_len(), "{:?}", range);
                    let picked = allocate::pick(range, [], &mut fastrand::Rng::with_seed(seed));
                    prop_assert!(picked.is_none_or(|net| range.fits(&net)), "{:?} {:?}", range, picked);
                    prop_assert_eq!(picked.is_none(), range.min > range.max);
                }
                if let Err(bad) = backend_config::parse(&config.backend, BACKENDS) {
                    one_line(bad)?;
                }
            }
            Err(bad) => one_line(bad)?,
        }
    }

    #[test]
    fn backends_of_any_text_are_refused_or_named(text in hostile()) {
        match backend_config::parse(&text, BACKENDS) {
            Ok((name, ())) => prop_assert!(BACKENDS.iter().any(|kind| kind.name == name)),
            Err(bad) => one_line(bad)?,
        }
    }

    #[test]
    fn subnet_files_round_trip(
        v4 in (v4_net(), any::<u32>()),
        v6 in (v6_net(), any::<u128>()),
        families in select(&[(true, false), (false, true), (true, true)][..]),
        mtu in any::<u32>(),
        ip_masq in any::<bool>(),
    ) {
        let (v4, v6) = (Some(v4).filter(|_| families.0), Some(v6).filter(|_| families.1));
        // A gateway inside the network, with a length of its own.
        let v4 = v4.map(|(network, bits)| {
            let ip = network.addr().to_bits() | (bits & network.hostmask().to_bits());
            HostSubnet { network: network.into(), gateway: Ipv4Net::new(ip.into(), 32).unwrap().into() }
        });
        let v6 = v6.map(|(network, bits)| {
            let ip = network.addr().to_bits() | (bits & network.hostmask().to_bits());
            HostSubnet { network: network.into(), gateway: Ipv6Net::new(ip.into(), 128).unwrap().into() }
        });
        let env = SubnetEnv { subnets: Dual { v4, v6 }, mtu, ip_masq };
        let text = env.render();
        prop_assert_eq!(&SubnetEnv::parse(&text).unwrap(), &env);
        let previous = PreviousSubnets::parse(&text);
        prop_assert_eq!(previous.v4.map(IpNet::V4), env.subnets.v4.map(|s| s.gateway));
        prop_assert_eq!(previous.v6.map(IpNet::V6), env.subnets.v6.map(|s| s.gateway));
    }

    #[test]
    fn subnet_files_of_any_text_are_refused_or_stable(text in hostile()) {
        match SubnetEnv::parse(&text) {
            Ok(env) => prop_assert_eq!(SubnetEnv::parse(&env.render()).unwrap(), env),
            Err(bad) => one_line(bad)?,
        }
        let previous = PreviousSubnets::parse(&text);
        prop_assert!(previous.v4.is_none_or(|net| net == net.trunc()));
        prop_assert!(previous.v6.is_none_or(|net| net == net.trunc()));
    }

    #[test]
    fn names_and_macs_of_any_text(text in hostile(), bytes in any::<[u8; 6]>()) {
        prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        match text.parse::<Mac>() {
            Ok(mac) => prop_assert_eq!(mac.to_string(), text.to_lowercase().replace('-', ":")),
            Err(bad) => one_line(bad)?,
        }
        match IfName::new(text.as_str()) {
            Ok(name) => {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!((1..=15).contains(&text.len()));
            }
            Err(bad) => one_line(bad)?,
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    text: String,
    list: Vec<String>,
    on: bool,
    number: i64,
}

const TABLE: &[Flag<Options>] = &[
    Flag { name: "text", set: Set::Text(|o: &mut Options, v| o.text = v), default: "", help: "" },
    Flag { name: "list", set: Set::List(|o: &mut Options, v| o.list.push(v)), default: "", help: "" },
    Flag { name: "on", set: Set::Bool(|o: &mut Options, v| o.on = v), default: "", help: "" },
    Flag { name: "number", set: Set::Int(|o: &mut Options, v| o.number = v), default: "", help: "" },
];

fn read(args: Vec<String>, variable: &str) -> (Options, Result<flags::Leftover, Stop>) {
    let mut options = Options::default();
    let left = flags::parse(TABLE, &mut options, args, "X", |_| Some(variable.to_owned()));
    (options, left)
}

fn word() -> impl Strategy<Value = String> {
    let words =
        ["-text", "--list", "-on", "-on=", "-number=", "--number", "-", "--", "---", "-=", "-h", "-nosuch", "0x", "08"];
    prop_oneof![
        any::<String>(),
        select(words.to_vec()).prop_map(str::to_owned),
        (select(words.to_vec()), any::<String>()).prop_map(|(start, rest)| format!("{start}{rest}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_command_line_is_answered(args in vec(word(), 0..8), variable in any::<String>()) {
        match read(args.clone(), &variable).1 {
            Ok(left) => {
                // Words after the flags are the last ones given.
                prop_assert!(args.ends_with(&left.words), "{:?} {:?}", args, left.words);
                for bad in left.bad_variables {
                    one_line(bad)?;
                }
            }
            Err(stop) => one_line(stop)?,
        }
    }

    #[test]
    fn values_arrive_as_they_were_given(text in any::<String>(), list in vec(any::<String>(), 0..4), number in any::<i64>()) {
        let mut args = vec![format!("-text={text}"), "--number".to_owned(), number.to_string(), "-on".to_owned()];
        args.extend(list.iter().flat_map(|item| ["-list".to_owned(), item.clone()]));
        let (options, left) = read(args, "");
        prop_assert_eq!(left.unwrap(), flags::Leftover::default());
        prop_assert_eq!(options, Options { text, list, on: true, number });
    }

    #[test]
    fn numbers_are_read_in_every_base(number in 0..=i64::MAX) {
        for text in [format!("{number}"), format!("{number:#x}"), format!("{number:#X}").replace("0X", "0x"), format!("{number:#o}"), format!("0{number:o}"), format!("{number:#b}")] {
            let (options, left) = read(vec![format!("-number={text}")], "");
            prop_assert!(left.is_ok(), "{}: {:?}", text, left);
            prop_assert_eq!(options.number, number, "{}", text);
        }
    }
}

/// The largest networks with the smallest subnets: a pick takes no longer than elsewhere.
#[test]
fn a_pick_from_an_endless_range_ends() {
    for text in [
        r#"{"Network":"0.0.0.0/1","SubnetLen":30}"#,
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"8000::/1","IPv6SubnetLen":126}"#,
    ] {
        let config = NetworkConfig::parse(text).unwrap();
        let range = config.ranges.values().next().unwrap();
        let taken = |n: u128| match range.min {
            std::net::IpAddr::V4(ip) => {
                IpNet::new(Ipv4Addr::from_bits(ip.to_bits() + 4 * n as u32).into(), 30).unwrap()
            }
            std::net::IpAddr::V6(ip) => IpNet::new(Ipv6Addr::from_bits(ip.to_bits() + 4 * n).into(), 126).unwrap(),
        };
        let picked = allocate::pick(range, (0..1000).map(taken), &mut fastrand::Rng::with_seed(1)).unwrap();
        assert!(range.fits(&picked) && (0..1000).all(|n| taken(n) != picked));
    }
}
