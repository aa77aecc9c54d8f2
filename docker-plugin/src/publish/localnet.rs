//! `route_localnet`: whether a bridge takes packets from 127.0.0.1.

use flannel_core::name::IfName;
use tracing::debug;

fn localnet_path(bridge: &IfName) -> String {
    format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet")
}

/// Has the bridge take packets from 127.0.0.1. Where that may not be set (`/proc/sys` is read-only in most containers),
/// our own listeners carry what the host itself sends to a published port.
pub fn allow_localnet(bridge: &IfName) {
    if takes_localnet(bridge) {
        return;
    }
    let path = localnet_path(bridge);
    if let Err(e) = std::fs::write(&path, "1") {
        debug!("{path} can't be set to 1: {e}");
    }
}

/// Whether it takes them.
pub fn takes_localnet(bridge: &IfName) -> bool {
    std::fs::read_to_string(localnet_path(bridge)).is_ok_and(|v| v.trim() == "1")
}
