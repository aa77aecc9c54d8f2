//! What is recorded: networks, endpoints and pools, as they are in the state file.

use std::collections::BTreeMap;

use flannel_core::name::Mac;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::lease::{FlannelName, Side};
use super::pool::Pool;
use super::port::Port;

/// The version of the file's layout this program writes; it reads no newer one.
pub(super) const VERSION: u32 = 1;

/// How the name of a pool without PoolID begins.
const LOST: &str = "lost-";

/// The address space of networks made with `--ipam-driver null`.
pub const WITHOUT_IPAM: &str = "null";

/// Everything we remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Makes PoolIDs of a lost state differ from ours.
    salt: u32,
    next_pool: u64,
    /// By PoolID.
    pub pools: BTreeMap<String, Pool>,
    /// By NetworkID.
    pub networks: BTreeMap<String, Network>,
}

/// A Docker network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// One a family.
    pub subnets: Vec<Subnet>,
    /// Whose addresses they are: Docker's own address space, or ours.
    pub address_space: String,
    /// `-o com.docker.network.driver.mtu`; without it the lease's MTU counts.
    pub mtu_option: Option<u32>,
    /// `--internal`.
    pub internal: bool,
    /// `-o flannel.gateway=true`: gateway mode, the default route leads through the bridge.
    #[serde(default)]
    pub gateway: bool,
    /// Whether other flannel networks of the host are kept out.
    #[serde(default)]
    pub isolated: bool,
    /// `-o flannel.network`: another daemon's flannel network.
    #[serde(default)]
    pub flannel: Option<FlannelName>,
    /// The lease's MTU when it was last read, for a rebuild before flanneld is up.
    pub lease_mtu: u32,
    /// The lease when it was last read, in the network's families.
    pub lease: Vec<Side>,
    /// By EndpointID.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Network {
    /// All that it is but its containers.
    pub fn without_endpoints(&self) -> Self {
        Self {
            subnets: self.subnets.clone(),
            address_space: self.address_space.clone(),
            flannel: self.flannel.clone(),
            lease: self.lease.clone(),
            endpoints: BTreeMap::new(),
            ..*self
        }
    }

    /// Whether Docker leaves its addresses to the driver (`--ipam-driver null`).
    pub fn is_without_ipam(&self) -> bool {
        self.address_space == WITHOUT_IPAM
    }

    /// The MTU of its bridge and of new interfaces.
    pub fn mtu(&self) -> u32 {
        self.mtu_option.unwrap_or(self.lease_mtu)
    }
}

/// A network's addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range.
    pub pool: IpNet,
    /// The bridge's address, with the range's prefix length.
    pub gateway: IpNet,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// One a family.
    pub addresses: Vec<IpNet>,
    /// The interface's MAC.
    pub mac: Mac,
    /// The container it is in, where another network's routes may be there too.
    pub sandbox: Option<String>,
    /// What is published while the container's default route leads through this network.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// A state that knows nothing.
impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            salt: fastrand::u32(..),
            next_pool: 1,
            pools: BTreeMap::new(),
            networks: BTreeMap::new(),
        }
    }
}

impl State {
    /// The pools of a network.
    pub fn pools_of(&self, network: &str) -> impl Iterator<Item = (&String, &Pool)> {
        self.pools.iter().filter(move |(_, pool)| pool.network.as_deref() == Some(network))
    }

    /// Gives addresses back to the pools of a network.
    pub fn give_back(&mut self, network: &str, addresses: &[IpNet]) {
        for pool in self.pools.values_mut().filter(|pool| pool.network.as_deref() == Some(network)) {
            for address in addresses {
                pool.release(address.addr());
            }
        }
    }

    /// A PoolID that was never used before: were it made from the range alone, a late release for a deleted network
    /// could hit a live one. The range is in it, too, for [`State::pool_mut`].
    pub fn new_pool_id(&mut self, subnet: IpNet) -> String {
        let id = format!("pool-{:08x}-{}-{subnet}", self.salt, self.next_pool);
        self.next_pool += 1;
        id
    }

    /// The name of a pool whose PoolID was lost with the state.
    pub fn lost_pool_id(network: &str, subnet: IpNet) -> String {
        format!("{LOST}{network}-{subnet}")
    }

    /// A pool by its PoolID. One that was lost is found by the range in the ID, and has its ID again from then on.
    pub fn pool_mut(&mut self, id: &str) -> Option<&mut Pool> {
        if !self.pools.contains_key(id) {
            let range = id.strip_prefix("pool-")?.splitn(3, '-').nth(2)?;
            let suffix = format!("-{range}");
            let lost = self.pools.keys().find(|k| k.starts_with(LOST) && k.ends_with(&suffix))?.clone();
            let pool = self.pools.remove(&lost)?;
            self.pools.insert(id.to_owned(), pool);
        }
        self.pools.get_mut(id)
    }
}
