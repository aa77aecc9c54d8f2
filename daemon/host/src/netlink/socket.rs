//! A netlink socket for what a request at a time is too slow for, and for dumps that must be complete.
//!
//! The kernel processes a message within the `send` that delivers it, so the answer is there when `send` returns:
//! nothing here waits for long, and a dump continues with each `recv`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Fault, KernelError};

/// Room for answers not read yet, in bytes of the kernel's accounting (about 1 KiB a message). Memory is used only while
/// it is filled.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The largest datagram of a dump (linux/net/netlink/af_netlink.c: at most 32 KiB), in bytes.
const DATAGRAM: usize = 32 << 10;

/// A socket of `NETLINK_ROUTE`.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// Whether a dump runs. One whose caller went away in between still does, and the kernel refuses a second one.
    pub(super) dumping: bool,
}

impl Socket {
    /// Opens one in the current network namespace that joins these multicast groups (a mask of `RTMGRP_*`).
    pub fn open(groups: u32) -> Result<Self, KernelError> {
        Self::try_open(groups).map_err(|e| KernelError {
            what: "open a netlink socket".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })
    }

    fn try_open(groups: u32) -> io::Result<Self> {
        let fd = open_strict()?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Beyond the system's limit only with CAP_NET_ADMIN; otherwise as much as allowed.
        if set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
            set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        }
        let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?.pid();
        #[expect(
            deprecated,
            reason = "unsound only for types that change their descriptor, which an OwnedFd never does"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; DATAGRAM], dumping: false })
    }

    /// The kernel's address of this socket; notifications carry the port of whoever asked for the change.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The sequence number of the next message; its answer carries it.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Hands messages to the kernel, which executes them before this returns.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(self.fd.get_ref(), messages, SendFlags::empty()))?;
        Ok(())
    }

    /// Reads what an abandoned dump left. Each `recv` produces the dump's next part, so nothing is waited for.
    pub(super) fn drain(&mut self) {
        while !matches!(receive(self.fd.get_ref(), &mut self.buffer), Err(error) if error != Errno::NOBUFS) {}
        self.dumping = false;
    }

    /// The next messages.
    pub async fn receive(&mut self) -> io::Result<Messages<'_>> {
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

/// A socket on which the kernel honours the filters of a dump, as `ip` asks for it; before Linux 4.20 it lists all.
fn open_strict() -> io::Result<OwnedFd> {
    let socket = rtnetlink::sys::Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    if let Err(error) = socket.set_netlink_get_strict_chk(true) {
        tracing::debug!("dumps are not filtered by the kernel: {error}");
    }
    socket.as_fd().try_clone_to_owned()
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::net::recv(fd, buffer, RecvFlags::empty()).map(|(length, _)| length)
}

/// The messages of one datagram; a truncated one ends them.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a>(pub &'a [u8]);

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

/// Whether the kernel dropped messages because the receive buffer was full.
pub fn is_overrun(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOBUFS)
}
