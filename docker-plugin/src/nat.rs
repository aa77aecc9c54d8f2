//! Egress and published ports of networks with `-o flannel.gateway=true`.
//!
//! On such a network a container has no second interface on `docker_gwbridge`, so what Docker does there is done here:
//! what leaves the flannel network is masqueraded, and a published port is translated to its container's address.
//! All of it is one nftables table of our own, replaced whole in one transaction. In the order a packet meets it:
//!
//! - `guard`: with `route_localnet` on a bridge, so that `127.0.0.1:PORT` works on the host, a container could send to
//!   the host's own services there; what claims to come from or go to 127.0.0.0/8 on a bridge is dropped.
//! - `prerouting` and `output`: packets to an address of the host go through `ports`. 127.0.0.0/8 from outside does not.
//! - `postrouting`: a translated packet that returns to the bridge it came from (a container that uses a published port
//!   of its own network) or comes from 127.0.0.1 gets the bridge's address, so that its answer returns
//!   through the host; what leaves the flannel network gets the host's.

use std::net::{IpAddr, SocketAddr};

use flannel_core::filter::nft::{Chain, Table};
use flannel_core::name::IfName;
use ipnet::IpNet;

use crate::firewall::Rules;
use crate::store::port::Port;

pub mod nft;

/// Not masqueraded: no answer would come.
const MULTICAST: &str = "224.0.0.0/4";
const MULTICAST_V6: &str = "ff00::/8";

/// Everything to translate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nat {
    /// The bridges of networks with a gateway.
    pub bridges: Vec<Egress>,
    /// The published ports.
    pub ports: Vec<Forward>,
}

/// A bridge through which containers reach everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Its name.
    pub bridge: IfName,
    /// Its own range and the whole flannel network, one a family.
    pub ranges: Vec<(IpNet, IpNet)>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What was published.
    pub port: Port,
    /// The container.
    pub to: IpAddr,
    /// Whether the bridge takes packets from 127.0.0.1.
    pub localnet: bool,
}

impl Rules for Nat {
    fn is_empty(&self) -> bool {
        self.bridges.is_empty()
    }
}

fn family(address: &IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}

impl Forward {
    /// The rule of `ports`, for packets that came from outside or are the host's own. Nothing where the port is
    /// published on an address of the other family.
    fn rule(&self) -> Option<String> {
        let Self { port, to, localnet } = self;
        let ip = family(to);
        let narrowed = match (port.host_ip, to) {
            (None, IpAddr::V4(_)) if *localnet => "meta nfproto ipv4".to_owned(),
            (None, IpAddr::V4(_)) => "ip daddr != 127.0.0.0/8".to_owned(),
            (None, IpAddr::V6(_)) => "meta nfproto ipv6".to_owned(),
            (Some(host), _) if host.is_ipv4() != to.is_ipv4() => return None,
            (Some(host), _) if host.is_loopback() && !localnet => return None,
            (Some(host), _) => format!("{ip} daddr {host}"),
        };
        let target = SocketAddr::new(*to, port.container);
        Some(format!("{narrowed} {} dport {} dnat {ip} to {target}", port.proto, port.host))
    }
}

/// Our table of this name; without bridges it has no chains, and should not exist.
pub fn table(nat: &Nat, name: &str) -> Table {
    let chains = if nat.is_empty() { Vec::new() } else { chains(nat) };
    Table { family: "inet", name: name.to_owned(), chains }
}

