//! Ports that containers publish (`-p`), on networks whose way out is ours.
//!
//! Docker tells them once a container's way out leads through us, and publishes nothing itself then; nor can it be told
//! which port we chose where it left the choice open.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api::Options;
use crate::error::Error;

pub mod hold;

/// Where Docker puts them in the options of a call.
const PORT_MAP: &str = "com.docker.network.portmap";

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
    fn of(number: u8) -> Option<Self> {
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

/// What is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its transport.
    pub proto: Proto,
    /// In the container.
    pub container: u16,
    /// The address of the host, if one was chosen.
    pub host_ip: Option<IpAddr>,
    /// The lowest port of the host that will do; 0 for any.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Wanted {
    /// Whether this port is one that will do.
    pub fn is_met_by(&self, port: &Port) -> bool {
        (self.proto, self.container, self.host_ip) == (port.proto, port.container, port.host_ip)
            && (self.first == 0 || (self.first..=self.last).contains(&port.host))
    }

    /// This one at a certain port of the host.
    pub fn at(&self, host: u16) -> Port {
        Port { proto: self.proto, container: self.container, host_ip: self.host_ip, host }
    }
}

/// One entry as Docker writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    proto: u8,
    #[serde(default)]
    port: u16,
    #[serde(default, rename = "HostIP")]
    host_ip: String,
    #[serde(default)]
    host_port: u16,
    #[serde(default)]
    host_port_end: u16,
}

/// What is to be published by the options of a call.
pub fn read(options: &Options) -> Result<Vec<Wanted>, Error> {
    let bad = |reason: String| Error::Request { what: format!("option {PORT_MAP}"), reason };
    let entries = match options.get(PORT_MAP) {
        None | Some(serde_json::Value::Null) => return Ok(Vec::new()),
        Some(value) => Vec::<Entry>::deserialize(value).map_err(|e| bad(e.to_string()))?,
    };
    let read = |e: Entry| {
        let proto = Proto::of(e.proto).ok_or_else(|| bad(format!("protocol {} has no ports", e.proto)))?;
        let host_ip = match e.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| bad(format!("{text:?} is no address")))?),
        };
        let last = e.host_port_end.max(e.host_port);
        Ok(Wanted { proto, container: e.port, host_ip, first: e.host_port, last })
    };
    entries.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(host_ip: Option<&str>, host: u16) -> Port {
        Port { proto: Proto::Tcp, container: 80, host_ip: host_ip.map(|a| a.parse().unwrap()), host }
    }

    // Words of trace 08.
    #[test]
    fn reads_what_docker_writes() {
        let options = json!({ PORT_MAP: [
            {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 18080, "HostPortEnd": 18080},
            {"Proto": 17, "IP": "", "Port": 53, "HostIP": "127.0.0.1", "HostPort": 0, "HostPortEnd": 0},
            {"Proto": 132, "Port": 9, "HostIP": "::", "HostPort": 9000, "HostPortEnd": 9010},
        ]});
        let wanted = read(&serde_json::from_value(options).unwrap()).unwrap();
        assert_eq!(wanted[0], Wanted { proto: Proto::Tcp, container: 80, host_ip: None, first: 18080, last: 18080 });
        assert!(wanted[1].is_met_by(&Port { proto: Proto::Udp, container: 53, ..port(Some("127.0.0.1"), 40_000) }));
        assert_eq!((wanted[2].proto, wanted[2].first, wanted[2].last), (Proto::Sctp, 9000, 9010));
        assert_eq!(read(&Options::new()).unwrap(), []);
        assert_eq!(read(&serde_json::from_value(json!({ PORT_MAP: null })).unwrap()).unwrap(), []);
        for bad in [json!([{"Proto": 1}]), json!([{"Proto": 6, "HostIP": "here"}]), json!("all")] {
            let options = serde_json::from_value(json!({ PORT_MAP: bad })).unwrap();
            assert!(read(&options).unwrap_err().to_string().contains("portmap"));
        }
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
