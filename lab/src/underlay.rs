//! Finding a free /24 for a lab's underlay, so that two labs on one machine do not collide.

use crate::{Error, Result};

/// The candidates: `172.29.77` to `172.29.96`, the first three numbers of a /24.
fn candidates() -> impl Iterator<Item = [u8; 3]> {
    (77..=96).map(|third| [172, 29, third])
}

/// An IPv4 subnet as first and last address. IPv6 and nonsense: `None`.
fn range(subnet: &str) -> Option<(u32, u32)> {
    let (address, length) = subnet.split_once('/')?;
    let address = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let host_bits = u32::MAX.checked_shr(length).unwrap_or(0);
    Some((address & !host_bits, address | host_bits))
}

/// The first candidate that overlaps none of the subnets in use.
pub fn choose(in_use: &[String]) -> Result<String> {
    let used: Vec<_> = in_use.iter().filter_map(|subnet| range(subnet)).collect();
    let free = |[a, b, c]: &[u8; 3]| {
        let (first, last) = (u32::from_be_bytes([*a, *b, *c, 0]), u32::from_be_bytes([*a, *b, *c, 255]));
        used.iter().all(|(low, high)| last < *low || *high < first)
    };
    candidates().find(free).map(|[a, b, c]| format!("{a}.{b}.{c}")).ok_or_else(|| {
        Error::State(
            "no free underlay in 172.29.77.0/24 to 172.29.96.0/24: take old labs down, or give --underlay".into(),
        )
    })
}

/// The underlay that a subnet is, if it is a /24: `172.29.77.0/24` is `172.29.77`.
#[must_use]
pub fn of_subnet(subnet: &str) -> Option<String> {
    subnet.strip_suffix(".0/24").map(str::to_owned)
}

/// Checks the text of `--underlay`.
pub fn check(text: &str) -> Result<()> {
    match format!("{text}.0").parse::<std::net::Ipv4Addr>() {
        Ok(address) if address.is_private() => Ok(()),
        _ => Err(Error::Usage(format!(
            "--underlay {text} is not the first three numbers of a private /24: give for example 172.29.77"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(in_use: &[&str]) -> String {
        choose(&in_use.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn takes_the_first_that_is_free() {
        assert_eq!(chosen(&[]), "172.29.77");
        assert_eq!(chosen(&["172.17.0.0/16", "fd00::/64", ""]), "172.29.77");
        assert_eq!(chosen(&["172.29.77.0/24", "172.29.78.128/25"]), "172.29.79");
        assert_eq!(chosen(&["172.29.64.0/19"]), "172.29.96");
    }

    #[test]
    fn says_when_there_is_none() {
        let error = choose(&["172.29.0.0/16".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no free underlay"), "{error}");
    }

    #[test]
    fn the_whole_internet_and_one_address_are_ranges() {
        assert_eq!(range("0.0.0.0/0"), Some((0, u32::MAX)));
        assert_eq!(range("10.0.0.1/32"), Some((0x0a00_0001, 0x0a00_0001)));
        assert_eq!(range("10.0.0.1/33"), None);
    }

    #[test]
    fn checks_the_flag() {
        assert!(check("172.29.80").is_ok());
        for bad in ["", "172.29", "172.29.80.0", "8.8.8", "172.29.300", "x"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
