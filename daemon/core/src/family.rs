//! IPv4 and IPv6 as values: which family something belongs to, and what is known for each of the two.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first, the order used wherever both appear.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address or a network.
    pub fn of(value: impl Into<Self>) -> Self {
        value.into()
    }

    /// The length of an address in bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl From<IpAddr> for Family {
    fn from(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<IpNet> for Family {
    fn from(net: IpNet) -> Self {
        Self::of(net.addr())
    }
}

impl From<&IpNet> for Family {
    fn from(net: &IpNet) -> Self {
        Self::of(net.addr())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A value for each address family that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dual<T> {
    /// The value for IPv4.
    pub v4: Option<T>,
    /// The value for IPv6.
    pub v6: Option<T>,
}

/// A set of address families.
pub type Families = Dual<()>;

impl<T> Dual<T> {
    /// A value for neither family.
    pub const EMPTY: Self = Self { v4: None, v6: None };

    /// A value for one family.
    pub fn only(family: Family, value: T) -> Self {
        [(family, value)].into_iter().collect()
    }

    /// The value for a family, given as such or by an address or network of it.
    pub fn get(&self, family: impl Into<Family>) -> Option<&T> {
        match family.into() {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Sets the value for a family.
    pub fn set(&mut self, family: Family, value: T) {
        match family {
            Family::V4 => self.v4 = Some(value),
            Family::V6 => self.v6 = Some(value),
        }
    }

    /// Whether a family has a value.
    pub fn has(&self, family: impl Into<Family>) -> bool {
        self.get(family).is_some()
    }

    /// Whether neither family has a value.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The families that have a value.
    pub fn families(&self) -> Families {
        self.iter().map(|(family, _)| (family, ())).collect()
    }

    /// The values with their families, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.get(family)?)))
    }

    /// The values, IPv4 first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.v4.iter().chain(&self.v6)
    }

    /// Each value replaced by what `f` makes of it.
    pub fn map<U>(self, mut f: impl FnMut(Family, T) -> U) -> Dual<U> {
        self.into_iter().map(|(family, value)| (family, f(family, value))).collect()
    }

    /// Like [`Dual::map`]; the first error ends it.
    pub fn try_map<U, E>(self, mut f: impl FnMut(Family, T) -> Result<U, E>) -> Result<Dual<U>, E> {
        self.into_iter().map(|(family, value)| Ok((family, f(family, value)?))).collect()
    }

    /// The pairs of the families that have a value on both sides.
    pub fn zip<U>(self, other: Dual<U>) -> Dual<(T, U)> {
        Dual { v4: self.v4.zip(other.v4), v6: self.v6.zip(other.v6) }
    }
}

impl Families {
    /// IPv4 alone.
    pub const V4: Self = Self { v4: Some(()), v6: None };
    /// IPv6 alone.
    pub const V6: Self = Self { v4: None, v6: Some(()) };
    /// Both families.
    pub const BOTH: Self = Self { v4: Some(()), v6: Some(()) };

    /// The families of the set, IPv4 first.
    pub fn each(self) -> impl Iterator<Item = Family> {
        self.into_iter().map(|(family, ())| family)
    }
}

impl<T> Default for Dual<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<T> IntoIterator for Dual<T> {
    type Item = (Family, T);
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<(Family, T)>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        let v4 = self.v4.map(|value| (Family::V4, value));
        let v6 = self.v6.map(|value| (Family::V6, value));
        [v4, v6].into_iter().flatten()
    }
}

impl<T> FromIterator<(Family, T)> for Dual<T> {
    fn from_iter<I: IntoIterator<Item = (Family, T)>>(values: I) -> Self {
        let mut dual = Self::EMPTY;
        for (family, value) in values {
            dual.set(family, value);
        }
        dual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_ipv4_first_whatever_order_they_were_set_in() {
        let dual: Dual<char> = [(Family::V6, 'b'), (Family::V4, 'a')].into_iter().collect();
        assert_eq!(dual.iter().collect::<Vec<_>>(), [(Family::V4, &'a'), (Family::V6, &'b')]);
        assert_eq!(dual.values().collect::<String>(), "ab");
        assert_eq!(dual.families(), Families::BOTH);
        assert_eq!(dual.zip(Dual::only(Family::V6, 1)), Dual::only(Family::V6, ('b', 1)));
        assert!(dual.try_map(|family, _| if family == Family::V4 { Ok(()) } else { Err(family) }) == Err(Family::V6));
        assert!(Dual::<u8>::default().is_empty() && !Families::V4.has(Family::V6));
    }

    #[test]
    fn the_family_of_addresses_and_networks() {
        assert_eq!(Family::of("::1".parse::<IpAddr>().unwrap()), Family::V6);
        assert_eq!(Family::of("10.5.0.0/16".parse::<IpNet>().unwrap()).to_string(), "IPv4");
        assert_eq!(Families::BOTH.each().map(Family::bits).collect::<Vec<_>>(), [32, 128]);
    }
}
