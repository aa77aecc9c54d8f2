//! News of the kernel: something of ours may have been taken away.

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

/// News that may call for a look at what stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A device is gone.
    Link(LinkIndex),
    /// The routes of this device may be gone.
    Routes(LinkIndex),
    /// What stood here is gone, perhaps by our own hand.
    Gone(Slot),
    /// This stands now, perhaps in the place of something of ours.
    Stands(Entry),
    /// The kernel said more than was read: anything may have gone.
    Unknown,
}

/// The stream of losses.
pub struct Monitor {
    losses: mpsc::UnboundedReceiver<Loss>,
    reader: JoinHandle<()>,
}

impl Monitor {
    /// Starts listening in the current network namespace. What `author` did itself is no news.
    pub fn open(author: u32) -> Result<Self, KernelError> {
        let mut socket = Socket::open(GROUPS)?;
        let (sender, losses) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            loop {
                let read = match socket.receive().await {
                    Ok(messages) => messages
                        .filter(|message| message.port_number() != author)
                        .filter_map(|message| loss(&decode(&message)?))
                        .try_for_each(|loss| sender.send(loss)),
                    Err(error) if is_overrun(&error) => {
                        METRICS.notifications_lost.inc();
                        sender.send(Loss::Unknown)
                    }
                    Err(error) => {
                        tracing::warn!("the kernel's notifications can't be read any more: {error}");
                        return;
                    }
                };
                if read.is_err() {
                    return;
                }
            }
        });
        Ok(Self { losses, reader })
    }

    /// Adds what there is to `losses`, at least one; never returns when the kernel stopped telling.
    pub async fn next(&mut self, losses: &mut Vec<Loss>) {
        if self.losses.recv_many(losses, usize::MAX).await == 0 {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn loss(message: &RouteNetlinkMessage) -> Option<Loss> {
    match message {
        // A bridge tells of its ports in the same kind of message, under its own family.
        RouteNetlinkMessage::DelLink(link) | RouteNetlinkMessage::NewLink(link)
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::DelLink(link) => Some(Loss::Link(LinkIndex(link.header.index))),
        // A device that goes down takes its routes along without a word about each; one that comes up has none.
        RouteNetlinkMessage::NewLink(link) => {
            let index = LinkIndex(link.header.index);
            Some(if link.header.flags.contains(LinkFlags::Up) { Loss::Routes(index) } else { Loss::Link(index) })
        }
        // The kernel's own routes go with an address, and with a device's last address all its routes without a word.
        RouteNetlinkMessage::DelRoute(route) if route.header.protocol == RouteProtocol::Kernel => {
            output(route).map(|index| Loss::Routes(LinkIndex(index)))
        }
        RouteNetlinkMessage::DelRoute(route) => read_route(route).map(|route| Loss::Gone(Slot::Route(route.dst))),
        RouteNetlinkMessage::NewRoute(route) => read_route(route).map(|route| Loss::Stands(Entry::Route(route))),
        RouteNetlinkMessage::NewNeighbour(neighbour) => read_neighbour(neighbour).map(Loss::Stands),
        // The kernel does not say who removed a neighbour or a FDB entry.
        RouteNetlinkMessage::DelNeighbour(neighbour) => neighbour_slot(neighbour).map(Loss::Gone),
        _ => None,
    }
}
