//! A netlink socket of the daemon's own, for what one request at a time is too slow for.
//!
//! The kernel works off a message within the `send` that brings it, so what it has to say is there when `send` returns:
//! nothing here waits for long, and a dump goes on with each `recv`.

use std::io;
use std::os::fd::OwnedFd;

use rtnetlink::packet_core::NetlinkBuffer;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Fault, KernelError};
use crate::metrics::METRICS;

/// How much the kernel may have to say before it is read, in bytes of its own accounting (about 1 KiB a message). It
/// takes memory only while it is used.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The largest piece of a dump (linux/net/netlink/af_netlink.c: at most 32 KiB), in bytes.
const DATAGRAM: usize = 32 << 10;

/// A socket of `NETLINK_ROUTE`.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the current network namespace that hears these multicast groups (a mask of `RTMGRP_*`).
    pub(super) fn open(groups: u32) -> Result<Self, KernelError> {
        Self::try_open(groups).map_err(|e| KernelError {
            what: "open a netlink socket".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })
    }

    fn try_open(groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Past the system's limit only for who may administer the host; elsewhere as much as there is.
        if set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
            set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        }
        let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?.pid();
        #[expect(
            deprecated,
            reason = "unsound only for types that change their descriptor, which an OwnedFd never does"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// What the kernel calls this socket; its notifications bear the port of who asked for the change.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// The number of the next message; the answer bears it.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Hands messages to the kernel, which carries them out before this returns.
    pub(super) fn send(&self, messages: &[u8]) -> io::Result<()> {
        METRICS.datagrams.inc();
        rustix::io::retry_on_intr(|| rustix::net::send(self.fd.get_ref(), messages, SendFlags::empty()))?;
        Ok(())
    }

    /// The next messages.
    pub(super) async fn receive(&mut self) -> io::Result<Messages<'_>> {
        let length = match receive(self.fd.get_ref(), &mut self.buffer) {
            Err(Errno::WOULDBLOCK) => {
                let buffer = &mut self.buffer;
                self.fd.async_io(Interest::READABLE, |fd| receive(fd, buffer).map_err(io::Error::from)).await?
            }
            other => other?,
        };
        Ok(Messages(&self.buffer[..length]))
    }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::net::recv(fd, buffer, RecvFlags::empty()).map(|(length, _)| length)
}

/// The messages of one datagram; what is cut short ends them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = NetlinkBuffer<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = NetlinkBuffer::new_checked(self.0).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        let bytes = self.0.get(..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkBuffer::new(bytes))
    }
}

/// Whether the kernel had more to say than the buffer takes, and dropped some of it.
pub(super) fn is_overrun(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOBUFS)
}
