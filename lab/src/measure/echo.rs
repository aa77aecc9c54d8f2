//! ICMP echo by the kernel's ping sockets: no header to build but eight bytes, the same for both families.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// Type and code, checksum, identifier, sequence number; the kernel fills in the middle two.
const HEADER: usize = 8;
/// With the headers of ICMP and IP as long as the `ping` program's packets.
const PAYLOAD: usize = 56;

/// A socket that pings one address.
#[derive(Debug)]
pub(super) struct Echo {
    socket: UdpSocket,
    request: u8,
    reply: u8,
}

impl Echo {
    /// A socket for `target`. The namespace must allow ping sockets to root (`net.ipv4.ping_group_range`).
    pub(super) fn new(target: IpAddr) -> std::io::Result<Self> {
        let (family, protocol, request, reply) = match target {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
        };
        let socket: UdpSocket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?.into();
        // A route that comes later is used all the same: the kernel looks it up again for each packet.
        match socket.connect(SocketAddr::new(target, 0)) {
            Ok(()) => Ok(Self { socket, request, reply }),
            Err(error) => Err(error),
        }
    }

    /// Its socket, for timeouts.
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends the request of this number.
    pub(super) fn send(&self, sequence: u16) -> std::io::Result<()> {
        let mut packet = [0; HEADER + PAYLOAD];
        packet[0] = self.request;
        packet[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
        self.socket.send(&packet).map(drop)
    }

    /// Receives one packet; the number if it is an answer.
    pub(super) fn receive(&self) -> std::io::Result<Option<u16>> {
        let mut packet = [0; HEADER + PAYLOAD];
        let length = self.socket.recv(&mut packet)?;
        let answer = length >= HEADER && packet[0] == self.reply;
        Ok(answer.then(|| u16::from_be_bytes([packet[6], packet[7]])))
    }
}
