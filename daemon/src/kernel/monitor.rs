//! Notifications of the kernel: something of ours may have been removed or replaced.

use flannel_core::entry::{Entry, LinkIndex, Slot};
use flannel_host::netlink::attributes::output;
use flannel_host::netlink::batch::decode;
use flannel_host::netlink::socket::{Socket, is_overrun};
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::KernelError;
use super::message::{neighbour_slot, read_neighbour, read_route};
use crate::metrics::METRICS;

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE` of linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x4 | 0x40 | 0x400;

/// An event that may call for a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A device is gone or down.
    LinkDown(LinkIndex),
    /// The routes of this device may be gone.
    RoutesChanged(LinkIndex),
    /// The entry in this slot was removed, perhaps by us.
    Removed(Slot),
    /// This entry was installed, perhaps in the place of one of ours.
    Installed(Entry),
    /// Notifications were lost: anything may have changed.
    Overrun,
}

/// The stream of events.
pub struct Monitor {
    events: mpsc::UnboundedReceiver<KernelEvent>,
    reader: JoinHandle<()>,
}

impl Monitor {
    /// Starts listening in the current network namespace. What `author` did itself is no news.
    pub fn open(author: u32) -> Result<Self, KernelError> {
        let mut socket = Socket::open(GROUPS)?;
        let (sender, events) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            loop {
                let read = match socket.receive().await {
                    Ok(messages) => messages
                        .filter(|message| message.port_number() != author)
                        .filter_map(|message| event(&decode(&message)?))
                        .try_for_each(|event| sender.send(event)),
                    Err(error) if is_overrun(&error) => {
                        METRICS.notifications_lost.inc();
                        sender.send(KernelEvent::Overrun)
                    }
                    Err(error) => {
                        tracing::warn!("the kernel's notifications can no longer be read: {error}");
                        return;
                    }
                };
                if read.is_err() {
                    return;
                }
            }
        });
        Ok(Self { events, reader })
    }

    /// Adds what there is to `events`, at least one; never returns when the kernel stopped telling.
    pub async fn next(&mut self, events: &mut Vec<KernelEvent>) {
        if self.events.recv_many(events, usize::MAX).await == 0 {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<KernelEvent> {
    match message {
        // A bridge tells of its ports in the same kind of message, under its own family.
        RouteNetlinkMessage::DelLink(link) | RouteNetlinkMessage::NewLink(link)
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::DelLink(link) => Some(KernelEvent::LinkDown(LinkIndex(link.header.index))),
        // A device that goes down takes its routes along without a word about each; one that comes up has none.
        RouteNetlinkMessage::NewLink(link) => {
            let index = LinkIndex(link.header.index);
            Some(if link.header.flags.contains(LinkFlags::Up) {
                KernelEvent::RoutesChanged(index)
            } else {
                KernelEvent::LinkDown(index)
            })
        }
        // The kernel's own routes go with an address, and with a device's last address all its routes without a word.
        RouteNetlinkMessage::DelRoute(route) if route.header.protocol == RouteProtocol::Kernel => {
            output(route).map(|index| KernelEvent::RoutesChanged(LinkIndex(index)))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            read_route(route).map(|route| KernelEvent::Removed(Slot::Route(route.dst)))
        }
        RouteNetlinkMessage::NewRoute(route) => {
            read_route(route).map(|route| KernelEvent::Installed(Entry::Route(route)))
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => read_neighbour(neighbour).map(KernelEvent::Installed),
        // The kernel does not say who removed a neighbour or an FDB entry.
        RouteNetlinkMessage::DelNeighbour(neighbour) => neighbour_slot(neighbour).map(KernelEvent::Removed),
        _ => None,
    }
}
