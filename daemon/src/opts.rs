//! The daemon's flags: upstream's names, defaults and meanings (docs/upstream.md, section 1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use flannel_core::flags::{self, Flag, Leftover, Set, Stop};
use flannel_core::subnet_env;
use flannel_store::options::{self as etcd, EtcdOptions};

use crate::subnet::TTL;

const HEALTHZ_IP: &str = "0.0.0.0";
const STATE_DIR: &str = "/var/lib/flannel";
const TX_CHECKSUM: &str = "auto";

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
    /// The lease's time to live; other than a day only in tests.
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
    /// Check flags and config, and exit.
    pub check_config: bool,
    kubernetes: Vec<&'static str>,
}

/// Which interface carries the traffic between hosts, and the address published to the others.
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
            etcd: EtcdOptions::default(),
            iface: IfaceOptions::default(),
            subnet_file: subnet_env::DEFAULT_PATH.into(),
            lease_ttl: TTL,
            renew_margin_minutes: 60,
            ip_masq: false,
            random_fully_off: false,
            forward_rules: true,
            blackhole: false,
            tx_checksum: TX_CHECKSUM.into(),
            resync_seconds: 5,
            healthz_ip: HEALTHZ_IP.into(),
            healthz_port: 0,
            state_dir: STATE_DIR.into(),
            docker_plugin: false,
            verbosity: 0,
            version: false,
            check_config: false,
            kubernetes: Vec::new(),
        }
    }
}

/// For tests only, which cannot wait a day for a lease to expire: its time to live in seconds.
pub const TEST_TTL: &str = "FLANNEL_TEST_LEASE_TTL";

impl AsMut<EtcdOptions> for Options {
    fn as_mut(&mut self) -> &mut EtcdOptions {
        &mut self.etcd
    }
}

/// Every flag of upstream, and ours after them. The Kubernetes ones are known so that they can be refused.
fn table() -> Vec<Flag<Options>> {
    let mut table = Vec::from(etcd::flags());
    table.extend([
        Flag {
            name: "healthz-ip",
            set: Set::Text(|o: &mut Options, v| o.healthz_ip = v),
            default: HEALTHZ_IP,
            help: "address of the health server",
        },
        Flag {
            name: "healthz-port",
            set: Set::Int(|o: &mut Options, v| o.healthz_port = v),
            default: "0",
            help: "TCP port of the health server, 0 for none",
        },
        Flag {
            name: "iface",
            set: Set::List(|o: &mut Options, v| o.iface.names.push(v)),
            default: "",
            help: "interface (name or address) between the hosts; given several times, the first that fits",
        },
        Flag {
            name: "iface-can-reach",
            set: Set::Text(|o: &mut Options, v| o.iface.can_reach = v),
            default: "",
            help: "take the interface that the route to this address leaves by",
        },
        Flag {
            name: "iface-regex",
            set: Set::List(|o: &mut Options, v| o.iface.regexes.push(v)),
            default: "",
            help: "take the first interface with an address, or else a name, that matches; tried after -iface",
        },
        Flag {
            name: "ip-blackhole-route",
            set: Set::Bool(|o: &mut Options, v| o.blackhole = v),
            default: "",
            help: "add a blackhole route for the own subnet, with the lowest priority, so that nothing of it leaks",
        },
        Flag {
            name: "ip-masq",
            set: Set::Bool(|o: &mut Options, v| o.ip_masq = v),
            default: "",
            help: "masquerade traffic that leaves the flannel network",
        },
        Flag {
            name: "ip-masq-fully-random-disable",
            set: Set::Bool(|o: &mut Options, v| o.random_fully_off = v),
            default: "",
            help: "masquerade without --random-fully",
        },
        Flag {
            name: "iptables-forward-rules",
            set: Set::Bool(|o: &mut Options, v| o.forward_rules = v),
            default: "true",
            help: "accept forwarded traffic of the flannel network",
        },
        Flag {
            name: "iptables-resync",
            set: Set::Int(|o: &mut Options, v| o.resync_seconds = v),
            default: "5",
            help: "seconds between two checks of the rules",
        },
        Flag {
            name: "public-ip",
            set: Set::Text(|o: &mut Options, v| o.iface.public_ip = v),
            default: "",
            help: "IPv4 address the other hosts reach this one by",
        },
        Flag {
            name: "public-ipv6",
            set: Set::Text(|o: &mut Options, v| o.iface.public_ipv6 = v),
            default: "",
            help: "IPv6 address the other hosts reach this one by",
        },
        Flag {
            name: "subnet-file",
            set: Set::Text(|o: &mut Options, v| o.subnet_file = v.into()),
            default: subnet_env::DEFAULT_PATH,
            help: "file that tells the host its subnet and MTU",
        },
        Flag {
            name: "subnet-lease-renew-margin",
            set: Set::Int(|o: &mut Options, v| o.renew_margin_minutes = v),
            default: "60",
            help: "minutes before its end that the lease is renewed, 1 to 1439",
        },
        Flag {
            name: "v",
            set: Set::Int(|o: &mut Options, v| o.verbosity = v),
            default: "0",
            help: "log level: 0 events, 1 details, 4 everything",
        },
        Flag {
            name: "version",
            set: Set::Bool(|o: &mut Options, v| o.version = v),
            default: "",
            help: "print the version and exit",
        },
        Flag {
            name: "check-config",
            set: Set::Bool(|o: &mut Options, v| o.check_config = v),
            default: "",
            help: "check the flags and the config in etcd, change nothing, and exit",
        },
        Flag {
            name: "tx-checksum",
            set: Set::Text(|o: &mut Options, v| o.tx_checksum = v),
            default: TX_CHECKSUM,
            help: "checksum offload of the vxlan device: on, off (for network cards that break it), or auto to leave it alone",
        },
        Flag {
            name: "docker-plugin",
            set: Set::Bool(|o: &mut Options, v| o.docker_plugin = v),
            default: "",
            help: "run flannel-docker, the Docker network plugin, beside the daemon",
        },
        Flag {
            name: "state-dir",
            set: Set::Text(|o: &mut Options, v| o.state_dir = v.into()),
            default: STATE_DIR,
            help: "directory for state that survives a reboot (the VTEP's MAC)",
        },
        Flag {
            name: "log_backtrace_at",
            set: Set::Text(|_: &mut Options, _| {}),
            default: "",
            help: "no effect (kept for upstream's command lines)",
        },
        Flag {
            name: "vmodule",
            set: Set::Text(|_: &mut Options, _| {}),
            default: "",
            help: "no effect (kept for upstream's command lines)",
        },
        Flag {
            name: "kube-subnet-mgr",
            set: Set::Bool(|o: &mut Options, v| {
                if v {
                    o.kubernetes.push("kube-subnet-mgr");
                }
            }),
            default: "",
            help: "refused: this daemon keeps its leases in etcd",
        },
        Flag {
            name: "kube-annotation-prefix",
            set: Set::Text(|o: &mut Options, _| o.kubernetes.push("kube-annotation-prefix")),
            default: "",
            help: "refused, as -kube-subnet-mgr",
        },
        Flag {
            name: "kube-api-url",
            set: Set::Text(|o: &mut Options, _| o.kubernetes.push("kube-api-url")),
            default: "",
            help: "refused, as -kube-subnet-mgr",
        },
        Flag {
            name: "kubeconfig-file",
            set: Set::Text(|o: &mut Options, _| o.kubernetes.push("kubeconfig-file")),
            default: "",
            help: "refused, as -kube-subnet-mgr",
        },
        Flag {
            name: "net-config-path",
            set: Set::Text(|o: &mut Options, _| o.kubernetes.push("net-config-path")),
            default: "",
            help: "refused, as -kube-subnet-mgr",
        },
        Flag {
            name: "set-node-network-unavailable",
            set: Set::Bool(|_: &mut Options, _| {}),
            default: "true",
            help: "no effect without Kubernetes",
        },
    ]);
    table
}

