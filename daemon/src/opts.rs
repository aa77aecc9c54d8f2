//! The daemon's flags: upstream's names, defaults and meanings (docs/upstream.md, section 1).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use flannel_core::flags::{self, Flag, Leftover, Set, Stop};
use flannel_core::subnet_env;

use crate::subnet::TTL;

/// What the command line and the environment say.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Options {
    /// How etcd is reached.
    pub etcd: EtcdOptions,
    /// Which interface carries the traffic between hosts.
    pub iface: IfaceOptions,
    /// Where `subnet.env` goes.
    pub subnet_file: PathBuf,
    /// How long the lease is asked for; other than a day only in tests.
    pub lease_ttl: Duration,
    renew_margin_minutes: i64,
    /// Masquerade what leaves the flannel network.
    pub ip_masq: bool,
    /// Leave out `--random-fully`.
    pub random_fully_off: bool,
    /// Accept forwarded traffic of the flannel network.
    pub forward_rules: bool,
    /// A blackhole route for the own subnet.
    pub blackhole: bool,
    /// Whether the vxlan device checksums what it sends itself.
    pub tx_checksum: String,
    resync_seconds: i64,
    healthz_ip: String,
    healthz_port: i64,
    /// Where the daemon remembers what must outlive a reboot.
    pub state_dir: PathBuf,
    /// Run `flannel-docker` beside the daemon.
    pub docker_plugin: bool,
    /// Log level: 0 is usual, more is more.
    pub verbosity: i64,
    /// Print the version and exit.
    pub version: bool,
    /// Say whether flags and config are good, and exit.
    pub check_config: bool,
    kubernetes: Vec<&'static str>,
}

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Comma list of URLs.
    pub endpoints: String,
    /// Where the config and the leases are.
    pub prefix: String,
    /// Client key, PEM.
    pub keyfile: String,
    /// Client certificate, PEM.
    pub certfile: String,
    /// Certificate authority, PEM.
    pub cafile: String,
    /// User name; counts with a password only.
    pub username: String,
    /// Password; never printed.
    pub password: String,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} as {:?}", self.endpoints, self.prefix, self.username)
    }
}

/// Which interface carries the traffic between hosts, and the address told to the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IfaceOptions {
    /// `-iface`: names or addresses, in order.
    pub names: Vec<String>,
    /// `-iface-regex`: patterns over addresses and names, in order.
    pub regexes: Vec<String>,
    /// `-iface-can-reach`: an address; empty for none.
    pub can_reach: String,
    /// `-public-ip`; empty for none.
    pub public_ip: String,
    /// `-public-ipv6`; empty for none.
    pub public_ipv6: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            etcd: EtcdOptions {
                endpoints: "http://127.0.0.1:4001,http://127.0.0.1:2379".into(),
                prefix: "/coreos.com/network".into(),
                keyfile: String::new(),
                certfile: String::new(),
                cafile: String::new(),
                username: String::new(),
                password: String::new(),
            },
            iface: IfaceOptions::default(),
            subnet_file: subnet_env::DEFAULT_PATH.into(),
            lease_ttl: TTL,
            renew_margin_minutes: 60,
            ip_masq: false,
            random_fully_off: false,
            forward_rules: true,
            blackhole: false,
            tx_checksum: "auto".into(),
            resync_seconds: 5,
            healthz_ip: "0.0.0.0".into(),
            healthz_port: 0,
            state_dir: "/var/lib/flannel".into(),
            docker_plugin: false,
            verbosity: 0,
            version: false,
            check_config: false,
            kubernetes: Vec::new(),
        }
    }
}

/// For tests alone, which can't wait a day for a lease to run out: its time to live in seconds.
pub const TEST_TTL: &str = "FLANNEL_TEST_LEASE_TTL";

type O = Options;

