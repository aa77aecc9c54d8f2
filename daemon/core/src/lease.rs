//! A lease as it stands in etcd.
//!
//! Source of the format: docs/upstream.md, section 2.2. The value is compact JSON in a fixed order; `PublicIP` and
//! `PublicIPv6` are always written, the others left out when empty. Reading is as tolerant as Go's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::Family;
use crate::json::Object;
use crate::key::SubnetKey;
use crate::name::Mac;

/// How long a lease lives unless renewed, in seconds. Every flannel daemon uses the same.
pub const TTL_SECONDS: i64 = 86_400;

/// What a host tells the others about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAttrs {
    /// Where the host is reached by IPv4; 0.0.0.0 for a host without.
    pub public_ip: Ipv4Addr,
    /// Where the host is reached by IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The backend's name; empty for udp and alloc, which upstream writes that way.
    pub backend_type: String,
    /// What the backend adds for IPv4, as compact JSON text.
    pub backend_data: Option<String>,
    /// What the backend adds for IPv6, as compact JSON text.
    pub backend_v6_data: Option<String>,
}

/// One host's subnet with what is needed to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The subnets.
    pub key: SubnetKey,
    /// The host's attributes.
    pub attrs: LeaseAttrs,
}

/// Why a lease's value can't be read or used. The object it belongs to is named by whoever reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLease(pub String);

impl LeaseAttrs {
    /// Attributes with an IPv4 address and nothing else.
    pub fn new(public_ip: Ipv4Addr) -> Self {
        Self { public_ip, public_ipv6: None, backend_type: String::new(), backend_data: None, backend_v6_data: None }
    }

    /// The public address of a family, given as such or by a network of it.
    pub fn public(&self, family: impl Into<Family>) -> Option<IpAddr> {
        match family.into() {
            Family::V4 => Some(self.public_ip).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4),
            Family::V6 => self.public_ipv6.map(IpAddr::V6),
        }
    }

    /// What the backend added for a family, or an error that names the missing key.
    pub fn required_data(&self, family: impl Into<Family>) -> Result<&str, BadLease> {
        let family = family.into();
        let key = match family {
            Family::V4 => "BackendData",
            Family::V6 => "BackendV6Data",
        };
        self.data(family).ok_or_else(|| BadLease(format!("{key} is missing")))
    }

    /// What the backend added for a family, as JSON text.
    pub fn data(&self, family: impl Into<Family>) -> Option<&str> {
        match family.into() {
            Family::V4 => self.backend_data.as_deref(),
            Family::V6 => self.backend_v6_data.as_deref(),
        }
    }

    /// The value for etcd, byte for byte as upstream writes it.
    pub fn to_json(&self) -> String {
        let mut text = format!(r#"{{"PublicIP":"{}","PublicIPv6":"#, self.public_ip);
        match self.public_ipv6 {
            Some(ip) => text.push_str(&format!("\"{ip}\"")),
            None => text.push_str("null"),
        }
        if !self.backend_type.is_empty() {
            text.push_str(r#","BackendType":"#);
            text.push_str(&serde_json::Value::from(self.backend_type.as_str()).to_string());
        }
        for (name, data) in [("BackendData", &self.backend_data), ("BackendV6Data", &self.backend_v6_data)] {
            if let Some(data) = data {
                text.push_str(&format!(r#","{name}":{data}"#));
            }
        }
        text.push('}');
        text
    }

    /// Reads a value of etcd.
    pub fn from_json(text: &str) -> Result<Self, BadLease> {
        let object = Object::parse(text).map_err(BadLease)?;
        let address = |name: &str| object.get::<String>(name, "an address").map_err(BadLease);
        let not = |name: &str, text: &str, what: &str| BadLease(format!("{name} is {text:?}, which is not {what}"));
        let public_ip = match (object.raw("PublicIP"), address("PublicIP")?) {
            (None, _) => Ipv4Addr::UNSPECIFIED,
            (Some(_), ip) => {
                let ip = ip.unwrap_or_default();
                ip.parse().map_err(|_| not("PublicIP", &ip, "an IPv4 address"))?
            }
        };
        let public_ipv6 = address("PublicIPv6")?
            .map(|ip| ip.parse().map_err(|_| not("PublicIPv6", &ip, "an IPv6 address")))
            .transpose()?;
        let data = |name: &str| object.raw(name).filter(|text| *text != "null").map(compact);
        Ok(Self {
            public_ip,
            public_ipv6,
            backend_type: object.get("BackendType", "a text").map_err(BadLease)?.unwrap_or_default(),
            backend_data: data("BackendData"),
            backend_v6_data: data("BackendV6Data"),
        })
    }
}

/// JSON text without the blanks between its parts.
fn compact(text: &str) -> String {
    let mut in_string = false;
    let mut escaped = false;
    let keep = |c: &char| {
        if in_string {
            (in_string, escaped) = (escaped || *c != '"', !escaped && *c == '\\');
            return true;
        }
        in_string = *c == '"';
        !c.is_ascii_whitespace()
    };
    text.chars().filter(keep).collect()
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.key, self.attrs.public_ip)?;
        self.attrs.public_ipv6.map_or(Ok(()), |ip| write!(f, " and {ip}"))
    }
}

/// The data a vxlan host adds to its lease: `{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanData {
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The MAC address of the host's VTEP.
    pub vtep_mac: Mac,
}

