//! What stands for a container: a namespace behind the bridge `cbr0`, which holds the lease's first address.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::{Host, Namespace, Ping, PingReport, Result};

/// A container's network. What can be done in a namespace can be done in it.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    address: Ipv4Addr,
    directory: PathBuf,
}

impl Host {
    /// Pod `number` (from 1) of this host, at the lease's address 1 + `number`, with the MTU of `subnet.env`.
    pub fn pod(&self, number: u8) -> Result<Pod> {
        let env = self.subnet_env()?;
        if self.ip("link show dev cbr0").is_err() {
            self.ip("link add cbr0 type bridge")?;
            self.ip(&format!("addr add {} dev cbr0", env.gateway))?;
            self.ip(&format!("link set cbr0 mtu {} up", env.mtu))?;
        }
        let name = format!("{}p{number}", self.name());
        let namespace = Namespace::create(self.lab(), &name)?;
        let mtu = env.mtu;
        namespace.ip(&format!(
            "link add eth0 mtu {mtu} type veth peer name pod{number} mtu {mtu} netns {}",
            self.namespace_name()
        ))?;
        self.ip(&format!("link set pod{number} master cbr0 up"))?;
        let address = env.address(1 + u32::from(number));
        namespace.ip(&format!("addr add {address}/{} dev eth0", env.gateway.prefix_len()))?;
        namespace.ip("link set eth0 up")?;
        namespace.ip(&format!("route add default via {}", env.gateway.addr()))?;
        self.port_forwards(&format!("pod{number}"))?;
        Ok(Pod { namespace, address, directory: self.directory().to_owned() })
    }

    /// The name `ip netns` knows the host by.
    pub fn namespace_name(&self) -> &str {
        Namespace::name(self)
    }
}

impl Pod {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pings `target` `count` times, 20 ms apart.
    pub fn ping(&self, target: Ipv4Addr, count: u32) -> Result<PingReport> {
        Ping::once(self, &self.directory, &format!("-i 0.02 -c {count} -W 2 {target}"))
    }

    /// Pings `target` with IP packets of exactly `length` bytes that must not be fragmented.
    pub fn ping_whole(&self, target: Ipv4Addr, length: u32) -> Result<PingReport> {
        let payload = length.saturating_sub(28);
        Ping::once(self, &self.directory, &format!("-i 0.02 -c 3 -W 2 -M do -s {payload} {target}"))
    }

    /// Starts a ping of `target` every 10 ms.
    pub fn ping_on(&self, target: Ipv4Addr) -> Result<Ping> {
        Ping::start(self, &self.directory, &format!("-i 0.01 {target}"))
    }
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
