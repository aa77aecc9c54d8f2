//! News of the kernel: something of ours may have been taken away.

use flannel_core::entry::{Entry, LinkIndex};
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{output, read_neighbour, read_route};
use super::{Fault, KernelError};

/// News that may call for a look at what stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A device is gone.
    Link(LinkIndex),
    /// A route of this device is gone, or all of them may be.
    Route(LinkIndex),
    /// A neighbour or forwarding record of this device is gone.
    Neighbour(LinkIndex),
    /// This stands now, perhaps in the place of something of ours.
    Stands(Entry),
    /// The kernel said more than was read: anything may have gone.
    Unknown,
}

/// The stream of losses.
pub struct Monitor {
    messages: futures_util::stream::BoxStream<'static, Option<Loss>>,
}

impl Monitor {
    /// Starts listening in the current network namespace.
    pub fn open() -> Result<Self, KernelError> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route, MulticastGroup::Neigh];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups).map_err(|e| KernelError {
            what: "listen to the kernel's notifications".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })?;
        tokio::spawn(connection);
        // The connection ends when nobody can send requests any more, so the handle lives with the stream.
        let messages = messages.map(move |(message, _)| {
            let _open = &handle;
            loss(&message.payload)
        });
        Ok(Self { messages: messages.boxed() })
    }

    /// The next loss; never returns when the kernel stopped telling.
    pub async fn next(&mut self) -> Loss {
        loop {
            match self.messages.next().await {
                Some(Some(loss)) => return loss,
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }
}

fn loss(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Loss> {
    match payload {
        // A bridge tells of its ports in the same kind of message, under its own family.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link) | RouteNetlinkMessage::NewLink(link))
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
            Some(Loss::Link(LinkIndex(link.header.index)))
        }
        // A device that goes down takes its routes along without a word about each; one that comes up has none.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            let index = LinkIndex(link.header.index);
            Some(if link.header.flags.contains(LinkFlags::Up) { Loss::Route(index) } else { Loss::Link(index) })
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
            output(route).map(|index| Loss::Route(LinkIndex(index)))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            read_route(route).map(|route| Loss::Stands(Entry::Route(route)))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
            read_neighbour(neighbour).map(Loss::Stands)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbour)) => {
            Some(Loss::Neighbour(LinkIndex(neighbour.header.ifindex)))
        }
        NetlinkPayload::Overrun(_) => Some(Loss::Unknown),
        _ => None,
    }
}