/// Every flag of upstream, and ours behind them. The Kubernetes ones are known so that they can be answered.
#[rustfmt::skip]
const TABLE: &[Flag<Options>] = &[
    Flag { name: "etcd-cafile", set: Set::Text(|o: &mut O, v| o.etcd.cafile = v), default: "", help: "PEM file of the certificate authority of etcd's certificate" },
    Flag { name: "etcd-certfile", set: Set::Text(|o: &mut O, v| o.etcd.certfile = v), default: "", help: "PEM file of the client certificate for etcd" },
    Flag { name: "etcd-endpoints", set: Set::Text(|o: &mut O, v| o.etcd.endpoints = v), default: "\"http://127.0.0.1:4001,http://127.0.0.1:2379\"", help: "comma list of etcd URLs" },
    Flag { name: "etcd-keyfile", set: Set::Text(|o: &mut O, v| o.etcd.keyfile = v), default: "", help: "PEM file of the client certificate's key" },
    Flag { name: "etcd-password", set: Set::Text(|o: &mut O, v| o.etcd.password = v), default: "", help: "password of the etcd user" },
    Flag { name: "etcd-prefix", set: Set::Text(|o: &mut O, v| o.etcd.prefix = v), default: "\"/coreos.com/network\"", help: "where config and leases are in etcd" },
    Flag { name: "etcd-username", set: Set::Text(|o: &mut O, v| o.etcd.username = v), default: "", help: "etcd user" },
    Flag { name: "healthz-ip", set: Set::Text(|o: &mut O, v| o.healthz_ip = v), default: "\"0.0.0.0\"", help: "address of the health server" },
    Flag { name: "healthz-port", set: Set::Int(|o: &mut O, v| o.healthz_port = v), default: "0", help: "TCP port of the health server, 0 for none" },
    Flag { name: "iface", set: Set::List(|o: &mut O, v| o.iface.names.push(v)), default: "", help: "interface (name or address) between the hosts; given several times, the first that fits" },
    Flag { name: "iface-can-reach", set: Set::Text(|o: &mut O, v| o.iface.can_reach = v), default: "", help: "take the interface that the route to this address leaves by" },
    Flag { name: "iface-regex", set: Set::List(|o: &mut O, v| o.iface.regexes.push(v)), default: "", help: "take the first interface with an address, or else a name, that matches; tried after -iface" },
    Flag { name: "ip-blackhole-route", set: Set::Bool(|o: &mut O, v| o.blackhole = v), default: "", help: "add a blackhole route for the own subnet, behind every other route, so that nothing of it leaks" },
    Flag { name: "ip-masq", set: Set::Bool(|o: &mut O, v| o.ip_masq = v), default: "", help: "masquerade traffic that leaves the flannel network" },
    Flag { name: "ip-masq-fully-random-disable", set: Set::Bool(|o: &mut O, v| o.random_fully_off = v), default: "", help: "masquerade without --random-fully" },
    Flag { name: "iptables-forward-rules", set: Set::Bool(|o: &mut O, v| o.forward_rules = v), default: "true", help: "accept forwarded traffic of the flannel network" },
    Flag { name: "iptables-resync", set: Set::Int(|o: &mut O, v| o.resync_seconds = v), default: "5", help: "seconds between two checks of the rules" },
    Flag { name: "public-ip", set: Set::Text(|o: &mut O, v| o.iface.public_ip = v), default: "", help: "IPv4 address the other hosts reach this one by" },
    Flag { name: "public-ipv6", set: Set::Text(|o: &mut O, v| o.iface.public_ipv6 = v), default: "", help: "IPv6 address the other hosts reach this one by" },
    Flag { name: "subnet-file", set: Set::Text(|o: &mut O, v| o.subnet_file = v.into()), default: "\"/run/flannel/subnet.env\"", help: "file that tells the host its subnet and MTU" },
    Flag { name: "subnet-lease-renew-margin", set: Set::Int(|o: &mut O, v| o.renew_margin_minutes = v), default: "60", help: "minutes before its end that the lease is renewed, 1 to 1439" },
    Flag { name: "v", set: Set::Int(|o: &mut O, v| o.verbosity = v), default: "0", help: "log level: 0 events, 1 details, 4 everything" },
    Flag { name: "version", set: Set::Bool(|o: &mut O, v| o.version = v), default: "", help: "print the version and exit" },
    Flag { name: "check-config", set: Set::Bool(|o: &mut O, v| o.check_config = v), default: "", help: "read flags and the config in etcd, say what is wrong with them, change nothing, and exit" },
    Flag { name: "tx-checksum", set: Set::Text(|o: &mut O, v| o.tx_checksum = v), default: "\"auto\"", help: "checksum offload of the vxlan device: on, off (for network cards that break it), or auto to leave it alone" },
    Flag { name: "docker-plugin", set: Set::Bool(|o: &mut O, v| o.docker_plugin = v), default: "", help: "run flannel-docker, the Docker network plugin, beside the daemon" },
    Flag { name: "state-dir", set: Set::Text(|o: &mut O, v| o.state_dir = v.into()), default: "\"/var/lib/flannel\"", help: "directory for what must outlive a reboot (the VTEP's MAC)" },
    Flag { name: "log_backtrace_at", set: Set::Text(|_: &mut O, _| {}), default: "", help: "no effect (kept for upstream's command lines)" },
    Flag { name: "vmodule", set: Set::Text(|_: &mut O, _| {}), default: "", help: "no effect (kept for upstream's command lines)" },
    Flag { name: "kube-subnet-mgr", set: Set::Bool(|o: &mut O, v| if v { o.kubernetes.push("kube-subnet-mgr") }), default: "", help: "refused: this daemon keeps its leases in etcd" },
    Flag { name: "kube-annotation-prefix", set: Set::Text(|o: &mut O, _| o.kubernetes.push("kube-annotation-prefix")), default: "", help: "refused, as -kube-subnet-mgr" },
    Flag { name: "kube-api-url", set: Set::Text(|o: &mut O, _| o.kubernetes.push("kube-api-url")), default: "", help: "refused, as -kube-subnet-mgr" },
    Flag { name: "kubeconfig-file", set: Set::Text(|o: &mut O, _| o.kubernetes.push("kubeconfig-file")), default: "", help: "refused, as -kube-subnet-mgr" },
    Flag { name: "net-config-path", set: Set::Text(|o: &mut O, _| o.kubernetes.push("net-config-path")), default: "", help: "refused, as -kube-subnet-mgr" },
    Flag { name: "set-node-network-unavailable", set: Set::Bool(|_: &mut O, _| {}), default: "true", help: "no effect without Kubernetes" },
];

