//! Checksum offload of a device, through the program `ethtool`: the setting has no place in rtnetlink.
//!
//! Some network cards and drivers break the checksum of what a vxlan device leaves to them; packets then vanish, which
//! shows as connections that take a minute. Switched off, the kernel computes it itself.

use flannel_core::name::IfName;
use tokio::process::Command;

use super::{Fault, KernelError};

/// Switches the feature `tx-checksum-ip-generic` of a device.
pub async fn set_tx_checksum(device: &IfName, on: bool) -> Result<(), KernelError> {
    let state = if on { "on" } else { "off" };
    let fail = |reason: String| KernelError {
        what: format!("switch tx-checksum-ip-generic of {device} {state} (flag -tx-checksum)"),
        reason,
        fault: Fault::Other,
    };
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", device.as_str(), "tx-checksum-ip-generic", state]).kill_on_drop(true);
    let output = ethtool.output().await.map_err(|e| fail(format!("ethtool: {e}; install ethtool")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(fail(said.lines().next().unwrap_or("ethtool failed and said nothing").to_owned()))
}