fn chains(nat: &Nat) -> Vec<Chain> {
    let jump = "fib daddr type local jump ports".to_owned();
    let mut guard = Vec::new();
    let mut postrouting = Vec::new();
    for Egress { bridge, ranges } in &nat.bridges {
        guard.push(format!("iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop"));
        guard.push(format!("iifname \"{bridge}\" ip saddr 127.0.0.0/8 drop"));
        postrouting.push(format!("oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade"));
        for (pool, flannel) in ranges {
            let (ip, multicast) = match pool {
                IpNet::V4(_) => ("ip", MULTICAST),
                IpNet::V6(_) => ("ip6", MULTICAST_V6),
            };
            postrouting.push(format!("oifname \"{bridge}\" {ip} saddr {pool} ct status dnat masquerade"));
            postrouting.push(format!(
                "oifname != \"{bridge}\" {ip} saddr {pool} {ip} daddr != {{ {flannel}, {multicast} }} masquerade"
            ));
        }
    }
    let chain = |name, hook, rules| Chain { name, hook, rules };
    vec![
        chain("guard", Some("type filter hook prerouting priority -300; policy accept;"), guard),
        chain("ports", None, nat.ports.iter().filter_map(Forward::rule).collect()),
        chain(
            "prerouting",
            Some("type nat hook prerouting priority -100; policy accept;"),
            vec!["ip daddr 127.0.0.0/8 return".to_owned(), jump.clone()],
        ),
        // The kernel does not let such packets leave the host; our own listener takes them.
        chain(
            "output",
            Some("type nat hook output priority -100; policy accept;"),
            vec!["ip6 daddr ::1 return".to_owned(), jump],
        ),
        chain("postrouting", Some("type nat hook postrouting priority 100; policy accept;"), postrouting),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::port::Proto;

    fn forward(host_ip: Option<&str>, to: &str, localnet: bool) -> Option<String> {
        let port = Port { proto: Proto::Tcp, container: 80, host_ip: host_ip.map(|a| a.parse().unwrap()), host: 8080 };
        Forward { port, to: to.parse().unwrap(), localnet }.rule()
    }

    #[test]
    fn a_ports_rule_is_as_narrow_as_its_address() {
        let target = "tcp dport 8080 dnat ip to 10.5.72.2:80";
        assert_eq!(forward(None, "10.5.72.2", true).unwrap(), format!("meta nfproto ipv4 {target}"));
        assert_eq!(forward(None, "10.5.72.2", false).unwrap(), format!("ip daddr != 127.0.0.0/8 {target}"));
        assert_eq!(forward(Some("192.0.2.1"), "10.5.72.2", false).unwrap(), format!("ip daddr 192.0.2.1 {target}"));
        assert_eq!(forward(Some("127.0.0.1"), "10.5.72.2", true).unwrap(), format!("ip daddr 127.0.0.1 {target}"));
        assert_eq!(forward(Some("127.0.0.1"), "10.5.72.2", false), None);
        assert_eq!(forward(Some("::"), "10.5.72.2", true), None);
        assert_eq!(
            forward(None, "fd00::2", true).unwrap(),
            "meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd00::2]:80"
        );
    }

    #[test]
    fn one_table_is_replaced_whole_and_without_bridges_removed() {
        let egress = Egress {
            bridge: IfName::new("fl-aaa").unwrap(),
            ranges: vec![("10.5.72.0/24".parse().unwrap(), "10.5.0.0/16".parse().unwrap())],
        };
        let port = Port { proto: Proto::Udp, container: 53, host_ip: None, host: 5353 };
        let forward = Forward { port, to: "10.5.72.2".parse().unwrap(), localnet: true };
        let text = table(&Nat { bridges: vec![egress], ports: vec![forward] }, "t").render();
        assert!(text.starts_with("add table inet t\ndelete table inet t\ntable inet t {\n"), "{text}");
        for part in [
            "iifname \"fl-aaa\" ip daddr 127.0.0.0/8 drop",
            "meta nfproto ipv4 udp dport 5353 dnat ip to 10.5.72.2:53",
            "oifname \"fl-aaa\" ip saddr 10.5.72.0/24 ct status dnat masquerade",
            "oifname != \"fl-aaa\" ip saddr 10.5.72.0/24 ip daddr != { 10.5.0.0/16, 224.0.0.0/4 } masquerade",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(table(&Nat::default(), "t").render(), "add table inet t\ndelete table inet t\n");
    }
}
