//! Packets as they are: sockets that hand over and take whole IPv4 packets, header included.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketFlags, SocketType, ipproto, socket_with};

use crate::{Context, Inside, Result};

/// Receives a copy of every IPv4 packet of `protocol` that is delivered to this namespace; `recv` fails after
/// `timeout` without one.
///
/// The type is `UdpSocket` for its `recv` and `send_to`, which are the system calls of those names on any socket.
pub fn capture(_: &Inside, protocol: Protocol, timeout: Duration) -> Result<UdpSocket> {
    let socket = raw(AddressFamily::INET, SocketType::RAW, protocol)?;
    socket.set_read_timeout(Some(timeout)).context(|| "raw socket".to_owned())?;
    Ok(socket)
}

/// Sends packets that bring their own IPv4 header (`send_to` with the packet's destination; the port is ignored).
pub fn injector(_: &Inside) -> Result<UdpSocket> {
    raw(AddressFamily::INET, SocketType::RAW, ipproto::RAW)
}

/// Receives a copy of every packet that any interface of this namespace sends or receives, from its IP header on; also
/// of those the kernel then refuses.
pub fn tap(_: &Inside, timeout: Duration) -> Result<UdpSocket> {
    // ETH_P_ALL of linux/if_ether.h, in network order as packet(7) wants it.
    let all = RawProtocol::new(u32::from(3_u16.to_be())).map(Protocol::from_raw);
    let all = all.context(|| "ETH_P_ALL".to_owned())?;
    let socket = raw(AddressFamily::PACKET, SocketType::DGRAM, all)?;
    socket.set_read_timeout(Some(timeout)).context(|| "packet socket".to_owned())?;
    Ok(socket)
}

fn raw(family: AddressFamily, kind: SocketType, protocol: Protocol) -> Result<UdpSocket> {
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
    Ok(socket.context(|| "raw socket (needs root)".to_owned())?.into())
}
