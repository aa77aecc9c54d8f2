//! Docker's daemon options made of the lease: what upstream's `mk-docker-opts.sh` derives from `subnet.env`.
//!
//! docs/upstream.md, section 8. The options come from variables, those of the environment and, before them, those that
//! `subnet.env` assigns ([`assignments`]); the result is a file of further assignments that Docker's unit reads:
//!
//! ```text
//! DOCKER_OPT_BIP="--bip=10.1.74.1/24"
//! DOCKER_OPT_IPMASQ="--ip-masq=true"
//! DOCKER_OPT_MTU="--mtu=1472"
//! DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
//! ```
//!
//! Three things are ours: a value is checked before it is written, what a shell would read differently inside double
//! quotes is escaped, and [`Wanted::address_pool`] hands the lease to Docker's networks in parts.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

pub mod assignments;

/// Variables by name. Upstream lists them as a shell's `set` does, in the order of their names.
pub type Variables = BTreeMap<String, String>;

/// The longest prefix of a part that still has room for a bridge and a container.
pub const LONGEST_PART: u8 = 30;

/// Where upstream puts the options.
pub const DEFAULT_PATH: &str = "/run/docker_opts.env";

const MARK: &str = "DOCKER_OPT_";

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// A variable for each option.
    pub individual: bool,
    /// One variable with all options.
    pub combined: bool,
    /// The name of that variable. A value it has already stays in front.
    pub key: String,
    /// Whether Docker is told to masquerade or not.
    pub ip_masq: bool,
    /// The prefix length of the parts of the lease that become Docker's default address pools.
    pub address_pool: Option<u8>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { individual: true, combined: true, key: "DOCKER_OPTS".into(), ip_masq: true, address_pool: None }
    }
}

/// Docker's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOpts {
    /// The file's text.
    pub text: String,
    /// The host's subnet, host bits cleared, if it is known.
    pub subnet: Option<Ipv4Net>,
}

/// Why there are no options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVariable {
    /// A value that can't be read.
    #[error("{name}={value:?} is not {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// Parts are wanted of a lease that is not known.
    #[error("FLANNEL_SUBNET is missing, and -address-pool takes parts of it: is flanneld running?")]
    NoSubnet,
    /// Parts that are no parts.
    #[error("-address-pool={size} gives no parts of the lease {subnet}: make it {} to {LONGEST_PART}", .subnet.prefix_len() + 1)]
    PoolSize {
        /// The length asked for.
        size: u8,
        /// The host's subnet.
        subnet: Ipv4Net,
    },
    /// The lease is too small to be parted at all.
    #[error("the lease {0} is too small for -address-pool: set a SubnetLen below {LONGEST_PART} in flannel's config")]
    TooSmall(Ipv4Net),
}

/// Makes Docker's options of the variables.
pub fn derive(wanted: &Wanted, mut variables: Variables) -> Result<DockerOpts, BadVariable> {
    let lease: Option<Ipv4Net> = parsed(&variables, "FLANNEL_SUBNET", "an IPv4 address with its prefix length")?;
    let mtu: Option<u32> = parsed(&variables, "FLANNEL_MTU", "a number of bytes")?;
    let masked: Option<bool> =
        if wanted.ip_masq { parsed(&variables, "FLANNEL_IPMASQ", "true or false")? } else { None };
    let mut option = |name: &str, value: String| variables.insert(format!("{MARK}{name}"), value);
    if let Some(size) = wanted.address_pool {
        let lease = lease.ok_or(BadVariable::NoSubnet)?;
        let part = part(lease, size)?;
        // Docker would take the whole lease for its own bridge, and nothing would be left to be handed out.
        option("BIP", format!("--bip={part}"));
        option("ADDRESS_POOL", format!("--default-address-pool=base={},size={size}", lease.trunc()));
    } else if let Some(lease) = lease {
        option("BIP", format!("--bip={lease}"));
    }
    if let Some(mtu) = mtu {
        option("MTU", format!("--mtu={mtu}"));
    }
    if let Some(masked) = masked {
        // What flannel masquerades Docker need not, and the other way round.
        option("IPMASQ", format!("--ip-masq={}", !masked));
    }
    Ok(DockerOpts { text: render(wanted, &variables), subnet: lease.map(|lease| lease.trunc()) })
}

/// The part of the lease that its first address lies in.
fn part(lease: Ipv4Net, size: u8) -> Result<Ipv4Net, BadVariable> {
    if lease.prefix_len() >= LONGEST_PART {
        return Err(BadVariable::TooSmall(lease.trunc()));
    }
    Ipv4Net::new(lease.addr(), size)
        .ok()
        .filter(|_| size > lease.prefix_len() && size <= LONGEST_PART)
        .ok_or(BadVariable::PoolSize { size, subnet: lease.trunc() })
}

fn render(wanted: &Wanted, variables: &Variables) -> String {
    let given = variables.get(&wanted.key).filter(|value| !value.is_empty());
    // Upstream's blanks: one before each option, and one more behind what was there before.
    let mut combined = given.map(|value| format!("{value} ")).unwrap_or_default();
    let mut text = String::new();
    // Upstream looks for the mark in the whole line that `set` prints, so a value may have it, too.
    for (name, value) in variables.iter().filter(|(name, value)| name.contains(MARK) || value.contains(MARK)) {
        if wanted.individual {
            text += &assignment(name, value);
        }
        combined = combined + " " + value;
    }
    if wanted.combined {
        text += &assignment(&wanted.key, &combined);
    }
    text
}

/// `NAME="value"`, to be read by a shell and by systemd alike.
fn assignment(name: &str, value: &str) -> String {
    let mut line = format!("{name}=\"");
    for char in value.chars() {
        if matches!(char, '"' | '\\' | '$' | '`') {
            line.push('\\');
        }
        line.push(char);
    }
    line + "\"\n"
}

/// The value of a variable; an empty one is none.
fn parsed<T: std::str::FromStr>(
    variables: &Variables,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, BadVariable> {
    let Some(value) = variables.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| BadVariable::Value { name, value: value.clone(), expected })
}

#[cfg(test)]
mod tests;
