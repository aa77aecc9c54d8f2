//! The `Backend` object of the config: which backend, and its options.
//!
//! Source of names, defaults and limits: docs/upstream.md, section 5. Keys match in any case, unknown ones are passed over,
//! the type compares without case.

use crate::json::Object;
pub use wireguard::{Mode, Wireguard};

mod wireguard;

/// A backend with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendConfig {
    /// Kernel VXLAN.
    Vxlan(Vxlan),
    /// Plain routes through hosts of the same link.
    HostGw,
    /// IPv4 packets in UDP datagrams, moved by the daemon.
    Udp(Udp),
    /// A lease and nothing else.
    Alloc,
    /// Commands of the operator's.
    Extension(Extension),
    /// IPv4 packets in IPv4 packets, by the kernel.
    Ipip(Ipip),
    /// Encrypted tunnels of the kernel.
    Wireguard(Wireguard),
}

/// Options of `vxlan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits; default 1.
    pub vni: u32,
    /// UDP port of the tunnel; 0, the default, leaves it to the kernel, which takes 8472.
    pub port: u16,
    /// Group-based policy extension.
    pub gbp: bool,
    /// Whether the device learns addresses from what it receives.
    pub learning: bool,
    /// Plain routes to hosts of the same link, tunnels only to the others.
    pub direct_routing: bool,
    /// MTU of the outer packets, in bytes; default that of the external interface.
    pub mtu: Option<u32>,
}

/// Options of `udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// The UDP port, the same on all hosts; default 8285.
    pub port: u16,
    /// Many packets at a time, where the kernel can; default yes. Upstream passes over this key and the next.
    pub offload: bool,
    /// Packets are taken from senders that no lease names, as upstream does; default no.
    pub any_source: bool,
}

/// Options of `extension`: command lines for `sh -c`, empty for nothing to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// `PreStartupCommand`: run before the lease is taken; its output is what the lease tells the other hosts.
    pub pre_startup: String,
    /// `PostStartupCommand`: run once the lease is there.
    pub post_startup: String,
    /// `SubnetAddCommand`: run for each remote lease that comes.
    pub subnet_add: String,
    /// `SubnetRemoveCommand`: run for each remote lease that goes.
    pub subnet_remove: String,
}

/// Options of `ipip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipip {
    /// Plain routes to hosts of the same link, the tunnel only to the others.
    pub direct_routing: bool,
}

/// What is wrong with the `Backend` object: one sentence part for each mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BadBackend(pub Vec<String>);

/// The backends this build has, as the config names them.
pub const NAMES: &[&str] = &["vxlan", "host-gw", "udp", "alloc", "extension", "ipip", "wireguard"];

/// Backends of upstream that this build doesn't have.
const UPSTREAM_ONLY: &[&str] = &["ipsec", "tencent-vpc"];

impl BackendConfig {
    /// Reads the `Backend` object.
    pub fn parse(text: &str) -> Result<Self, BadBackend> {
        let object = Object::parse(text).map_err(|e| BadBackend(vec![format!("Backend is {e}")]))?;
        let kind = object
            .get::<String>("Type", "a text")
            .map_err(|e| BadBackend(vec![format!("Backend.{e}")]))?
            .unwrap_or_default();
        let mut options = Options { object, mistakes: Vec::new() };
        let backend = match kind.to_ascii_lowercase().as_str() {
            "vxlan" => Self::Vxlan(options.vxlan()),
            "udp" => Self::Udp(Udp {
                port: options.get("Port", "a UDP port", 8285),
                offload: options.get("Offload", "true or false", true),
                any_source: options.get("AnySource", "true or false", false),
            }),
            "host-gw" => Self::HostGw,
            "alloc" => Self::Alloc,
            "extension" => Self::Extension(options.extension()),
            "ipip" => Self::Ipip(Ipip { direct_routing: options.get("DirectRouting", "true or false", false) }),
            "wireguard" => Self::Wireguard(options.wireguard()),
            other => {
                let known = NAMES.join(", ");
                let why = match other {
                    "" => "is missing".to_owned(),
                    other if UPSTREAM_ONLY.contains(&other) => format!("{other:?} is not built into this daemon"),
                    _ => format!("{kind:?} is unknown"),
                };
                return Err(BadBackend(vec![format!("Backend.Type {why}: use one of {known}")]));
            }
        };
        if options.mistakes.is_empty() { Ok(backend) } else { Err(BadBackend(options.mistakes)) }
    }

    /// The backend's name, as in the config and in leases.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp(_) => "udp",
            Self::Alloc => "alloc",
            Self::Extension(_) => "extension",
            Self::Ipip(_) => "ipip",
            Self::Wireguard(_) => "wireguard",
        }
    }
}

struct Options<'a> {
    object: Object<'a>,
    mistakes: Vec<String>,
}

