//! Leases of hosts that are not there, as upstream writes them, and the entries they ask for.

use std::net::Ipv4Addr;

use flannel_testbed::{Lab, Result};

const SUBNETS: &str = "/coreos.com/network/subnets/";
/// How many keys one transaction of etcd takes.
const TOGETHER: usize = 100;

/// Host number `number` of those that are not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Absent {
    pub(crate) number: u32,
    /// Counts its rebirths: each has another MAC and another address.
    pub(crate) life: u8,
}

impl Absent {
    pub(crate) fn new(number: usize) -> Self {
        Self { number: u32::try_from(number).unwrap_or(u32::MAX), life: 0 }
    }

    /// 10.100.1.0, 10.100.2.0, ... 10.100.250.0, 10.101.1.0, ...
    pub(crate) fn base(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((10 << 24) + ((100 + self.number / 250) << 16) + ((self.number % 250 + 1) << 8))
    }

    pub(crate) fn key(self) -> String {
        format!("{SUBNETS}{}-24", self.base())
    }

    pub(crate) fn mac(self) -> String {
        let [a, b, c, d] = self.number.to_be_bytes();
        format!("02:{:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}", self.life)
    }

    /// Where it is said to be: for host-gw on the hosts' own link, else anywhere.
    pub(crate) fn public(self, backend: &str) -> Ipv4Addr {
        match backend {
            "host-gw" => Ipv4Addr::from_bits((172 << 24) + (31 << 16) + (77 << 8) + 110 + self.number % 100),
            _ => Ipv4Addr::from_bits((192 << 24) + (168 << 16) + self.number + (u32::from(self.life % 4) << 15)),
        }
    }

    pub(crate) fn value(self, backend: &str) -> String {
        let public = self.public(backend);
        match backend {
            "vxlan" => format!(
                r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
                self.mac()
            ),
            "host-gw" => format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"host-gw"}}"#),
            _ => format!(r#"{{"PublicIP":"{public}","PublicIPv6":null}}"#),
        }
    }

    /// How many entries it asks for.
    pub(crate) fn entries(backend: &str) -> usize {
        if backend == "vxlan" { 3 } else { 1 }
    }
}

/// A lab of one host whose etcd has so many leases.
pub(crate) fn lab(backend: &str, leases: usize) -> Result<Lab> {
    let lab = Lab::flat(1)?;
    lab.configure(&format!(
        r#"{{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.99.0.0","Backend":{{"Type":"{backend}"}}}}"#
    ))?;
    let pairs: Vec<(String, String)> =
        (0..leases).map(Absent::new).map(|host| (host.key(), host.value(backend))).collect();
    for some in pairs.chunks(TOGETHER) {
        let some: Vec<(&str, &str)> = some.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        lab.etcd().put_together(&some)?;
    }
    Ok(lab)
}
