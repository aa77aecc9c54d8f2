//! `NetworkDriver.*`

use serde::{Deserialize, Serialize};

use super::{Options, null_is_default};

/// Answer to `GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Capabilities {
    /// Networks live on one host.
    pub scope: &'static str,
    /// Containers reach those of other hosts.
    pub connectivity_scope: &'static str,
}

/// `CreateNetwork`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    /// The new network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// `-o` and the switches.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Options,
    /// Its IPv4 pools.
    #[serde(default, rename = "IPv4Data", deserialize_with = "null_is_default")]
    pub ipv4_data: Vec<IpamData>,
    /// Its IPv6 pools.
    #[serde(default, rename = "IPv6Data", deserialize_with = "null_is_default")]
    pub ipv6_data: Vec<IpamData>,
}

/// A pool Docker chose or was given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    /// Whose pool it is.
    #[serde(default)]
    pub address_space: String,
    /// The range.
    #[serde(default)]
    pub pool: String,
    /// The gateway's address with the range's length; may be missing.
    #[serde(default)]
    pub gateway: String,
}

/// `DeleteNetwork`
#[derive(Debug, Deserialize)]
pub struct DeleteNetwork {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
}

/// `CreateEndpoint`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpoint {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The new endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// What Docker has decided already.
    #[serde(default, deserialize_with = "null_is_default")]
    pub interface: Interface,
}

/// An interface, as Docker tells it; empty texts are open.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Interface {
    /// IPv4 with its prefix length.
    #[serde(default)]
    pub address: String,
    /// IPv6 with its prefix length.
    #[serde(default, rename = "AddressIPv6")]
    pub address_ipv6: String,
    /// The hardware address.
    #[serde(default)]
    pub mac_address: String,
}

/// Answer to `CreateEndpoint`: only what Docker left open, else it fails the container.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEndpoint {
    /// Nothing when Docker had decided all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<ChosenInterface>,
}

/// What we decided for the interface.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ChosenInterface {
    /// IPv4 with its prefix length, where Docker had none to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// IPv6.
    #[serde(rename = "AddressIPv6", skip_serializing_if = "Option::is_none")]
    pub address_ipv6: Option<String>,
    /// The hardware address, if the user chose none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// `Join`
#[derive(Debug, Deserialize)]
pub struct Join {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// The container's network namespace. The file need not be there yet.
    #[serde(default, rename = "SandboxKey")]
    pub sandbox_key: String,
}

/// `ProgramExternalConnectivity`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Program {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// What is published.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Options,
}

/// `Leave`, `DeleteEndpoint`, `EndpointOperInfo`, `RevokeExternalConnectivity`.
#[derive(Debug, Deserialize)]
pub struct EndpointCall {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
}

/// Answer to `Join`. Without a gateway Docker gives the container its own egress (`docker_gwbridge`), and with it `-p`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    /// The interface to move.
    pub interface_name: InterfaceName,
    /// Where the default route leads, if through us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The same of IPv6.
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub gateway_ipv6: Option<String>,
    /// The way to the other hosts' containers.
    pub static_routes: Vec<StaticRoute>,
}

/// The interface Docker is to move into the container.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name on the host.
    pub src_name: String,
    /// The beginning of its name in the container.
    pub dst_prefix: &'static str,
}

/// A route of the container.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// Where it leads.
    pub destination: String,
    /// 0: by way of `next_hop`.
    pub route_type: u8,
    /// The bridge's address.
    pub next_hop: String,
}

/// Answer to `EndpointOperInfo`; nothing in it is shown anywhere.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfo {
    /// Empty.
    pub value: Options,
}

/// Answer to `AllocateNetwork`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Allocated {
    /// Empty.
    pub options: Options,
}
