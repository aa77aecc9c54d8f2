//! Cutting what the kernel hands over into the packets that go on the wire.
//!
//! A **super-packet** is one header and up to 64 KiB of payload, with the size of the segments it stands for. Each
//! segment gets a header of its own, written to a side array; the payload stays where it is. What changes from segment
//! to segment is what the kernel's own segmentation changes: lengths, the IPv4 identification (one more each), TCP's
//! sequence number, FIN and PSH (only on the last), CWR (only on the first), and the checksums.

use std::ops::Range;

use super::checksum::{field, pseudo_header, sum};
use super::offload::{Kind, Offload};
use super::{FRAGMENT, Packet, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, tcp};

/// A packet for the wire: its header and its payload, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where the header is in the side array; empty if the packet is all in `body`.
    pub head: Range<usize>,
    /// Where the rest is in the packet's bytes.
    pub body: Range<usize>,
}

/// Why a packet can't be cut: the kernel's description of it and its bytes don't agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's description of them is wrong: {0}")]
pub struct BadOffload(&'static str);

/// Calls `piece` for each wire packet that `packet` stands for, in order. Headers are added to `heads`. After an error
/// nothing was called.
pub fn segment(
    offload: &Offload,
    packet: &mut Packet<'_>,
    heads: &mut Vec<u8>,
    mut piece: impl FnMut(Piece),
) -> Result<(), BadOffload> {
    match offload.kind {
        Kind::Single => {
            if offload.needs_checksum {
                complete(offload, packet)?;
            }
            piece(Piece { head: 0..0, body: 0..packet.bytes.len() });
            Ok(())
        }
        Kind::Tcp => segments(offload, packet, heads, &Transport::Tcp, piece),
        Kind::Udp => segments(offload, packet, heads, &Transport::Udp, piece),
        Kind::Other(_) => Err(BadOffload("a super-packet of a kind that was not asked for")),
    }
}

/// Completes a checksum that the kernel left to its device.
fn complete(offload: &Offload, packet: &mut Packet<'_>) -> Result<(), BadOffload> {
    let start = usize::from(offload.checksum_start);
    let at = start + usize::from(offload.checksum_offset);
    if start < packet.header || at + 2 > packet.bytes.len() {
        return Err(BadOffload("the checksum is outside of the packet"));
    }
    let mut checksum = field(sum(&packet.bytes[start..]));
    // A zero would say that there is none (RFC 768).
    if packet.protocol() == UDP && checksum == [0, 0] {
        checksum = [0xff, 0xff];
    }
    packet.bytes[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn protocol(&self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

fn segments(
    offload: &Offload,
    packet: &Packet<'_>,
    heads: &mut Vec<u8>,
    transport: &Transport,
    mut piece: impl FnMut(Piece),
) -> Result<(), BadOffload> {
    let (bytes, ip) = (&*packet.bytes, packet.header);
    let shortest = match transport {
        Transport::Tcp => TCP_HEADER,
        Transport::Udp => UDP_HEADER,
    };
    let size = usize::from(offload.segment);
    if packet.protocol() != transport.protocol() || packet.word(FRAGMENT) & 0x3fff != 0 {
        return Err(BadOffload("no whole packet of the protocol said"));
    }
    if size == 0 || bytes.len() < ip + shortest {
        return Err(BadOffload("no segment size, or the header is not all there"));
    }
    let header = match transport {
        Transport::Tcp => ip + usize::from(bytes[ip + tcp::OFFSET] >> 4) * 4,
        Transport::Udp => ip + UDP_HEADER,
    };
    if header < ip + shortest || header > bytes.len() {
        return Err(BadOffload("the header is not all there"));
    }
    let common = Common::of(&bytes[..header], ip, transport);
    let first = heads.len();
    let mut body = header;
    let mut number: u16 = 0;
    loop {
        let end = (body + size).min(bytes.len());
        let head = heads.len();
        heads.extend_from_slice(&bytes[..header]);
        let place = (body - header, number == 0, end == bytes.len());
        common.complete(&mut heads[head..], &bytes[body..end], number, place);
        number = number.wrapping_add(1);
        body = end;
        if end == bytes.len() {
            break;
        }
    }
    let mut body = header;
    for head in (first..heads.len()).step_by(header) {
        let end = (body + size).min(bytes.len());
        piece(Piece { head: head..head + header, body: body..end });
        body = end;
    }
    Ok(())
}

/// What all segments of a super-packet have in common, summed once.
struct Common<'a> {
    /// Bytes of the IPv4 header.
    ip: usize,
    transport: &'a Transport,
    /// The sum of the IPv4 header without length, identification and checksum.
    network: u64,
    /// The sum of the pseudo header and the transport's header without what changes from segment to segment.
    rest: u64,
    id: u16,
    /// TCP's sequence number.
    sequence: u32,
    /// TCP's flags.
    flags: u8,
}

impl<'a> Common<'a> {
    /// Of a super-packet's header; `ip` bytes of it are IPv4's, and the transport's are all there.
    fn of(header: &[u8], ip: usize, transport: &'a Transport) -> Self {
        let (network, rest) = header.split_at(ip);
        let addresses = pseudo_header(&network[12..20], transport.protocol(), 0);
        let mut common = Self {
            ip,
            transport,
            // The words at 2, 4 and 10 change.
            network: sum(&network[..2]) + sum(&network[6..10]) + sum(&network[12..]),
            rest: 0,
            id: u16::from_be_bytes([network[4], network[5]]),
            sequence: 0,
            flags: 0,
        };
        match transport {
            Transport::Tcp => {
                common.sequence = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
                common.flags = rest[tcp::FLAGS];
                // All but the sequence number, the word that has the flags, and the checksum.
                common.rest = addresses
                    + sum(&rest[..4])
                    + sum(&rest[8..tcp::OFFSET])
                    + sum(&rest[tcp::FLAGS + 1..TCP_CHECKSUM])
                    + sum(&rest[TCP_CHECKSUM + 2..]);
            }
            // Only the ports stay.
            Transport::Udp => common.rest = addresses + sum(&rest[..4]),
        }
        common
    }

    /// Makes a copy of the super-packet's header the header of segment `number`, whose payload starts `offset` bytes
    /// behind the first one's.
    fn complete(&self, header: &mut [u8], payload: &[u8], number: u16, (offset, first, last): (usize, bool, bool)) {
        let total = word(header.len() + payload.len());
        let (network, rest) = header.split_at_mut(self.ip);
        let id = self.id.wrapping_add(number);
        network[2..4].copy_from_slice(&total.to_be_bytes());
        network[4..6].copy_from_slice(&id.to_be_bytes());
        let checksum = field(self.network + u64::from(total.to_be()) + u64::from(id.to_be()));
        network[10..12].copy_from_slice(&checksum);
        let length = word(rest.len() + payload.len()).to_be();
        let sum = self.rest + u64::from(length) + sum(payload);
        match self.transport {
            Transport::Tcp => {
                let sequence = self.sequence.wrapping_add(u32::try_from(offset).unwrap_or(0));
                rest[4..8].copy_from_slice(&sequence.to_be_bytes());
                let mut flags = self.flags;
                if !first {
                    flags &= !tcp::CWR;
                }
                if !last {
                    flags &= !(tcp::FIN | tcp::PSH);
                }
                rest[tcp::FLAGS] = flags;
                let flags = u16::from_ne_bytes([rest[tcp::OFFSET], flags]);
                let checksum = field(sum + u64::from(sequence.to_be()) + u64::from(flags));
                rest[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum);
            }
            Transport::Udp => {
                rest[4..6].copy_from_slice(&length.to_ne_bytes());
                let checksum = match field(sum + u64::from(length)) {
                    // A zero would say that there is none (RFC 768).
                    [0, 0] => [0xff, 0xff],
                    checksum => checksum,
                };
                rest[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&checksum);
            }
        }
    }
}

/// A length inside of an IPv4 packet, which [`Packet`] has checked to be at most 65,535.
fn word(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
