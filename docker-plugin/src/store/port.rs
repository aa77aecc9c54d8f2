//! A port of the host that an endpoint publishes.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A transport that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl Proto {
    /// By its number in the IP header, as Docker writes it.
    pub fn of(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its transport.
    pub proto: Proto,
    /// In the container.
    pub container: u16,
    /// The address of the host; every one if there is none.
    pub host_ip: Option<IpAddr>,
    /// On the host.
    pub host: u16,
}

impl Port {
    /// Whether both can't be had at once.
    pub fn collides(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
            (None, _) | (_, None) => true,
        };
        (self.proto, self.host) == (other.proto, other.host) && same_address
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}/{}", self.host, self.proto),
            Some(ip) => write!(f, "{ip}:{}/{}", self.host, self.proto),
            None => write!(f, "{}/{}", self.host, self.proto),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, host: u16) -> Port {
        Port { proto: Proto::Tcp, container: 80, host_ip: host_ip.map(|a| a.parse().unwrap()), host }
    }

    #[test]
    fn ports_collide_where_an_address_is_the_same() {
        let cases = [
            (None, None, true),
            (None, Some("10.0.0.1"), true),
            (Some("10.0.0.1"), Some("10.0.0.2"), false),
            (Some("10.0.0.1"), Some("0.0.0.0"), true),
            (Some("::"), Some("0.0.0.0"), false),
        ];
        for (a, b, collide) in cases {
            assert_eq!(port(a, 80).collides(&port(b, 80)), collide, "{a:?} {b:?}");
            assert!(!port(a, 80).collides(&port(b, 81)));
        }
        assert_eq!(port(Some("::1"), 80).to_string(), "[::1]:80/tcp");
    }
}