impl Options {
    /// Reads the command line and the `FLANNELD_*` variables.
    pub fn read(
        args: impl IntoIterator<Item = String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Leftover), Stop> {
        let mut options = Self::default();
        let leftover = flags::parse(TABLE, &mut options, args, "FLANNELD", &variable)?;
        if let Some(seconds) = variable(TEST_TTL).and_then(|text| text.parse().ok()) {
            options.lease_ttl = Duration::from_secs(seconds);
        }
        Ok((options, leftover))
    }

    /// The usage text.
    pub fn usage() -> String {
        flags::usage("flanneld", TABLE)
    }

    /// What can be wrong with values the parser lets pass; one sentence naming the flag.
    pub fn check(&self) -> Result<(), String> {
        if let Some(flag) = self.kubernetes.first() {
            return Err(format!("flag -{flag}: this daemon keeps its leases in etcd and has no Kubernetes mode"));
        }
        if !(1..=1439).contains(&self.renew_margin_minutes) {
            let given = self.renew_margin_minutes;
            return Err(format!("flag -subnet-lease-renew-margin: {given} is not within 1 and 1439 minutes"));
        }
        let address = |name: &str, text: &str, good: bool, what: &str| {
            if text.is_empty() || good { Ok(()) } else { Err(format!("flag -{name}: {text:?} is no {what} address")) }
        };
        let IfaceOptions { public_ip, public_ipv6, can_reach, .. } = &self.iface;
        address("public-ip", public_ip, public_ip.parse::<Ipv4Addr>().is_ok(), "IPv4")?;
        address("public-ipv6", public_ipv6, public_ipv6.parse::<Ipv6Addr>().is_ok(), "IPv6")?;
        address("iface-can-reach", can_reach, can_reach.parse::<std::net::IpAddr>().is_ok(), "IP")?;
        self.tx_checksum()?;
        if self.healthz_port > i64::from(u16::MAX) {
            return Err(format!("flag -healthz-port: {} is no TCP port", self.healthz_port));
        }
        if self.healthz_port > 0 {
            address("healthz-ip", &self.healthz_ip, self.healthz_ip.parse::<std::net::IpAddr>().is_ok(), "IP")?;
        }
        Ok(())
    }

    /// Whether the checksum offload is to be switched, and to what.
    pub fn tx_checksum(&self) -> Result<Option<bool>, String> {
        match self.tx_checksum.as_str() {
            "auto" => Ok(None),
            "on" => Ok(Some(true)),
            "off" => Ok(Some(false)),
            other => Err(format!("flag -tx-checksum: {other:?} is not auto, on or off")),
        }
    }

    /// How long before its end the lease is renewed.
    pub fn renew_margin(&self) -> Duration {
        Duration::from_secs(60 * self.renew_margin_minutes.unsigned_abs())
    }

    /// How often rules are checked; upstream's 0 would mean a busy loop, so at least a second.
    pub fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_seconds.max(1).unsigned_abs())
    }

    /// Where the health server listens, if it does.
    pub fn healthz(&self) -> Option<std::net::SocketAddr> {
        let port = u16::try_from(self.healthz_port).ok().filter(|port| *port > 0)?;
        self.healthz_ip.parse().ok().map(|ip| std::net::SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
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
            assert!(TABLE.iter().any(|f| f.name == name), "-{name} is missing");
        }
    }

    #[test]
    fn values_out_of_range_name_the_flag() {
        for (line, words) in [
            ("-subnet-lease-renew-margin=0", "-subnet-lease-renew-margin: 0 is not within 1 and 1439"),
            ("-subnet-lease-renew-margin=1440", "-subnet-lease-renew-margin: 1440 is not"),
            ("-subnet-lease-renew-margin -5", "-subnet-lease-renew-margin: -5 is not"),
            ("-public-ip=fd00::1", "-public-ip: \"fd00::1\" is no IPv4 address"),
            ("-tx-checksum=maybe", "-tx-checksum: \"maybe\" is not auto, on or off"),
            ("-iface-can-reach=x", "-iface-can-reach: \"x\" is no IP address"),
            ("-kube-subnet-mgr", "-kube-subnet-mgr: this daemon keeps its leases in etcd"),
            ("-healthz-port=70000", "-healthz-port: 70000 is no TCP port"),
        ] {
            let error = read(line).check().expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
        assert_eq!(read("-kube-subnet-mgr=false -subnet-lease-renew-margin=1439").check(), Ok(()));
    }

    #[test]
    fn the_password_is_not_printed() {
        let options = read("-etcd-username=root -etcd-password=hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
