//! What is measured from one place to another: pings, TCP, UDP, packets at the MTU and above it, throughput, and flows
//! that run through a fault.
//!
//! Plain sockets, no async: the same code runs on a thread inside a namespace, and as `flannel-lab probe` in a
//! container. Times are of the kernel's monotonic clock, which all places of one machine share.

mod ask;
mod echo;
mod flow;
mod server;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub use ask::{Answer, Ask, Check, TCP_BYTES, ask_all};
pub use flow::{Flow, FlowReport, Mark, TcpReport};
pub use server::{PORT, PUBLISHED, Server, own_addresses};

/// Seconds of the monotonic clock.
#[must_use]
pub fn now() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds).as_secs_f64()
}
