//! Options of `udp`.

use super::Fields;

/// Options of `udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// The UDP port, the same on all hosts; default 8285.
    pub port: u16,
    /// Many packets at a time, where the kernel can; default yes. Upstream passes over this key and the next.
    pub offload: bool,
    /// Packets are taken from senders that no lease names, as upstream does; default no.
    pub any_source: bool,
}

impl Udp {
    /// Reads the options.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            port: fields.get("Port", "a UDP port", 8285),
            offload: fields.get("Offload", "true or false", true),
            any_source: fields.get("AnySource", "true or false", false),
        }
    }
}