impl VxlanData {
    /// The text for `BackendData`.
    pub fn to_json(self) -> String {
        format!(r#"{{"VNI":{},"VtepMAC":"{}"}}"#, self.vni, self.vtep_mac)
    }

    /// Reads `BackendData`; a missing VNI is 0, as upstream reads it.
    pub fn from_json(text: &str) -> Result<Self, BadLease> {
        let object = Object::parse(text).map_err(|e| BadLease(format!("BackendData is {e}")))?;
        let within = |e: String| BadLease(format!("BackendData.{e}"));
        let vni = object.get("VNI", "a VXLAN network identifier").map_err(within)?.unwrap_or(0);
        let mac: Option<String> = object.get("VtepMAC", "a MAC address").map_err(within)?;
        let mac = mac.ok_or_else(|| BadLease("BackendData.VtepMAC is missing".into()))?;
        let vtep_mac: Mac = mac.parse().map_err(|e| BadLease(format!("BackendData.VtepMAC: {e}")))?;
        if !vtep_mac.is_unicast() {
            return Err(BadLease(format!(
                "BackendData.VtepMAC {vtep_mac} can't be a host's: it is a group address or zero"
            )));
        }
        Ok(Self { vni, vtep_mac })
    }
}

/// The data an extension host adds to its lease: the output of its pre-startup command as a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionData(pub String);

impl ExtensionData {
    /// The text for `BackendData`. Like Go's encoder, and so upstream's, it also writes `<`, `>` and `&` by their
    /// numbers.
    pub fn to_json(&self) -> String {
        let text = serde_json::Value::from(self.0.as_str()).to_string();
        let escape = |c: char| match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        text.chars().map(escape).collect()
    }

