//! Packets that can't go on: dropped and counted, as a router would.

use flannel_host::metrics::Counter;

/// Told in the log at 1, 2, 4, 8, ... of a kind, so that a flood of them is no flood of lines.
pub fn drop_for(reason: &Counter, why: impl FnOnce() -> String) {
    let count = reason.inc();
    if count.is_power_of_two() {
        tracing::debug!("udp: {count} packets dropped so far because {}", why());
    }
}

/// The same for what an operator should look at: a sender that has no business here.
pub fn refuse_for(reason: &Counter, why: impl FnOnce() -> String) {
    let count = reason.inc();
    if count.is_power_of_two() {
        tracing::warn!("udp: {count} packets refused so far because {}", why());
    }
}
