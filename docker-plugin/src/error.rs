//! What can go wrong, each in one line that names the object and the remedy.
//!
//! Docker shows these lines to the user word for word, behind `remote: `.

use flannel_core::family::Family;
use std::net::IpAddr;

use ipnet::IpNet;

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// flanneld has not written its file.
    #[error("{path} is not there: flanneld has not written it yet; start flanneld, or name its file with -subnet-file")]
    NoLease {
        /// The file.
        path: String,
    },
    /// The file is there and no good.
    #[error("{path} can't be used: {reason}; restart flanneld to have it written anew")]
    LeaseUnreadable {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The lease has no addresses of that family.
    #[error(
        "this host's flannel lease {lease} has no {family} part: leave out {option}, or switch {family} on in flannel's config"
    )]
    NoFamily {
        /// The lease.
        lease: String,
        /// The family asked for.
        family: Family,
        /// What the user would leave out.
        option: &'static str,
    },
    /// Docker's own pool, or the user's, is not ours to use.
    #[error("pool {pool} is not inside this host's flannel lease {lease}: type \"{ipam}\", or \"{plain}\"")]
    ForeignPool {
        /// The pool.
        pool: IpNet,
        /// The lease.
        lease: IpNet,
        /// The command that leaves the choice to us.
        ipam: String,
        /// The command with Docker's own address management.
        plain: String,
    },
    /// Another network has it.
    #[error("{} is taken: {pool} belongs to {owner}; {remedy}", of_lease(.wanted, .lease))]
    Taken {
        /// What was asked for.
        wanted: IpNet,
        /// The lease.
        lease: IpNet,
        /// What overlaps it.
        pool: IpNet,
        /// Who has that.
        owner: String,
        /// What to type.
        remedy: String,
    },
    /// `--ip-range` outside `--subnet`.
    #[error("range {range} is not inside pool {pool}: choose --ip-range inside --subnet")]
    RangeOutside {
        /// The range.
        range: IpNet,
        /// The pool.
        pool: IpNet,
    },
    /// A pool without room.
    #[error("pool {pool} is too small: it must hold a gateway and a container, so choose a --subnet of /30 or larger")]
    PoolTooSmall {
        /// The pool.
        pool: IpNet,
    },
    /// Every address is used.
    #[error("no free address in {pool}{}: {used} in use{users}; remove containers, or recreate the network with a larger --subnet", of_network(.network.as_deref()))]
    PoolExhausted {
        /// The pool or range.
        pool: IpNet,
        /// How many are used.
        used: usize,
        /// Whose pool it is.
        network: Option<String>,
        /// `, by a, b and 3 more`, or nothing.
        users: String,
    },
    /// An address somebody has.
    #[error("address {address} of pool {pool} is in use: choose another --ip, or leave it out")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: IpNet,
    },
    /// An address no host may have.
    #[error(
        "address {address} is none that pool {pool} can give: choose one inside it, neither its first nor its last"
    )]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: IpNet,
    },
    /// A PoolID we never gave, or have forgotten.
    #[error("pool {id} is not known here: remove its network with \"docker network rm\" and create it again")]
    UnknownPool {
        /// The PoolID.
        id: String,
    },
    /// A network we never made, or have forgotten.
    #[error("network {id} is not known here: remove it with \"docker network rm {id}\" and create it again")]
    UnknownNetwork {
        /// The network's short ID.
        id: String,
    },
    /// An endpoint we never made, or have forgotten.
    #[error("endpoint {id} is not known here: disconnect its container from the network and connect it again")]
    UnknownEndpoint {
        /// The endpoint's short ID.
        id: String,
    },
    /// The host has another lease now.
    #[error(
        "network {id} has pool {pool}, but this host's flannel lease is {lease} now: recreate it, with \"docker network rm {id}\" and \"{command}\""
    )]
    LeaseChanged {
        /// The network's short ID.
        id: String,
        /// Its pool.
        pool: IpNet,
        /// The lease.
        lease: String,
        /// The command that makes it anew.
        command: String,
    },
    /// Docker sent something we can't use.
    #[error("{what}: {reason}")]
    Request {
        /// The field and its value.
        what: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The kernel refused.
    #[error("{0}")]
    Link(#[from] crate::links::LinkError),
    /// The state could not be written.
    #[error("{0}")]
    State(String),
}

fn of_lease(wanted: &IpNet, lease: &IpNet) -> String {
    if wanted == lease {
        format!("this host's flannel lease {lease}")
    } else {
        format!("{wanted} of this host's flannel lease {lease}")
    }
}

fn of_network(network: Option<&str>) -> String {
    network.map(|id| format!(" of network {}", short(id))).unwrap_or_default()
}

/// An ID as `docker network ls` shows it.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