    /// Reads `BackendData`.
    pub fn from_json(text: &str) -> Result<Self, BadLease> {
        let text = serde_json::from_str(text);
        text.map(Self).map_err(|e| BadLease(format!("BackendData is not the text of an extension host: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // parity: daemon/tests/vectors/recorded/{vxlan,dualstack-vxlan,host-gw,udp}/etcd-get-prefix.txt
    const UPSTREAM: &[&str] = &[
        r#"{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"}}"#,
        r#"{"PublicIP":"172.31.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"},"BackendV6Data":{"VNI":1,"VtepMAC":"f2:9a:32:d2:40:2a"}}"#,
        r#"{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"host-gw"}"#,
        r#"{"PublicIP":"172.31.77.1","PublicIPv6":null}"#,
    ];

    #[test]
    fn upstreams_values_round_trip_byte_for_byte() {
        for text in UPSTREAM {
            assert_eq!(LeaseAttrs::from_json(text).unwrap().to_json(), *text);
        }
        let data = VxlanData { vni: 1, vtep_mac: "7a:3f:56:96:72:2e".parse().unwrap() };
        let attrs = LeaseAttrs {
            backend_type: "vxlan".into(),
            backend_data: Some(data.to_json()),
            ..LeaseAttrs::new("172.31.77.1".parse().unwrap())
        };
        assert_eq!(attrs.to_json(), UPSTREAM[0]);
        assert_eq!(VxlanData::from_json(&attrs.backend_data.unwrap()), Ok(data));
    }

    // What Go's encoding/json makes of it.
    #[test]
    fn an_extensions_output_is_a_json_text() {
        let data = ExtensionData("a \"b\" <c> & d\n\te\u{1}ü".into());
        assert_eq!(data.to_json(), r#""a \"b\" \u003cc\u003e \u0026 d\n\te\u0001ü""#);
        assert_eq!(ExtensionData::from_json(&data.to_json()), Ok(data.clone()));
        let attrs = LeaseAttrs {
            backend_type: "extension".into(),
            backend_data: Some(ExtensionData("02:00".into()).to_json()),
            ..LeaseAttrs::new("172.31.77.1".parse().unwrap())
        };
        let text = r#"{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"extension","BackendData":"02:00"}"#;
        assert_eq!(attrs.to_json(), text);
        assert_eq!(LeaseAttrs::from_json(text), Ok(attrs));
        let spoilt = LeaseAttrs { backend_data: Some(data.to_json()), ..LeaseAttrs::from_json(text).unwrap() };
        assert_eq!(LeaseAttrs::from_json(&spoilt.to_json()), Ok(spoilt));
        assert!(ExtensionData::from_json(r#"{"VNI":1}"#).unwrap_err().0.starts_with("BackendData is not the text"));
    }

    #[test]
    fn reading_is_tolerant() {
        let text = r#" {"publicip":"10.0.0.1", "EXTRA": 1, "backendTYPE":"vxlan",
            "BackendData": { "vni" : 7 , "vtepmac":"02:00:00:00:00:01", "note":"a \" b" } }"#;
        let attrs = LeaseAttrs::from_json(text).unwrap();
        assert_eq!(attrs.public_ip, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(attrs.public_ipv6, None);
        let data = attrs.backend_data.unwrap();
        assert_eq!(data, r#"{"vni":7,"vtepmac":"02:00:00:00:00:01","note":"a \" b"}"#);
        assert_eq!(VxlanData::from_json(&data).unwrap().vni, 7);
        assert_eq!(LeaseAttrs::from_json("{}"), Ok(LeaseAttrs::new(Ipv4Addr::UNSPECIFIED)));
    }

    #[test]
    fn mistakes_are_named() {
        let says = |text: &str| LeaseAttrs::from_json(text).unwrap_err().to_string();
        assert_eq!(says(r#"{"PublicIP":""}"#), "PublicIP is \"\", which is not an IPv4 address");
        assert_eq!(says(r#"{"PublicIP":null}"#), "PublicIP is \"\", which is not an IPv4 address");
        assert_eq!(says(r#"{"PublicIP":7}"#), "PublicIP is 7, which is not an address");
        assert_eq!(says(r#"{"PublicIPv6":"x"}"#), "PublicIPv6 is \"x\", which is not an IPv6 address");
        assert!(says("reserved").starts_with("not JSON: "));
        let says = |text: &str| VxlanData::from_json(text).unwrap_err().to_string();
        assert_eq!(says("{}"), "BackendData.VtepMAC is missing");
        assert!(says(r#"{"VtepMAC":"01:00:00:00:00:01"}"#).contains("group address"));
        assert!(says(r#"{"VNI":"x","VtepMAC":"02:00:00:00:00:01"}"#).starts_with("BackendData.VNI is \"x\""));
    }

    proptest::proptest! {
        /// Whatever a command prints comes out at the other end as it went in, and writing it again changes nothing.
        #[test]
        fn any_output_survives_the_way_through_etcd(output in ".*", ip in proptest::prelude::any::<u32>()) {
            let data = ExtensionData(output);
            let attrs = LeaseAttrs {
                backend_type: "extension".into(),
                backend_data: Some(data.to_json()),
                ..LeaseAttrs::new(ip.into())
            };
            let read = LeaseAttrs::from_json(&attrs.to_json()).unwrap();
            proptest::prop_assert_eq!(&read, &attrs);
            proptest::prop_assert_eq!(ExtensionData::from_json(&read.backend_data.unwrap()), Ok(data));
        }
    }
}
