//! Values the kernel limits: interface names and MAC addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network interface's name: 1 to 15 bytes, as `IFNAMSIZ` (16 with the closing zero) in `linux/if.h` allows,
/// none of them `/`, `:` or white space (`dev_valid_name` in the kernel's `net/core/dev.c`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// Why a text is no interface name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no interface name: it must have 1 to 15 bytes, without '/', ':' and white space")]
pub struct BadIfName(String);

impl IfName {
    /// The longest name the kernel takes, in bytes.
    pub const MAX: usize = 15;

    /// Checks `name` against the kernel's limits.
    pub fn new(name: impl Into<String>) -> Result<Self, BadIfName> {
        let name = name.into();
        let good = (1..=Self::MAX).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace() || b == 0x0b);
        if good { Ok(Self(name)) } else { Err(BadIfName(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address, written in lower case with colons as upstream writes it into leases.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC address: it must be six hexadecimal bytes, as in 02:00:0a:05:01:02")]
pub struct BadMac(String);

impl Mac {
    /// Random bytes made a locally administered unicast address (IEEE 802: second-least and least significant bit
    /// of the first byte are 1 and 0).
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        let mut bytes = [0; 6];
        rng.fill(&mut bytes);
        Self::local(bytes)
    }

    /// These bytes with the bits of a locally administered unicast address set.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & !0x01) | 0x02;
        Self(bytes)
    }

    /// Whether a host may own this address: neither a group address nor all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 0x01 == 0 && self.0 != [0; 6]
    }

    /// Reads an address from the bytes of a netlink attribute.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

/// As text.
impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_have_the_kernels_limits() {
        for good in ["flannel.1", "eth0", "a", "abcdefghijklmno"] {
            assert_eq!(IfName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "abcdefghijklmnop", "a/b", "a b", "a:b", "a\tb", ".", ".."] {
            assert!(IfName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn macs_round_trip_in_lower_case() {
        let mac: Mac = "7A:3F:56:96:72:2E".parse().unwrap();
        assert_eq!(mac.to_string(), "7a:3f:56:96:72:2e");
        for bad in
            ["", "7a:3f:56:96:72", "7a:3f:56:96:72:2e:00", "7a:3f:56:96:72:g0", "7:3f:56:96:72:2e", "+a:3f:56:96:72:2e"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn random_macs_are_local_unicast() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let mac = Mac::random(&mut rng);
            assert!(mac.is_unicast() && mac.0[0] & 0x02 != 0);
        }
    }
}
