//! The underlay: which veth is attached to which bridge, with which addresses, MTU and rate.

use std::net::IpAddr;

use crate::topology::{Router, Topology, Underlay, with_length};
use flannel_testbed::{Namespace, Result};

/// The bridge of an underlay in the switch.
pub(super) fn bridge(underlay: &str) -> String {
    format!("br-{underlay}")
}

/// The switch with a bridge for each underlay.
pub(super) fn switch(lab: usize, topology: &Topology) -> Result<Namespace> {
    let switch = Namespace::create(lab, "sw")?;
    for underlay in &topology.underlay {
        let bridge = bridge(&underlay.name);
        switch.ip(&format!("link add {bridge} type bridge"))?;
        // A group address of IPv6 reaches every port, whoever asked for it.
        switch.ip(&format!("link set {bridge} type bridge mcast_snooping 0"))?;
        switch.ip(&format!("link set {bridge} up"))?;
    }
    Ok(switch)
}

/// A router, plugged into each underlay that it joins.
pub(super) fn router(lab: usize, topology: &Topology, router: &Router, switch: &Namespace) -> Result<Namespace> {
    let namespace = Namespace::create(lab, &router.name)?;
    let last = topology.router_number(&router.name);
    for (number, name) in router.joins.iter().enumerate() {
        let underlay = topology.underlay_of(name);
        let addresses: Vec<IpAddr> = [Some(underlay.address(last).into()), underlay.address6(last).map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect();
        let (inside, port) = (format!("eth{number}"), format!("{}.{number}", router.name));
        attach(switch, &namespace, &inside, &port, underlay, &addresses)?;
    }
    forward(&namespace, topology)?;
    for way in topology.ways_of_router(&router.name) {
        route(&namespace, &way)?;
    }
    Ok(namespace)
}

/// Plugs a host or etcd into an underlay, with the ways to the others.
pub(super) fn plug(
    topology: &Topology,
    switch: &Namespace,
    namespace: &Namespace,
    port: &str,
    underlay: &Underlay,
    addresses: &[IpAddr],
) -> Result<()> {
    attach(switch, namespace, "eth0", port, underlay, addresses)?;
    for way in topology.ways(&underlay.name) {
        route(namespace, &way)?;
    }
    Ok(())
}

/// Lets a namespace forward packets of the families that there are.
pub(super) fn forward(namespace: &Namespace, topology: &Topology) -> Result<()> {
    namespace.sysctl("net/ipv4/ip_forward", "1")?;
    if topology.underlay.iter().any(|underlay| underlay.ipv6.is_some()) {
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// What `-etcd-endpoints` takes.
pub(super) fn endpoints(topology: &Topology) -> String {
    topology.etcd_addresses().map(|address| format!("http://{address}:2379")).collect::<Vec<_>>().join(",")
}

fn route(namespace: &Namespace, way: &crate::topology::Way<'_>) -> Result<()> {
    namespace.ip(&format!("route add {} via {}", way.to.subnet, way.via))?;
    if let (Some(net), Some(via)) = (way.to.ipv6, way.via6) {
        namespace.ip(&format!("route add {net} via {via}"))?;
    }
    Ok(())
}

/// A veth between `inside` of the namespace and `port` of the switch. Both ends are made where they belong: a name in
/// the caller's own namespace could meet somebody else's.
fn attach(
    switch: &Namespace,
    namespace: &Namespace,
    inside: &str,
    port: &str,
    underlay: &Underlay,
    addresses: &[IpAddr],
) -> Result<()> {
    let mtu = underlay.mtu;
    let mac = addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => {
            let [_, _, third, last] = v4.octets();
            Some(format!(" address 02:ee:00:00:{third:02x}:{last:02x}"))
        }
        IpAddr::V6(_) => None,
    });
    namespace.ip(&format!(
        "link add {inside}{} mtu {mtu} type veth peer name {port} mtu {mtu} netns {}",
        // A fixed MAC: captures can be read.
        mac.unwrap_or_default(),
        switch.name()
    ))?;
    switch.ip(&format!("link set {port} master {} up", bridge(&underlay.name)))?;
    for address in addresses {
        let probe = if address.is_ipv6() { " nodad" } else { "" };
        namespace.ip(&format!("addr add {} dev {inside}{probe}", with_length(*address)))?;
    }
    namespace.ip(&format!("link set {inside} up"))?;
    if let Some(rate) = &underlay.rate {
        limit(namespace, inside, rate)?;
        limit(switch, port, rate)?;
    }
    switch.port_forwards(port)
}

/// Makes an interface send at this rate and no faster.
pub fn limit(namespace: &Namespace, device: &str, rate: &str) -> Result<()> {
    namespace.exec(&format!("tc qdisc replace dev {device} root tbf rate {rate} burst 64kb latency 100ms")).map(drop)
}