impl<'a> Options<'a> {
    fn get<T: serde::Deserialize<'a>>(&mut self, name: &str, expected: &str, default: T) -> T {
        let value = self.object.get(name, expected).unwrap_or_else(|e| {
            self.mistakes.push(format!("Backend.{e}"));
            None
        });
        value.unwrap_or(default)
    }

    fn vxlan(&mut self) -> Vxlan {
        let vxlan = Vxlan {
            vni: self.get("VNI", "a VXLAN network identifier (0 to 16777215)", 1),
            port: self.get("Port", "a UDP port", 0),
            gbp: self.get("GBP", "true or false", false),
            learning: self.get("Learning", "true or false", false),
            direct_routing: self.get("DirectRouting", "true or false", false),
            mtu: Some(self.get("MTU", "a number of bytes", 0)).filter(|mtu| *mtu > 0),
        };
        if vxlan.vni >= 1 << 24 {
            self.mistakes.push(format!("Backend.VNI {} is over 16777215, the largest of 24 bits", vxlan.vni));
        }
        vxlan
    }

    fn extension(&mut self) -> Extension {
        let mut command = |name: &str| self.get(name, "a command line in a text", String::new());
        Extension {
            pre_startup: command("PreStartupCommand"),
            post_startup: command("PostStartupCommand"),
            subnet_add: command("SubnetAddCommand"),
            subnet_remove: command("SubnetRemoveCommand"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> String {
        BackendConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn types_in_any_case_with_upstreams_defaults() {
        let udp = |port, offload, any_source| Ok(BackendConfig::Udp(Udp { port, offload, any_source }));
        assert_eq!(BackendConfig::parse(r#"{"type":"UDP"}"#), udp(8285, true, false));
        let given = r#"{"Type":"udp","Port":7890,"Offload":false,"anysource":true}"#;
        assert_eq!(BackendConfig::parse(given), udp(7890, false, true));
        assert_eq!(BackendConfig::parse(r#"{"Type":"Alloc","x":1}"#), Ok(BackendConfig::Alloc));
        assert_eq!(BackendConfig::parse(r#"{"Type":"host-gw"}"#), Ok(BackendConfig::HostGw));
        let defaults = Vxlan { vni: 1, port: 0, gbp: false, learning: false, direct_routing: false, mtu: None };
        assert_eq!(BackendConfig::parse(r#"{"Type":"vxlan"}"#), Ok(BackendConfig::Vxlan(defaults.clone())));
        let given = r#"{"Type":"VXLAN","VNI":7,"port":4789,"GBP":true,"Learning":true,"MTU":1400}"#;
        let expected = Vxlan { vni: 7, port: 4789, gbp: true, learning: true, mtu: Some(1400), ..defaults };
        assert_eq!(BackendConfig::parse(given), Ok(BackendConfig::Vxlan(expected)));
    }

    #[test]
    fn an_extension_is_up_to_four_commands() {
        assert_eq!(BackendConfig::parse(r#"{"Type":"extension"}"#), Ok(BackendConfig::Extension(Extension::default())));
        let given = r#"{"Type":"Extension","PreStartupCommand":"a","postStartupCommand":"b && c",
            "SubnetAddCommand":"ip route add $SUBNET via \"$PUBLIC_IP\"","SubnetRemoveCommand":null}"#;
        let expected = Extension {
            pre_startup: "a".into(),
            post_startup: "b && c".into(),
            subnet_add: r#"ip route add $SUBNET via "$PUBLIC_IP""#.into(),
            subnet_remove: String::new(),
        };
        assert_eq!(BackendConfig::parse(given), Ok(BackendConfig::Extension(expected)));
        assert_eq!(
            says(r#"{"Type":"extension","SubnetAddCommand":["ip"],"SubnetRemoveCommand":1}"#),
            "Backend.SubnetAddCommand is [\"ip\"], which is not a command line in a text; \
             Backend.SubnetRemoveCommand is 1, which is not a command line in a text"
        );
    }

    #[test]
    fn ipip_may_route_directly() {
        let ipip = |direct_routing| Ok(BackendConfig::Ipip(Ipip { direct_routing }));
        assert_eq!(BackendConfig::parse(r#"{"Type":"ipip"}"#), ipip(false));
        assert_eq!(BackendConfig::parse(r#"{"Type":"IPIP","directrouting":true}"#), ipip(true));
        assert_eq!(
            says(r#"{"Type":"ipip","DirectRouting":"yes"}"#),
            "Backend.DirectRouting is \"yes\", which is not true or false"
        );
    }

    #[test]
    fn mistakes_name_the_key() {
        assert_eq!(
            says("{}"),
            "Backend.Type is missing: use one of vxlan, host-gw, udp, alloc, extension, ipip, wireguard"
        );
        assert_eq!(
            says("null"),
            "Backend.Type is missing: use one of vxlan, host-gw, udp, alloc, extension, ipip, wireguard"
        );
        assert_eq!(
            says(r#"{"Type":"nope"}"#),
            "Backend.Type \"nope\" is unknown: use one of vxlan, host-gw, udp, alloc, extension, ipip, wireguard"
        );
        for upstream in ["ipsec", "tencent-vpc"] {
            assert!(says(&format!(r#"{{"Type":"{upstream}"}}"#)).contains("not built into this daemon"));
        }
        assert_eq!(
            says(r#"{"Type":"vxlan","VNI":16777216}"#),
            "Backend.VNI 16777216 is over 16777215, the largest of 24 bits"
        );
        assert_eq!(
            says(r#"{"Type":"vxlan","VNI":"1","Learning":1}"#),
            "Backend.VNI is \"1\", which is not a VXLAN network identifier (0 to 16777215); Backend.Learning is 1, \
             which is not true or false"
        );
        assert_eq!(says(r#"{"Type":"udp","Port":99999}"#), "Backend.Port is 99999, which is not a UDP port");
        assert_eq!(
            says(r#"{"Type":"udp","Offload":"off","AnySource":0}"#),
            "Backend.Offload is \"off\", which is not true or false; Backend.AnySource is 0, which is not true or false"
        );
    }
}
