//! What is ours beyond the recorded runs, which are run through the program.

use proptest::prelude::*;

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const LEASE: [(&str, &str); 3] =
    [("FLANNEL_SUBNET", "10.5.72.1/24"), ("FLANNEL_MTU", "1450"), ("FLANNEL_IPMASQ", "true")];

fn pool(size: u8) -> Wanted {
    Wanted { address_pool: Some(size), ..Wanted::default() }
}

#[test]
fn a_pool_leaves_the_first_part_to_dockers_own_bridge() {
    let made = derive(&pool(26), variables(&LEASE)).unwrap();
    assert_eq!(
        made.text,
        "DOCKER_OPT_ADDRESS_POOL=\"--default-address-pool=base=10.5.72.0/24,size=26\"\n\
         DOCKER_OPT_BIP=\"--bip=10.5.72.1/26\"\n\
         DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
         DOCKER_OPT_MTU=\"--mtu=1450\"\n\
         DOCKER_OPTS=\" --default-address-pool=base=10.5.72.0/24,size=26 --bip=10.5.72.1/26 --ip-masq=false \
         --mtu=1450\"\n"
    );
    assert_eq!(made.subnet, Some("10.5.72.0/24".parse().unwrap()));
}

#[test]
fn a_pool_must_be_a_part_of_the_lease() {
    for good in [25, 30] {
        assert!(derive(&pool(good), variables(&LEASE)).is_ok(), "{good}");
    }
    for bad in [0, 16, 24, 31, 32, 33, 255] {
        let error = derive(&pool(bad), variables(&LEASE)).expect_err("a bad size").to_string();
        assert_eq!(error, format!("-address-pool={bad} gives no parts of the lease 10.5.72.0/24: make it 25 to 30"));
    }
    let small = derive(&pool(30), variables(&[("FLANNEL_SUBNET", "10.5.72.5/30")])).unwrap_err();
    assert_eq!(small, BadVariable::TooSmall("10.5.72.4/30".parse().unwrap()));
    assert_eq!(derive(&pool(26), variables(&LEASE[1..])), Err(BadVariable::NoSubnet));
}

#[test]
fn a_value_docker_would_stumble_over_is_refused() {
    for (name, value, words) in [
        ("FLANNEL_SUBNET", "10.5.72.1", "FLANNEL_SUBNET=\"10.5.72.1\" is not an IPv4 address with its prefix length"),
        ("FLANNEL_SUBNET", "fd00::1/64", "FLANNEL_SUBNET=\"fd00::1/64\" is not an IPv4 address"),
        ("FLANNEL_MTU", "big", "FLANNEL_MTU=\"big\" is not a number of bytes"),
        ("FLANNEL_IPMASQ", "maybe", "FLANNEL_IPMASQ=\"maybe\" is not true or false"),
    ] {
        let error = derive(&Wanted::default(), variables(&[(name, value)])).expect_err(value).to_string();
        assert!(error.starts_with(words), "{error}");
    }
    // An empty value is none, as to upstream.
    let empty = derive(&Wanted::default(), variables(&[("FLANNEL_SUBNET", ""), ("FLANNEL_MTU", "")])).unwrap();
    assert_eq!(empty.text, "DOCKER_OPTS=\"\"\n");
}

#[test]
fn what_was_written_reads_back() {
    let odd = "--log-opt=tag=\"a b\" $HOME `x` \\n";
    let made = derive(&Wanted::default(), variables(&[("DOCKER_OPT_FOO", odd)])).unwrap();
    assert_eq!(
        assignments::parse(&made.text).unwrap(),
        [("DOCKER_OPT_FOO".to_owned(), odd.to_owned()), ("DOCKER_OPTS".to_owned(), format!(" {odd}"))]
    );
}

proptest! {
    #[test]
    fn any_value_reads_back(value in "(?s)[^\\x00]{1,40}") {
        let made = derive(&Wanted { individual: true, combined: false, ..Wanted::default() }, variables(&[("DOCKER_OPT_FOO", &value)]));
        prop_assert_eq!(
            assignments::parse(&made.unwrap().text),
            Ok(vec![("DOCKER_OPT_FOO".to_owned(), value)])
        );
    }

    /// Whatever the file holds: assignments, or a line that exists.
    #[test]
    fn any_text_is_read_or_refused(text in "(?s)([A-Z=#'\"\\\\ \\n;$]|export |.){0,60}") {
        match assignments::parse(&text) {
            Ok(read) => prop_assert!(read.iter().all(|(name, _)| assignments::is_name(name))),
            Err(bad) => prop_assert!((1..=text.matches('\n').count() + 1).contains(&bad.line), "{}", bad),
        }
    }
}
