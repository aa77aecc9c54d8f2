//! Notifications of packet-filter changes (netlink's multicast group `NFNLGRP_NFTABLES`), which the kernel sends for
//! both `nft` and iptables-nft. iptables-legacy causes none, so a caller also checks at intervals.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use flannel_core::filter::recheck::Recheck;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group as a mask, for `bind` (linux/netfilter/nfnetlink.h: `NFNLGRP_NFTABLES` is 7).
const GROUPS: u32 = 1 << (7 - 1);

/// What the kernel may queue. An overrun means no more than that something has changed.
const RECEIVE_BUFFER: usize = 64 << 10;

/// The size of a message's header.
const HEADER: usize = 16;

/// Messages about tables, chains and rules have types up to this; those about sets and their elements are higher
/// (linux/netfilter/nf_tables.h: `NFT_MSG_DELRULE`).
const LAST_RULE_MESSAGE: u8 = 8;

/// Says when a check of the rules is due because another program has changed the packet filter.
#[derive(Debug)]
pub struct Monitor {
    /// Nothing where the kernel has no notifications, or does not let us have them.
    socket: Option<AsyncFd<OwnedFd>>,
    recheck: Recheck,
}

impl Monitor {
    /// Opens a socket in the current network namespace. Without one, no check is ever due.
    pub fn open() -> Self {
        let socket = open().inspect_err(|error| tracing::debug!("no notifications of nftables: {error}")).ok();
        Self { socket, recheck: Recheck::new(now()) }
    }

    /// No check is ever due.
    pub fn never() -> Self {
        Self { socket: None, recheck: Recheck::new(now()) }
    }

    /// Returns when a check is due: [`DEBOUNCE`](flannel_core::filter::recheck::DEBOUNCE) after a change, later where
    /// many follow one another. Cancel-safe.
    pub async fn due(&mut self) {
        loop {
            let due = self.recheck.due();
            tokio::select! {
                biased;
                () = until(due) => return,
                error = changed(self.socket.as_ref()) => match error {
                    Ok(()) => self.recheck.changed(now()),
                    Err(error) => {
                        tracing::warn!("notifications of nftables have ended: {error}");
                        self.socket = None;
                    }
                },
            }
        }
    }

    /// The rules are about to be checked, because it was due or for another reason.
    pub fn checking(&mut self) {
        self.recheck.checking(now());
    }
}

/// By tokio's clock, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
    #[expect(deprecated, reason = "unsound only for types that change their descriptor, which an OwnedFd never does")]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Returns when a rule has changed; for ever pending without a socket.
async fn changed(socket: Option<&AsyncFd<OwnedFd>>) -> io::Result<()> {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = [0; 8 << 10];
    loop {
        let received = socket.async_io(Interest::READABLE, |fd| {
            Ok(rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty()).map(|(length, _)| length)?)
        });
        match received.await {
            Ok(length) if concerns_rules(&buffer[..length]) => return Ok(()),
            Ok(_) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a datagram is about a table, chain or rule, or may be because it was truncated.
fn concerns_rules(mut datagram: &[u8]) -> bool {
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, kind, ..] = *header;
        if kind <= LAST_RULE_MESSAGE {
            return true;
        }
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        match datagram.get(length.max(HEADER).next_multiple_of(4)..) {
            Some(rest) => datagram = rest,
            None => return true,
        }
    }
    !datagram.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([kind, 10]);
        message.resize(HEADER + payload.next_multiple_of(4), 0);
        message
    }

    #[test]
    fn elements_of_sets_do_not_concern_rules() {
        let (element, rule, generation) = (message(12, 30), message(6, 40), message(15, 8));
        assert!(!concerns_rules(&[element.clone(), generation.clone()].concat()));
        assert!(concerns_rules(&[element.clone(), rule, generation].concat()));
        assert!(concerns_rules(&element[..40]), "truncated");
        assert!(!concerns_rules(&[]));
    }
}
