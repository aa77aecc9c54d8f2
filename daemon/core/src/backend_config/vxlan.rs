//! Options of `vxlan`.

use super::Fields;

/// Options of `vxlan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits; default 1.
    pub vni: u32,
    /// UDP port of the tunnel; 0, the default, leaves it to the kernel, which takes 8472.
    pub port: u16,
    /// Group-based policy extension.
    pub gbp: bool,
    /// Whether the device learns addresses from what it receives.
    pub learning: bool,
    /// Plain routes to hosts of the same link, tunnels only to the others.
    pub direct_routing: bool,
    /// MTU of the outer packets, in bytes; default that of the external interface.
    pub mtu: Option<u32>,
}

impl Vxlan {
    /// Reads the options.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        let vxlan = Self {
            vni: fields.get("VNI", "a VXLAN network identifier (0 to 16777215)", 1),
            port: fields.get("Port", "a UDP port", 0),
            gbp: fields.get("GBP", "true or false", false),
            learning: fields.get("Learning", "true or false", false),
            direct_routing: fields.get("DirectRouting", "true or false", false),
            mtu: Some(fields.get("MTU", "a number of bytes", 0)).filter(|mtu| *mtu > 0),
        };
        if vxlan.vni >= 1 << 24 {
            fields.mistakes.push(format!("Backend.VNI {} is over 16777215, the largest of 24 bits", vxlan.vni));
        }
        vxlan
    }
}
