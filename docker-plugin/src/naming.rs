//! Interface names and MACs made from Docker's IDs and the lease, the same after every restart.

use std::net::IpAddr;

use flannel_core::name::{IfName, Mac};
use ipnet::IpNet;

use crate::error::Error;

/// How much of an ID goes into an interface name: as much as `docker network ls` shows.
const PREFIX: usize = 12;

/// The bridge of a network.
pub fn bridge(network: &str) -> Result<IfName, Error> {
    name("fl-", "NetworkID", network)
}

/// The end of an endpoint's veth pair that stays on the host.
pub fn host_end(endpoint: &str) -> Result<IfName, Error> {
    name("flh", "EndpointID", endpoint)
}

/// The end that Docker moves into the container.
pub fn container_end(endpoint: &str) -> Result<IfName, Error> {
    name("flc", "EndpointID", endpoint)
}

/// Whether a device's name is one that [`host_end`] or [`container_end`] makes.
pub fn is_veth(name: &str) -> bool {
    name.len() == IfName::MAX && (name.starts_with("flh") || name.starts_with("flc"))
}

fn name(prefix: &str, field: &str, id: &str) -> Result<IfName, Error> {
    // Docker's IDs are 64 hexadecimal digits, swarm's 25 letters and digits.
    let good = id.len() >= PREFIX && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let head = id.get(..PREFIX).filter(|_| good);
    head.and_then(|head| IfName::new(format!("{prefix}{head}")).ok()).ok_or_else(|| Error::Request {
        what: format!("{field} {id:?}"),
        reason: "is no ID of Docker: at least 12 letters and digits are needed".to_owned(),
    })
}

/// A MAC derived from an IP address, so that neighbour entries stay valid when the address moves to another
/// container: `02:00` and the four bytes of IPv4, or `02:06` and the last four of IPv6.
pub fn mac_for(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            Mac([0x02, 0x00, a, b, c, d])
        }
        IpAddr::V6(a) => {
            let [.., a, b, c, d] = a.octets();
            Mac([0x02, 0x06, a, b, c, d])
        }
    }
}

/// The MAC of an interface with these addresses; the first one, IPv4 where there is one, decides.
pub fn mac_for_all(addresses: &[IpNet]) -> Option<Mac> {
    addresses.first().map(|a| mac_for(a.addr()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_show_the_id_docker_shows() {
        let id = "9eccb7a0fab95b1897eec60013c7ee3b7ec019e8211e7c56d67e209ff537779f";
        assert_eq!(bridge(id).unwrap().as_str(), "fl-9eccb7a0fab9");
        assert_eq!(host_end(id).unwrap().as_str(), "flh9eccb7a0fab9");
        assert_eq!(container_end(id).unwrap().as_str(), "flc9eccb7a0fab9");
        assert_eq!(bridge("k0jkd3g8bqvm2dyw6e9d2o0lq").unwrap().as_str(), "fl-k0jkd3g8bqvm");
        for bad in ["", "9eccb7a0fab", "../../../../../etc", "9eccb7a0fab9 x"] {
            assert!(bridge(bad).unwrap_err().to_string().starts_with("NetworkID"), "{bad:?} was taken");
        }
    }

    #[test]
    fn macs_come_from_addresses() {
        assert_eq!(mac_for("10.5.72.2".parse().unwrap()).to_string(), "02:00:0a:05:48:02");
        assert_eq!(mac_for("fd00:5::1:2".parse().unwrap()).to_string(), "02:06:00:01:00:02");
        let both = ["10.5.72.2/24".parse().unwrap(), "fd00:5::2/64".parse().unwrap()];
        assert_eq!(mac_for_all(&both), Some(mac_for(both[0].addr())));
        assert_eq!(mac_for_all(&[]), None);
    }
}
