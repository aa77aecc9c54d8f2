//! The topology: switch, etcd, hosts.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::host::Host;
use crate::namespace::{Namespace, prefix, sweep};
use crate::{Context, Error, Etcd, Result, diagnose};

/// Counts the labs of this process: `cargo test` runs many tests in one.
static LABS: AtomicUsize = AtomicUsize::new(0);

/// A number that no other lab of this process has.
pub fn next_number() -> usize {
    LABS.fetch_add(1, Ordering::Relaxed)
}

/// Where a host is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// On the L2 of etcd: 172.31.77.0/24.
    Near,
    /// On a second L2 behind the router: 172.31.78.0/24.
    Far,
}

impl Segment {
    fn bridge(self) -> &'static str {
        match self {
            Self::Near => "br0",
            Self::Far => "br1",
        }
    }

    /// The segment's address that ends in `last`.
    pub fn address(self, last: u8) -> Ipv4Addr {
        let third = match self {
            Self::Near => 77,
            Self::Far => 78,
        };
        Ipv4Addr::new(172, 31, third, last)
    }
}

const ETCD: u8 = 100;
const ROUTER: u8 = 254;

/// A switch, an etcd and some hosts. Fields in the order they have to go.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    etcd: Etcd,
    switch: Namespace,
    directory: TempDir,
}

impl Lab {
    /// `hosts` hosts on one L2, etcd running.
    pub fn flat(hosts: usize) -> Result<Self> {
        Self::new(&vec![Segment::Near; hosts])
    }

    /// A host for each entry (the first is `h1`), etcd running.
    pub fn new(hosts: &[Segment]) -> Result<Self> {
        let lab = Self::without_etcd(hosts)?;
        lab.etcd.start()?;
        Ok(lab)
    }

    /// The same with etcd still to be started.
    pub fn without_etcd(hosts: &[Segment]) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new("hosts as network namespaces need root: run this as root (ci/netns)"));
        }
        sweep();
        let number = next_number();
        let directory =
            tempfile::Builder::new().prefix(&prefix(number)).tempdir().context(|| "temporary files".to_owned())?;
        let switch = Namespace::create(number, "sw")?;
        for segment in [Segment::Near, Segment::Far] {
            let bridge = segment.bridge();
            switch.ip(&format!("link add {bridge} type bridge"))?;
            switch.ip(&format!("addr add {}/24 dev {bridge}", segment.address(ROUTER)))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        switch.sysctl("net/ipv4/ip_forward", "1")?;

        let namespace = Namespace::create(number, "etcd")?;
        plug(&switch, &namespace, "etcd", Segment::Near, ETCD)?;
        let etcd = Etcd::new(namespace, Segment::Near.address(ETCD), directory.path());

        let mut lab = Self { hosts: Vec::new(), etcd, switch, directory };
        for (segment, last) in hosts.iter().zip(1..) {
            let name = format!("h{last}");
            let namespace = Namespace::create(number, &name)?;
            plug(&lab.switch, &namespace, &name, *segment, last)?;
            namespace.sysctl("net/ipv4/ip_forward", "1")?;
            let directory = lab.directory.path().join(&name);
            std::fs::create_dir(&directory).context(|| directory.display().to_string())?;
            let endpoint = lab.etcd.endpoint();
            lab.hosts.push(Host::new(number, name, namespace, segment.address(last), directory, endpoint));
        }
        Ok(lab)
    }

    /// Host `h<number>`, from 1.
    ///
    /// # Panics
    /// When the lab has fewer: the test asks for what it did not make.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The switch: its ports are named after what is plugged in (`h1`, `etcd`).
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Gives the hosts and the router IPv6 addresses beside the others: host `h<n>` of 172.31.77.0/24 is fd77::n.
    pub fn add_ipv6(&self) -> Result<()> {
        let forward = |namespace: &Namespace| namespace.sysctl("net/ipv6/conf/all/forwarding", "1");
        forward(&self.switch)?;
        self.switch.ip(&format!("addr add fd77::{ROUTER:x}/64 dev br0 nodad"))?;
        for (host, last) in self.hosts.iter().zip(1..) {
            forward(host)?;
            host.ip(&format!("addr add {}/64 dev eth0 nodad", Self::address6(last)))?;
            host.ip(&format!("route add default via fd77::{ROUTER:x}"))?;
        }
        Ok(())
    }

    /// The IPv6 address of host `h<number>`.
    pub fn address6(number: u16) -> std::net::Ipv6Addr {
        std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number)
    }

    /// Host `h<number>` loses power and starts again: no program runs, the kernel knows nothing but the underlay, files
    /// are as they were. Its pods have to be re-created.
    pub fn reboot(&mut self, number: usize) -> Result<()> {
        let host = &mut self.hosts[number - 1];
        let name = host.name().to_owned();
        // The old namespace still has its name, until the new one has taken its place.
        let namespace = Namespace::create(host.lab(), &format!("{name}b{}", fastrand::u16(..)))?;
        let last = host.address().octets()[3];
        let segment = if host.address() == Segment::Near.address(last) { Segment::Near } else { Segment::Far };
        self.switch.ip(&format!("link del {name}"))?;
        plug(&self.switch, &namespace, &name, segment, last)?;
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        host.reboot_into(namespace);
        Ok(())
    }

    /// Connects `port` (`h1`, `etcd`) to its bridge or disconnects it; the other end keeps its carrier.
    pub fn connect(&self, port: &str, connected: bool) -> Result<()> {
        if connected {
            return self.switch.ip(&format!("link set {port} master br0")).map(drop);
        }
        self.switch.ip(&format!("link set {port} nomaster")).map(drop)
    }

    /// Writes flannel's configuration below the default prefix.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.etcd.put("/coreos.com/network/config", config)
    }

    /// Runs `body`; when it fails, prints the state of every host while all still runs, and panics with the error.
    ///
    /// # Panics
    /// When `body` fails.
    pub fn check(self, body: impl FnOnce(&Self) -> Result<()>) {
        if let Err(e) = body(&self) {
            panic!("{e}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", diagnose::report(self));
        }
    }
}

/// Puts a veth between `namespace` (as `eth0`) and the switch (as `port`). Both ends are made where they belong: a
/// name in the caller's own namespace could meet somebody else's.
fn plug(switch: &Namespace, namespace: &Namespace, port: &str, segment: Segment, last: u8) -> Result<()> {
    let bridge = segment.bridge();
    // A fixed MAC: the address of a replaced host is the same, and captures can be read.
    let mac = format!("02:ee:00:00:{:02x}:{last:02x}", segment.address(last).octets()[2]);
    namespace.ip(&format!("link add eth0 address {mac} type veth peer name {port} netns {}", switch.name()))?;
    switch.ip(&format!("link set {port} master {bridge} up"))?;
    namespace.ip(&format!("addr add {}/24 dev eth0", segment.address(last)))?;
    namespace.ip("link set eth0 up")?;
    namespace.ip(&format!("route add default via {}", segment.address(ROUTER)))?;
    switch.port_forwards(port)
}
