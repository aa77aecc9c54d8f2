//! The key of a lease in etcd: `<prefix>/subnets/10.5.14.0-24`, with IPv6 `10.5.14.0-24&fd00:5:0:2e::-64`.
//!
//! Source: docs/upstream.md, section 2.1. A lease of IPv6 alone has `0.0.0.0-0` in the place of its IPv4 subnet.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::{Families, Family};

/// The subnets of one lease, which are its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

/// Why the end of an etcd key is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no subnet: the last part must look like 10.5.1.0-24 or 10.5.1.0-24&fd00:5::-64")]
pub struct BadKey(String);

impl SubnetKey {
    /// The key of these subnets; one of the two must be there. Host bits are cleared.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Option<Self> {
        (v4.is_some() || v6.is_some()).then_some(Self { v4: v4.map(|n| n.trunc()), v6: v6.map(|n| n.trunc()) })
    }

    /// The IPv4 subnet.
    pub fn v4(&self) -> Option<Ipv4Net> {
        self.v4
    }

    /// The IPv6 subnet.
    pub fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The subnets, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// The subnet of a family, given as such or by a network of it.
    pub fn net(&self, family: impl Into<Family>) -> Option<IpNet> {
        match family.into() {
            Family::V4 => self.v4.map(IpNet::V4),
            Family::V6 => self.v6.map(IpNet::V6),
        }
    }

    /// The subnets of those families alone, if there are any.
    pub fn of_families(&self, families: Families) -> Option<Self> {
        let of = |family| families.has(family);
        Self::new(self.v4.filter(|_| of(Family::V4)), self.v6.filter(|_| of(Family::V6)))
    }

    /// Reads a whole etcd key. As upstream does, only its end counts: whatever stands before the subnet is passed
    /// over, and so the prefix is none of this function's business.
    pub fn from_etcd_key(key: &str) -> Result<Self, BadKey> {
        let end = key.rsplit('/').next().unwrap_or(key);
        end.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().map_err(|BadKey(_)| BadKey(key.to_owned()))
    }
}

/// The absolute key of `rest` under the user's prefix, as Go's `path.Join` makes it and so as upstream names its keys
/// (docs/upstream.md, section 2.1): doubled and closing slashes go, `.` and `..` are resolved, no leading slash is added.
pub fn etcd_key(prefix: &str, rest: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = prefix.starts_with('/');
    for part in prefix.split('/').chain(rest.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    format!("{}{}", if rooted { "/" } else { "" }, parts.join("/"))
}

/// `10.5.1.0-24` with a length of at most `longest`, on its own boundary.
fn subnet<N: FromStr + Copy>(text: &str, longest: u8, is_base: impl Fn(N) -> bool) -> Option<N> {
    let (address, len) = text.rsplit_once('-')?;
    let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
    let len: u8 = len.parse().ok().filter(|len| digits && *len <= longest)?;
    format!("{address}/{len}").parse().ok().filter(|net| is_base(*net))
}

impl FromStr for SubnetKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let parse = || {
            let (v4, v6) = match text.split_once('&') {
                Some((v4, v6)) => (v4, Some(v6)),
                None => (text, None),
            };
            let v4 = subnet(v4, 31, |n: Ipv4Net| n == n.trunc())?;
            let lower = |v6: &str| !v6.bytes().any(|b| b.is_ascii_uppercase() || b == b'.');
            let v6 = match v6 {
                Some(v6) => Some(subnet(v6, 127, |n: Ipv6Net| n == n.trunc()).filter(|_| lower(v6))?),
                None => None,
            };
            // 0.0.0.0-0 stands for "no IPv4", and only beside IPv6: a subnet that is everything would take the place of
            // every host's default route.
            if v6.is_some_and(|v6| v6.prefix_len() == 0) {
                return None;
            }
            Self::new(Some(v4).filter(|v4| v4.prefix_len() > 0), v6)
        };
        parse().ok_or_else(|| BadKey(text.to_owned()))
    }
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v4 {
            Some(v4) => write!(f, "{}-{}", v4.addr(), v4.prefix_len())?,
            None => f.write_str("0.0.0.0-0")?,
        }
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // parity: daemon/tests/vectors/recorded/{vxlan,dualstack-vxlan}/etcd-get-prefix.txt, and the shape upstream gives an IPv6-only lease
    #[test]
    fn upstreams_keys_round_trip() {
        for text in ["10.5.57.0-24", "10.5.14.0-24&fd00:5:0:2e::-64", "0.0.0.0-0&fd00:5:0:4c::-64"] {
            let key: SubnetKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(SubnetKey::from_etcd_key(&format!("/coreos.com/network/subnets/{text}")), Ok(key));
        }
        assert_eq!(SubnetKey::from_etcd_key("subnets/x10.5.1.0-24"), "10.5.1.0-24".parse());
    }

    // parity: docs/upstream.md, section 2.1
    #[test]
    fn prefixes_are_cleaned_as_upstream_does() {
        for (prefix, key) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("coreos.com/network", "coreos.com/network/config"),
            ("//a//b", "/a/b/config"),
            ("", "config"),
            ("/", "/config"),
            ("/a/../b/./c", "/b/c/config"),
            ("/../a", "/a/config"),
            ("../a", "../a/config"),
        ] {
            assert_eq!(etcd_key(prefix, "config"), key, "{prefix:?}");
        }
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        for bad in [
            "",
            "10.5.57.0",
            "10.5.57.0/24",
            "10.5.57.0-32",
            "10.5.57.0-",
            "10.5.57.0-+4",
            "10.5.57.1-24",
            "10.5.57-24",
            "10.5.57.0-24&",
            "10.5.57.0-24&FD00::-64",
            "10.5.57.0-24&fd00::-128",
            "10.5.57.0-24&fd00::-64&x",
            "0.0.0.0-0",
            "10.5.57.0-24&::-0",
        ] {
            let error = SubnetKey::from_etcd_key(&format!("/p/subnets/{bad}")).unwrap_err();
            assert!(error.to_string().contains(&format!("/p/subnets/{bad}")), "{error}");
        }
    }
}
