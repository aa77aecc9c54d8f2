//! The `-o` options of a network.

use crate::api::Options;
use crate::error::Error;
use crate::store::lease::FlannelName;

/// `-o` options come under this key.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
const MTU: &str = "com.docker.network.driver.mtu";

/// What begins so is ours, and a mistake if we don't know it.
const OURS: &str = "flannel.";
const GATEWAY: &str = "flannel.gateway";
const ISOLATION: &str = "flannel.isolation";
/// Also as `--ipam-opt`, since Docker asks for the pool before it tells the driver's options.
pub(super) const NETWORK: &str = "flannel.network";

/// The least an interface may send: 68 by RFC 791, 1280 by RFC 8200.
const MIN_MTU: u32 = 68;
const MIN_MTU_V6: u32 = 1280;
const MAX_MTU: u32 = 65_535;

/// What the user chose for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkOptions {
    /// `com.docker.network.driver.mtu`
    pub(super) mtu: Option<u32>,
    /// `--internal`
    pub(super) internal: bool,
    /// `flannel.gateway=true`: the default route leads through the bridge, and ports are published by us.
    pub(super) gateway: bool,
    /// Unless `flannel.isolation=false`: other flannel networks of this host don't get in.
    pub(super) isolated: bool,
    /// `flannel.network`: another daemon's flannel network.
    pub(super) flannel: Option<FlannelName>,
}

impl NetworkOptions {
    /// Reads them, and says which one can't be used.
    pub(super) fn read(options: &Options) -> Result<Self, Error> {
        let mut read = Self {
            mtu: None,
            internal: options.get(INTERNAL).and_then(serde_json::Value::as_bool).unwrap_or(false),
            gateway: false,
            isolated: true,
            flannel: None,
        };
        let none = serde_json::Map::new();
        let chosen = options.get(GENERIC).and_then(|g| g.as_object()).unwrap_or(&none);
        for (key, value) in chosen {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match key.as_str() {
                MTU => read.mtu = Some(read_mtu(&text, MIN_MTU)?),
                GATEWAY => read.gateway = read_switch(GATEWAY, &text)?,
                ISOLATION => read.isolated = read_switch(ISOLATION, &text)?,
                NETWORK => read.flannel = Some(text.parse()?),
                unknown if unknown.starts_with(OURS) => {
                    return Err(bad(unknown, &text, format!("is none of {GATEWAY}, {ISOLATION}, {NETWORK}")));
                }
                // Others' options may be meant for another driver; Docker's own drivers pass them over, too.
                _ => {}
            }
        }
        if read.gateway && read.internal {
            let reason = "a way out and --internal exclude each other: leave one of them out".to_owned();
            return Err(bad(GATEWAY, "true", reason));
        }
        Ok(read)
    }

    /// Refuses an MTU that IPv6 does not allow.
    pub(super) fn check_mtu_for_v6(&self) -> Result<(), Error> {
        self.mtu.map_or(Ok(()), |mtu| read_mtu(&mtu.to_string(), MIN_MTU_V6).map(drop))
    }
}

fn bad(key: &str, text: &str, reason: String) -> Error {
    Error::Request { what: format!("option {key}={text}"), reason }
}

fn read_mtu(text: &str, least: u32) -> Result<u32, Error> {
    match text.parse() {
        Ok(mtu) if (least..=MAX_MTU).contains(&mtu) => Ok(mtu),
        _ => {
            let reason = format!("must be a number of bytes from {least} to {MAX_MTU}; leave it out for flannel's own");
            Err(bad(MTU, text, reason))
        }
    }
}

fn read_switch(key: &str, text: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(bad(key, text, "must be true or false".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(options: serde_json::Value) -> Result<NetworkOptions, String> {
        let options = serde_json::from_value(options).unwrap();
        NetworkOptions::read(&options).map_err(|e| e.to_string())
    }

    fn read_generic(key: &str, value: &str) -> Result<NetworkOptions, String> {
        read(json!({ GENERIC: { key: value } }))
    }

    #[test]
    fn reads_what_is_ours_and_passes_over_the_rest() {
        let plain = read(json!({})).unwrap();
        assert!(plain.isolated && !plain.gateway && !plain.internal && plain.mtu.is_none() && plain.flannel.is_none());
        let generic = json!({ GATEWAY: "TRUE", ISOLATION: "0", NETWORK: "blue", MTU: "1400", "com.example.x": "y" });
        let all = read(json!({ GENERIC: generic, "com.docker.network.enable_ipv6": false })).unwrap();
        assert!(all.gateway && !all.isolated);
        assert_eq!((all.mtu, all.flannel.map(|f| f.to_string()).as_deref()), (Some(1400), Some("blue")));
        assert!(read(json!({ INTERNAL: true })).unwrap().internal);
    }

    #[test]
    fn a_mistake_is_named_with_its_remedy() {
        for (key, value, part) in [
            (GATEWAY, "maybe", "option flannel.gateway=maybe: must be true or false"),
            ("flannel.gatway", "true", "option flannel.gatway=true: is none of flannel.gateway, flannel.isolation"),
            (NETWORK, "../etc", "flannel network \"../etc\""),
            (MTU, "big", "must be a number of bytes from 68 to 65535"),
        ] {
            let error = read_generic(key, value).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let both = read(json!({ INTERNAL: true, GENERIC: { GATEWAY: "1" } })).unwrap_err();
        assert!(both.contains("exclude each other"), "{both}");
        let small = read_generic(MTU, "1000").unwrap();
        assert!(small.check_mtu_for_v6().unwrap_err().to_string().contains("from 1280"));
    }
}
