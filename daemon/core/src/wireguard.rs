//! The keys of WireGuard, and what a wireguard host adds to its lease.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::json::Object;
use crate::lease::BadLease;

/// Why a text is no key. The text is not repeated: it may be a secret with a slip in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key, which is 32 bytes in base64")]
pub struct BadKey;

fn decode(text: &str) -> Result<[u8; 32], BadKey> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| BadKey)?;
    bytes.try_into().map_err(|_| BadKey)
}

/// A public key, by which hosts know each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A private or preshared key; it never shows itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrivateKey(pub [u8; 32]);

impl PrivateKey {
    /// As a key file has it.
    pub fn to_base64(self) -> String {
        BASE64.encode(self.0)
    }
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The data a wireguard host adds to its lease: `{"PublicKey":"<base64>","Port":51820}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardData {
    /// The host's key.
    pub public_key: PublicKey,
    /// The port it listens on; absent from hosts of older versions, which use the port of the reader.
    pub port: Option<u16>,
}

impl WireguardData {
    /// The text for `BackendData`.
    pub fn to_json(self) -> String {
        let port = self.port.map(|port| format!(r#","Port":{port}"#)).unwrap_or_default();
        format!(r#"{{"PublicKey":"{}"{port}}}"#, self.public_key)
    }

    /// Reads `BackendData`; port 0 is none, as upstream reads it.
    pub fn from_json(text: &str) -> Result<Self, BadLease> {
        let object = Object::parse(text).map_err(|e| BadLease(format!("BackendData is {e}")))?;
        let within = |e: String| BadLease(format!("BackendData.{e}"));
        let key: Option<String> = object.get("PublicKey", "a text").map_err(within)?;
        let key = key.ok_or_else(|| BadLease("BackendData.PublicKey is missing".into()))?;
        let public_key = key.parse().map_err(|e| BadLease(format!("BackendData.PublicKey is {key:?}: {e}")))?;
        let port = object.get("Port", "a UDP port").map_err(within)?.filter(|port| *port != 0);
        Ok(Self { public_key, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseAttrs;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    // parity: docs/upstream.md, section 2.2
    #[test]
    fn the_lease_byte_for_byte() {
        let data = WireguardData { public_key: KEY.parse().unwrap(), port: Some(51820) };
        let attrs = LeaseAttrs {
            backend_type: "wireguard".into(),
            backend_data: Some(data.to_json()),
            ..LeaseAttrs::new("172.31.77.1".parse().unwrap())
        };
        let text = format!(
            r#"{{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"wireguard","BackendData":{{"PublicKey":"{KEY}","Port":51820}}}}"#
        );
        assert_eq!(attrs.to_json(), text);
        let read = LeaseAttrs::from_json(&text).unwrap();
        assert_eq!(WireguardData::from_json(&read.backend_data.unwrap()), Ok(data));
    }

    #[test]
    fn older_hosts_name_no_port() {
        let old = format!(r#"{{"publickey":"{KEY}"}}"#);
        let data = WireguardData::from_json(&old).unwrap();
        assert_eq!(data.port, None);
        assert_eq!(data.to_json(), format!(r#"{{"PublicKey":"{KEY}"}}"#));
        let zero = format!(r#"{{"PublicKey":"{KEY}","Port":0}}"#);
        assert_eq!(WireguardData::from_json(&zero), Ok(data));
    }

    #[test]
    fn mistakes_are_named() {
        let says = |text: &str| WireguardData::from_json(text).unwrap_err().to_string();
        assert_eq!(says("{}"), "BackendData.PublicKey is missing");
        assert_eq!(
            says(r#"{"PublicKey":"AAAA"}"#),
            "BackendData.PublicKey is \"AAAA\": not a WireGuard key, which is 32 bytes in base64"
        );
        let port = format!(r#"{{"PublicKey":"{KEY}","Port":70000}}"#);
        assert_eq!(says(&port), "BackendData.Port is 70000, which is not a UDP port");
        assert_eq!(format!("{:?}", KEY.parse::<PrivateKey>()), "Ok(PrivateKey(..))");
        assert_eq!(format!(" {KEY}\n").parse::<PrivateKey>().unwrap().to_base64(), KEY);
    }

    proptest::proptest! {
        /// Of any bytes in the place of the data the worst is a mistake that is named.
        #[test]
        fn any_data_is_read_or_refused(text in ".*", key in proptest::prelude::any::<[u8; 32]>(), port in 1u16..) {
            if let Err(BadLease(why)) = WireguardData::from_json(&text) {
                proptest::prop_assert!(why.starts_with("BackendData"), "{}", why);
            }
            let data = WireguardData { public_key: PublicKey(key), port: Some(port) };
            proptest::prop_assert_eq!(WireguardData::from_json(&data.to_json()), Ok(data));
        }
    }
}
