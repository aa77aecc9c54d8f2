use super::*;

fn read(line: &str) -> Options {
    Options::read(line.split_whitespace().map(str::to_owned), |_| None).unwrap().0
}

// parity: daemon/tests/vectors/recorded/cli/help.stderr
#[test]
fn every_flag_of_upstream_is_known() {
    for name in "etcd-cafile etcd-certfile etcd-endpoints etcd-keyfile etcd-password etcd-prefix etcd-username \
        healthz-ip healthz-port iface iface-can-reach iface-regex ip-blackhole-route ip-masq ip-masq-fully-random-disable \
        iptables-forward-rules iptables-resync kube-annotation-prefix kube-api-url kube-subnet-mgr \
        kubeconfig-file log_backtrace_at net-config-path public-ip public-ipv6 set-node-network-unavailable \
        subnet-file subnet-lease-renew-margin v version vmodule"
        .split_whitespace()
    {
        assert!(table().iter().any(|f| f.name == name), "-{name} is missing");
    }
}

#[test]
fn values_out_of_range_name_the_flag() {
    for (line, words) in [
        ("-subnet-lease-renew-margin=0", "-subnet-lease-renew-margin: 0 is not within 1 and 1439"),
        ("-subnet-lease-renew-margin=1440", "-subnet-lease-renew-margin: 1440 is not"),
        ("-subnet-lease-renew-margin -5", "-subnet-lease-renew-margin: -5 is not"),
        ("-public-ip=fd00::1", "-public-ip: \"fd00::1\" is not an IPv4 address"),
        ("-tx-checksum=maybe", "-tx-checksum: \"maybe\" is not auto, on or off"),
        ("-iface-can-reach=x", "-iface-can-reach: \"x\" is not an IP address"),
        ("-kube-subnet-mgr", "-kube-subnet-mgr: this daemon keeps its leases in etcd"),
        ("-healthz-port=70000", "-healthz-port: 70000 is not a TCP port"),
    ] {
        let error = read(line).check().expect_err(line);
        assert!(error.contains(words), "{line}: {error}");
    }
    assert_eq!(read("-kube-subnet-mgr=false -subnet-lease-renew-margin=1439").check(), Ok(()));
}

#[test]
fn all_mistakes_are_reported() {
    let error = read("-public-ip=x -tx-checksum=maybe -subnet-lease-renew-margin=0").check().unwrap_err();
    assert_eq!(error.split("; ").count(), 3, "{error}");
}

#[test]
fn the_usage_states_the_defaults() {
    let defaults = format!("{:?}", Options::default());
    for flag in table().iter().filter(|flag| !flag.default.is_empty()) {
        let line = format!("-{}={}", flag.name, flag.default);
        assert_eq!(format!("{:?}", read(&line)), defaults, "{line}");
    }
}

#[test]
fn the_password_is_not_printed() {
    let options = read("-etcd-username=root -etcd-password=hunter2");
    assert!(!format!("{options:?}").contains("hunter2"));
}
