//! `IpamDriver.*`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Options, null_is_default};

/// In the options of a `RequestAddress` for the gateway: the kind of address.
pub const ADDRESS_TYPE: &str = "RequestAddressType";

/// In the options of a `RequestAddress` for a container, from Docker 29 on: the container's name.
const NAME: &str = "com.docker.network.endpoint.name";
/// The same where the driver asks for it (`RequiresMACAddress`): the hardware address.
const MAC: &str = "com.docker.network.endpoint.macaddress";

/// The value of [`ADDRESS_TYPE`], and the key of `Data` that tells the gateway with the pool.
pub const GATEWAY: &str = "com.docker.network.gateway";

/// Answer to `GetCapabilities`.
#[derive(Debug, Serialize)]
pub struct Capabilities {
    /// We choose the MAC from the address, not the address from the MAC.
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    /// We remember for ourselves.
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

/// Answer to `GetDefaultAddressSpaces`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    /// For networks of one host.
    pub local_default_address_space: String,
    /// For networks of a swarm.
    pub global_default_address_space: String,
}

/// `RequestPool`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestPool {
    /// `--subnet`, or empty.
    #[serde(default)]
    pub pool: String,
    /// `--ip-range`, or empty.
    #[serde(default)]
    pub sub_pool: String,
    /// `--ipam-opt`
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: BTreeMap<String, String>,
    /// IPv6 is asked for.
    #[serde(default, rename = "V6")]
    pub v6: bool,
}

/// Answer to `RequestPool`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PoolGiven {
    /// Names it from now on.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The range.
    pub pool: String,
    /// May hold the gateway.
    pub data: BTreeMap<&'static str, String>,
}

/// `ReleasePool`
#[derive(Debug, Deserialize)]
pub struct ReleasePool {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// `RequestAddress`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestAddress {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address wanted, or empty.
    #[serde(default)]
    pub address: String,
    /// What it is for.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Options,
}

impl RequestAddress {
    /// Whether the address is to be the network's gateway.
    pub fn is_for_gateway(&self) -> bool {
        self.options.get(ADDRESS_TYPE).and_then(|v| v.as_str()) == Some(GATEWAY)
    }

    /// What tells whom the address is for, if Docker says so.
    pub fn who(&self) -> Option<&str> {
        [NAME, MAC].into_iter().find_map(|key| self.options.get(key)?.as_str()).filter(|who| !who.is_empty())
    }
}

/// Answer to `RequestAddress`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressGiven {
    /// The address with the pool's prefix length.
    pub address: String,
    /// Nothing.
    pub data: BTreeMap<&'static str, String>,
}

/// `ReleaseAddress`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleaseAddress {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address.
    #[serde(default)]
    pub address: String,
}
