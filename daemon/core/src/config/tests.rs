//! The inputs of daemon/tests/vectors/recorded/config-validation with upstream's verdicts and our messages.

use super::*;

fn range(text: &str) -> Range {
    NetworkConfig::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).ranges.v4.unwrap()
}

fn says(text: &str) -> String {
    NetworkConfig::parse(text).expect_err(text).to_string()
}

/// Network, first and last subnet to pick from, and subnet length, as upstream logged them.
#[test]
fn good_configs_give_upstreams_ranges() {
    for (text, network, min, max, len) in [
        (r#"{"Network":"10.5.0.0/16"}"#, "10.5.0.0/16", "10.5.1.0", "10.5.255.0", 24),
        (r#"{"Network":"10.5.3.7/16"}"#, "10.5.0.0/16", "10.5.1.0", "10.5.255.0", 24),
        (
            r#"{"network":"10.5.0.0/16","backend":{"type":"alloc"},"unknownkey":1}"#,
            "10.5.0.0/16",
            "10.5.1.0",
            "10.5.255.0",
            24,
        ),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":30}"#, "10.5.0.0/16", "10.5.0.4", "10.5.255.252", 30),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":18}"#, "10.5.0.0/16", "10.5.64.0", "10.5.192.0", 18),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":0}"#, "10.5.0.0/16", "10.5.1.0", "10.5.255.0", 24),
        (r#"{"Network":"10.5.0.0/28"}"#, "10.5.0.0/28", "10.5.0.4", "10.5.0.12", 30),
        (r#"{"Network":"10.5.0.0/23"}"#, "10.5.0.0/23", "10.5.0.128", "10.5.1.128", 25),
        (r#"{"Network":"10.5.0.0/22"}"#, "10.5.0.0/22", "10.5.1.0", "10.5.3.0", 24),
        (r#"{"Network":"10.0.0.0/8"}"#, "10.0.0.0/8", "10.0.1.0", "10.255.255.0", 24),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0"}"#,
            "10.5.0.0/16",
            "10.5.9.0",
            "10.5.3.0",
            24,
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0"}"#,
            "10.5.0.0/16",
            "10.5.0.0",
            "10.5.0.0",
            24,
        ),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"0.0.0.0"}"#, "10.5.0.0/16", "10.5.1.0", "10.5.255.0", 24),
    ] {
        let expected = Range {
            network: network.parse().unwrap(),
            subnet_len: len,
            min: min.parse().unwrap(),
            max: max.parse().unwrap(),
        };
        assert_eq!(range(text), expected, "{text}");
    }
}

#[test]
fn a_missing_backend_is_udp_and_others_are_kept_as_written() {
    assert_eq!(NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap().backend, r#"{"Type":"udp"}"#);
    for backend in ["{}", "null", r#"{"Type":"vxlan","VNI":7}"#] {
        let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
        assert_eq!(NetworkConfig::parse(&text).unwrap().backend, backend);
    }
}

#[test]
fn ipv6_has_the_same_rules() {
    let text = r#"{"EnableIPv6":true,"EnableIPv4":false,"IPv6Network":"fd00:5::/48"}"#;
    let config = NetworkConfig::parse(text).unwrap();
    assert_eq!(config.ranges.v4, None);
    let range = config.ranges.v6.unwrap();
    assert_eq!((range.min, range.max), ("fd00:5:0:1::".parse().unwrap(), "fd00:5:0:ffff::".parse().unwrap()));
    assert_eq!(range.subnet_len, 64);
    assert!(range.fits(&"fd00:5:0:1::/64".parse().unwrap()) && !range.fits(&"fd00:5::/64".parse().unwrap()));
}

#[test]
fn bad_configs_name_the_key_and_the_remedy() {
    for (text, words) in [
        ("{}", "Network is missing: set it, for example to \"10.5.0.0/16\""),
        ("null", "Network is missing: set it, for example to \"10.5.0.0/16\""),
        ("[]", "no JSON object: invalid type: sequence, expected a JSON object at line 1 column"),
        ("not json", "not JSON: expected ident at line 1 column 2"),
        (r#"{"Network":"10.5.0.0"}"#, "Network \"10.5.0.0\" is not a network in CIDR form like 10.5.0.0/16"),
        (r#"{"Network":"fd00::/48"}"#, "Network \"fd00::/48\" is not a network in CIDR form like 10.5.0.0/16"),
        (r#"{"Network":"0.0.0.0/0"}"#, "Network is missing: set it, for example to \"10.5.0.0/16\""),
        (r#"{"Network":"10.5.0.0/16","Backend":"alloc"}"#, "Backend is no JSON object"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#, "SubnetLen 31 is too long: /30 is the longest useful subnet"),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#,
            "SubnetLen 17 leaves Network 10.5.0.0/16 fewer than four subnets: make it 18 or more",
        ),
        (
            r#"{"Network":"10.5.0.0/24","SubnetLen":24}"#,
            "SubnetLen 24 leaves Network 10.5.0.0/24 fewer than four subnets: make it 26 or more",
        ),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":-1}"#, "SubnetLen is -1, which is not a prefix length in bits"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":"24"}"#, "SubnetLen is \"24\", which is not a prefix length in bits"),
        (r#"{"Network":"10.5.0.0/29"}"#, "Network 10.5.0.0/29 is too small: /28 is the smallest useful network"),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#, "SubnetMin 10.6.0.0 lies outside Network 10.5.0.0/16"),
        (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.4.0.0"}"#, "SubnetMax 10.4.0.0 lies outside Network 10.5.0.0/16"),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.1"}"#,
            "SubnetMin 10.5.0.1 is not the base of a /24 subnet (SubnetLen)",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.1"}"#,
            "SubnetMax 10.5.9.1 is not the base of a /24 subnet (SubnetLen)",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0/24"}"#,
            "SubnetMin is \"10.5.1.0/24\", which is not an IPv4 address: leave SubnetMin out for its default",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":""}"#,
            "SubnetMin is \"\", which is not an IPv4 address: leave SubnetMin out for its default",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":null}"#,
            "SubnetMin is null, which is not an IPv4 address: leave SubnetMin out for its default",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16"}"#,
            "IPv6Network is missing: set it, for example to \"fd00:5::/48\"",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/125"}"#,
            "IPv6Network fd00::/125 is too small: /124 is the smallest useful network",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetLen":127}"#,
            "IPv6SubnetLen 127 is too long: /126 is the longest useful subnet",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetLen":49}"#,
            "IPv6SubnetLen 49 leaves IPv6Network fd00::/48 fewer than four subnets: make it 50 or more",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetMin":"fd01::"}"#,
            "IPv6SubnetMin fd01:: lies outside IPv6Network fd00::/48",
        ),
        (
            r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetMin":"fd00::1"}"#,
            "IPv6SubnetMin fd00::1 is not the base of a /64 subnet (IPv6SubnetLen)",
        ),
    ] {
        assert!(says(text).starts_with(words), "{text}\n  says:     {}\n  expected: {words}", says(text));
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = r#"{"EnableIPv4":"yes","Network":"10.5.0.0/16","SubnetLen":33,"SubnetMin":"x","Backend":[]}"#;
    let error = NetworkConfig::parse(text).unwrap_err();
    assert_eq!(error.mistakes.len(), 4, "{error}");
    assert!(!error.fatal);
}

#[test]
fn both_families_off_is_final() {
    let error = NetworkConfig::parse(r#"{"EnableIPv4":false,"Network":"10.5.0.0/16"}"#).unwrap_err();
    assert!(error.fatal);
    assert_eq!(error.to_string(), "EnableIPv4 and EnableIPv6 are both false: switch one on");
}
