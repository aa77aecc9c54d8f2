//! The `Backend` object of the config: which backend, and its options.
//!
//! Each backend's options are read by a file of their own below; the table of backends is the daemon's. Source of
//! names, defaults and limits: docs/upstream.md, section 5. Keys match in any case, unknown ones are ignored, the type compares
//! without case.

use crate::json::Object;
pub use extension::Extension;
pub use ipip::Ipip;
pub use udp::Udp;
pub use vxlan::Vxlan;
pub use wireguard::{Mode, Wireguard};

mod extension;
mod ipip;
mod udp;
mod vxlan;
mod wireguard;

/// What is wrong with the `Backend` object: one sentence part for each mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BadBackend(pub Vec<String>);

/// Backends of upstream that this build does not have.
const UPSTREAM_ONLY: &[&str] = &["ipsec", "tencent-vpc"];

/// A backend as the config knows it: the name in `Type`, and what reads its options.
pub struct Kind<T> {
    /// The name, in lower case.
    pub name: &'static str,
    /// Reads the options; mistakes are collected in the fields.
    pub read: fn(&mut Fields<'_>) -> T,
}

/// Reads the `Backend` object as one of these kinds; returns its name and its options.
pub fn parse<T>(text: &str, kinds: &[Kind<T>]) -> Result<(&'static str, T), BadBackend> {
    let object = Object::parse(text).map_err(|e| BadBackend(vec![format!("Backend is {e}")]))?;
    let given = object
        .get::<String>("Type", "a text")
        .map_err(|e| BadBackend(vec![format!("Backend.{e}")]))?
        .unwrap_or_default();
    let name = given.to_ascii_lowercase();
    let Some(kind) = kinds.iter().find(|kind| kind.name == name) else {
        let known = kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
        let why = match name.as_str() {
            "" => "is missing".to_owned(),
            other if UPSTREAM_ONLY.contains(&other) => format!("{other:?} is not built into this daemon"),
            _ => format!("{given:?} is unknown"),
        };
        return Err(BadBackend(vec![format!("Backend.Type {why}: use one of {known}")]));
    };
    let mut fields = Fields { object, mistakes: Vec::new() };
    let options = (kind.read)(&mut fields);
    if fields.mistakes.is_empty() { Ok((kind.name, options)) } else { Err(BadBackend(fields.mistakes)) }
}

/// The fields of the `Backend` object.
pub struct Fields<'a> {
    object: Object<'a>,
    mistakes: Vec<String>,
}

impl<'a> Fields<'a> {
    /// A field's value, or `default`; a value of the wrong type is a mistake.
    pub fn get<T: serde::Deserialize<'a>>(&mut self, name: &str, expected: &str, default: T) -> T {
        let value = self.object.get(name, expected).unwrap_or_else(|e| {
            self.mistakes.push(format!("Backend.{e}"));
            None
        });
        value.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Options {
        Vxlan(Vxlan),
        Udp(Udp),
        Extension(Extension),
        Ipip(Ipip),
        None,
    }

    const KINDS: &[Kind<Options>] = &[
        Kind { name: "vxlan", read: |fields| Options::Vxlan(Vxlan::read(fields)) },
        Kind { name: "udp", read: |fields| Options::Udp(Udp::read(fields)) },
        Kind { name: "alloc", read: |_| Options::None },
        Kind { name: "extension", read: |fields| Options::Extension(Extension::read(fields)) },
        Kind { name: "ipip", read: |fields| Options::Ipip(Ipip::read(fields)) },
    ];

    fn read(text: &str) -> Result<Options, BadBackend> {
        parse(text, KINDS).map(|(_, options)| options)
    }

    fn says(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn types_in_any_case_with_upstreams_defaults() {
        let udp = |port, offload, any_source| Ok(Options::Udp(Udp { port, offload, any_source }));
        assert_eq!(read(r#"{"type":"UDP"}"#), udp(8285, true, false));
        let given = r#"{"Type":"udp","Port":7890,"Offload":false,"anysource":true}"#;
        assert_eq!(read(given), udp(7890, false, true));
        assert_eq!(read(r#"{"Type":"Alloc","x":1}"#), Ok(Options::None));
        let defaults = Vxlan { vni: 1, port: 0, gbp: false, learning: false, direct_routing: false, mtu: None };
        assert_eq!(read(r#"{"Type":"vxlan"}"#), Ok(Options::Vxlan(defaults.clone())));
        let given = r#"{"Type":"VXLAN","VNI":7,"port":4789,"GBP":true,"Learning":true,"MTU":1400}"#;
        let expected = Vxlan { vni: 7, port: 4789, gbp: true, learning: true, mtu: Some(1400), ..defaults };
        assert_eq!(read(given), Ok(Options::Vxlan(expected)));
    }

    #[test]
    fn an_extension_is_up_to_four_commands() {
        assert_eq!(read(r#"{"Type":"extension"}"#), Ok(Options::Extension(Extension::default())));
        let given = r#"{"Type":"Extension","PreStartupCommand":"a","postStartupCommand":"b && c",
            "SubnetAddCommand":"ip route add $SUBNET via \"$PUBLIC_IP\"","SubnetRemoveCommand":null}"#;
        let expected = Extension {
            pre_startup: "a".into(),
            post_startup: "b && c".into(),
            subnet_add: r#"ip route add $SUBNET via "$PUBLIC_IP""#.into(),
            subnet_remove: String::new(),
        };
        assert_eq!(read(given), Ok(Options::Extension(expected)));
        assert_eq!(
            says(r#"{"Type":"extension","SubnetAddCommand":["ip"],"SubnetRemoveCommand":1}"#),
            "Backend.SubnetAddCommand is [\"ip\"], which is not a command line in a text; \
             Backend.SubnetRemoveCommand is 1, which is not a command line in a text"
        );
    }

    #[test]
    fn ipip_may_route_directly() {
        let ipip = |direct_routing| Ok(Options::Ipip(Ipip { direct_routing }));
        assert_eq!(read(r#"{"Type":"ipip"}"#), ipip(false));
        assert_eq!(read(r#"{"Type":"IPIP","directrouting":true}"#), ipip(true));
        assert_eq!(
            says(r#"{"Type":"ipip","DirectRouting":"yes"}"#),
            "Backend.DirectRouting is \"yes\", which is not true or false"
        );
    }

    #[test]
    fn mistakes_name_the_key() {
        assert_eq!(says("{}"), "Backend.Type is missing: use one of vxlan, udp, alloc, extension, ipip");
        assert_eq!(says("null"), "Backend.Type is missing: use one of vxlan, udp, alloc, extension, ipip");
        assert_eq!(
            says(r#"{"Type":"nope"}"#),
            "Backend.Type \"nope\" is unknown: use one of vxlan, udp, alloc, extension, ipip"
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
