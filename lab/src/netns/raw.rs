//! Packets as they are: sockets that hand over and take whole IPv4 packets, header included.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

use super::{Context, Inside, Result};

/// Receives a copy of every IPv4 packet of `protocol` that is delivered to this namespace; `recv` fails after
/// `patience` without one.
///
/// The type is `UdpSocket` for its `recv` and `send_to`, which are the system calls of those names on any socket.
pub fn capture(_: &Inside, protocol: Protocol, patience: Duration) -> Result<UdpSocket> {
    let socket = raw(protocol)?;
    socket.set_read_timeout(Some(patience)).context(|| "raw socket".to_owned())?;
    Ok(socket)
}

/// Sends packets that bring their own IPv4 header (`send_to` with the packet's destination; the port is ignored).
pub fn injector(_: &Inside) -> Result<UdpSocket> {
    raw(ipproto::RAW)
}

fn raw(protocol: Protocol) -> Result<UdpSocket> {
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol));
    Ok(socket.context(|| "raw socket (needs root)".to_owned())?.into())
}