impl Options {
    /// Reads the command line and the `FLANNELD_*` variables.
    pub fn read(
        args: impl IntoIterator<Item = String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Leftover), Stop> {
        let mut options = Self::default();
        let leftover = flags::parse(&table(), &mut options, args, "FLANNELD", &variable)?;
        if let Some(seconds) = variable(TEST_TTL).and_then(|text| text.parse().ok()) {
            options.lease_ttl = Duration::from_secs(seconds);
        }
        Ok((options, leftover))
    }

    /// The usage text.
    pub fn usage() -> String {
        flags::usage("flanneld", &table())
    }

    /// Checks the values the parser accepts; reports every mistake, each naming its flag.
    pub fn check(&self) -> Result<(), String> {
        let mut mistakes = Vec::new();
        for flag in &self.kubernetes {
            mistakes.push(format!("flag -{flag}: this daemon keeps its leases in etcd and has no Kubernetes mode"));
        }
        let minutes = self.renew_margin_minutes;
        if !(1..=1439).contains(&minutes) {
            mistakes.push(format!("flag -subnet-lease-renew-margin: {minutes} is not within 1 and 1439 minutes"));
        }
        let mut address = |flag: &str, text: &str, is_valid: bool, kind: &str| {
            if !text.is_empty() && !is_valid {
                mistakes.push(format!("flag -{flag}: {text:?} is not an {kind} address"));
            }
        };
        let IfaceOptions { public_ip, public_ipv6, can_reach, .. } = &self.iface;
        address("public-ip", public_ip, public_ip.parse::<Ipv4Addr>().is_ok(), "IPv4");
        address("public-ipv6", public_ipv6, public_ipv6.parse::<Ipv6Addr>().is_ok(), "IPv6");
        address("iface-can-reach", can_reach, can_reach.parse::<IpAddr>().is_ok(), "IP");
        if self.healthz_port > 0 {
            address("healthz-ip", &self.healthz_ip, self.healthz_ip.parse::<IpAddr>().is_ok(), "IP");
        }
        if self.healthz_port > i64::from(u16::MAX) {
            mistakes.push(format!("flag -healthz-port: {} is not a TCP port", self.healthz_port));
        }
        mistakes.extend(self.tx_checksum().err());
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("; ")) }
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
mod tests;
