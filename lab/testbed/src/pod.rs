//! A substitute for a container: a namespace behind the bridge `cbr0`, which holds the lease's first address of each
//! family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::{Context, Host, Namespace, Ping, PingReport, Result, SubnetEnv};

/// A container's network. What can be done in a namespace can be done in it.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    directory: PathBuf,
}

impl Host {
    /// Pod `number` (from 1) of this host, at the lease's address 1 + `number`, with the MTU of `subnet.env`.
    pub fn pod(&self, number: u8) -> Result<Pod> {
        self.pod_of(&self.subnet_text()?, "cbr0", number)
    }

    /// The same for any `subnet.env`'s text, behind a bridge of this name: for hosts with several networks.
    pub fn pod_of(&self, text: &str, bridge: &str, number: u8) -> Result<Pod> {
        let mtu = SubnetEnv::value(text, "FLANNEL_MTU")?;
        let gateways: Vec<IpNet> = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]
            .iter()
            .filter_map(|name| SubnetEnv::value(text, name).ok())
            .map(|net| net.parse().context(|| format!("subnet.env: {net}")))
            .collect::<Result<_>>()?;
        if self.ip(&format!("link show dev {bridge}")).is_err() {
            // A fixed MAC, as Docker's bridges have: else it follows the ports, and who knows the old one talks to nobody.
            let mac = fastrand::u32(..).to_be_bytes().map(|byte| format!("{byte:02x}")).join(":");
            self.ip(&format!("link add {bridge} address 02:ef:{mac} type bridge"))?;
            for gateway in &gateways {
                self.ip(&format!("addr add {gateway} dev {bridge}{}", no_probe(*gateway)))?;
            }
            self.ip(&format!("link set {bridge} mtu {mtu} up"))?;
        }
        let name = format!("{}p{number}", self.name());
        let namespace = Namespace::create(self.lab(), &name)?;
        namespace.ip(&format!(
            "link add eth0 mtu {mtu} type veth peer name pod{number} mtu {mtu} netns {}",
            self.namespace_name()
        ))?;
        self.ip(&format!("link set pod{number} master {bridge} up"))?;
        namespace.ip("link set eth0 up")?;
        let (mut v4, mut v6) = (None, None);
        for gateway in &gateways {
            let address = match gateway {
                IpNet::V4(net) => IpAddr::V4(*v4.insert((net.addr().to_bits() + u32::from(number)).into())),
                IpNet::V6(net) => IpAddr::V6(*v6.insert((net.addr().to_bits() + u128::from(number)).into())),
            };
            namespace.ip(&format!("addr add {address}/{} dev eth0{}", gateway.prefix_len(), no_probe(*gateway)))?;
            namespace.ip(&format!("route add default via {}", gateway.addr()))?;
        }
        self.port_forwards(&format!("pod{number}"))?;
        Ok(Pod { namespace, v4, v6, directory: self.directory().to_owned() })
    }

    /// The name `ip netns` knows the host by.
    pub fn namespace_name(&self) -> &str {
        Namespace::name(self)
    }
}

impl Pod {
    /// A container that something else has made.
    pub fn adopted(namespace: Namespace, address: Ipv4Addr, directory: &Path) -> Self {
        Self { namespace, v4: Some(address), v6: None, directory: directory.to_owned() }
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    /// When the network has no IPv4: the test asks for what it did not make.
    pub fn address(&self) -> Ipv4Addr {
        self.v4.unwrap_or_else(|| panic!("{} has no IPv4 address", self.namespace.name()))
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// When the network has no IPv6.
    pub fn address6(&self) -> Ipv6Addr {
        self.v6.unwrap_or_else(|| panic!("{} has no IPv6 address", self.namespace.name()))
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pings `target` `count` times, 20 ms apart.
    pub fn ping(&self, target: impl Into<IpAddr>, count: u32) -> Result<PingReport> {
        Ping::once(self, &self.directory, &format!("-i 0.02 -c {count} -W 2 {}", target.into()))
    }

    /// Pings `target` with IP packets of exactly `length` bytes that must not be fragmented.
    pub fn ping_whole(&self, target: Ipv4Addr, length: u32) -> Result<PingReport> {
        let payload = length.saturating_sub(28);
        Ping::once(self, &self.directory, &format!("-i 0.02 -c 3 -W 2 -M do -s {payload} {target}"))
    }

    /// Starts a ping of `target` every 10 ms.
    pub fn ping_on(&self, target: impl Into<IpAddr>) -> Result<Ping> {
        Ping::start(self, &self.directory, &format!("-i 0.01 {}", target.into()))
    }
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// Without the second the kernel takes to ask whether somebody else has an IPv6 address.
fn no_probe(net: IpNet) -> &'static str {
    if net.addr().is_ipv6() { " nodad" } else { "" }
}
