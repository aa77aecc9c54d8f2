//! Ports that containers publish (`-p`), on networks in gateway mode.
//!
//! Docker tells them once a container's way out leads through us, and publishes nothing itself then; nor can it be told
//! which port we chose where it left the choice open.

use std::net::IpAddr;

use serde::Deserialize;

use crate::api::Options;
use crate::error::Error;
use crate::store::port::{Port, Proto};

/// Where Docker puts them in the options of a call.
const PORT_MAP: &str = "com.docker.network.portmap";

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
}
