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
pub struct Uncuttable(&'static str);

/// Calls `piece` for each wire packet that `packet` stands for, in order. Headers are added to `heads`. After an error
/// nothing was called.
pub fn cut(
    offload: &Offload,
    packet: &mut Packet<'_>,
    heads: &mut Vec<u8>,
    mut piece: impl FnMut(Piece),
) -> Result<(), Uncuttable> {
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
        Kind::Other(_) => Err(Uncuttable("a super-packet of a kind that was not asked for")),
    }
}

/// Completes a checksum that the kernel left to its device.
fn complete(offload: &Offload, packet: &mut Packet<'_>) -> Result<(), Uncuttable> {
    let start = usize::from(offload.checksum_start);
    let at = start + usize::from(offload.checksum_offset);
    if start < packet.header || at + 2 > packet.bytes.len() {
        return Err(Uncuttable("the checksum is outside of the packet"));
    }
    let mut checksum = field(sum(&packet.bytes[start..]));
    // A zero would say that there is none (RFC 768).
    if packet.protocol() == UDP && checksum == [0, 0] {
        checksum = [0xff, 0xff];
    }
    packet.bytes[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

#[derive(PartialEq)]
enum Transport {
    Tcp,
    Udp,
}

fn segments(
    offload: &Offload,
    packet: &Packet<'_>,
    heads: &mut Vec<u8>,
    transport: &Transport,
    mut piece: impl FnMut(Piece),
) -> Result<(), Uncuttable> {
    let (bytes, ip) = (&*packet.bytes, packet.header);
    let (protocol, shortest) = match transport {
        Transport::Tcp => (TCP, TCP_HEADER),
        Transport::Udp => (UDP, UDP_HEADER),
    };
    let size = usize::from(offload.segment);
    if packet.protocol() != protocol || packet.word(FRAGMENT) & 0x3fff != 0 {
        return Err(Uncuttable("no whole packet of the protocol said"));
    }
    if size == 0 || bytes.len() < ip + shortest {
        return Err(Uncuttable("no segment size, or the header is not all there"));
    }
    let header = match transport {
        Transport::Tcp => ip + usize::from(bytes[ip + tcp::OFFSET] >> 4) * 4,
        Transport::Udp => ip + UDP_HEADER,
    };
    if header < ip + shortest || header > bytes.len() {
        return Err(Uncuttable("the header is not all there"));
    }
    let first = heads.len();
    let mut body = header;
    let mut number: u16 = 0;
    loop {
        let end = (body + size).min(bytes.len());
        let head = heads.len();
        heads.extend_from_slice(&bytes[..header]);
        let segment = Segment { header: &mut heads[head..], ip, payload: &bytes[body..end] };
        segment.write(number, body - header, (number == 0, end == bytes.len()), transport);
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

struct Segment<'a> {
    header: &'a mut [u8],
    ip: usize,
    payload: &'a [u8],
}

impl Segment<'_> {
    /// Makes a copy of the super-packet's header the header of segment `number`, whose payload starts `offset` bytes
    /// behind the first one's.
    fn write(self, number: u16, offset: usize, (first, last): (bool, bool), transport: &Transport) {
        let Self { header, ip, payload } = self;
        let total = header.len() + payload.len();
        let (network, rest) = header.split_at_mut(ip);
        network[2..4].copy_from_slice(&word(total).to_be_bytes());
        let id = u16::from_be_bytes([network[4], network[5]]).wrapping_add(number);
        network[4..6].copy_from_slice(&id.to_be_bytes());
        network[10..12].fill(0);
        let checksum = field(sum(network));
        network[10..12].copy_from_slice(&checksum);
        let length = word(rest.len() + payload.len());
        let (protocol, at) = match transport {
            Transport::Tcp => {
                let sequence = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
                let sequence = sequence.wrapping_add(u32::try_from(offset).unwrap_or(0));
                rest[4..8].copy_from_slice(&sequence.to_be_bytes());
                if !first {
                    rest[tcp::FLAGS] &= !tcp::CWR;
                }
                if !last {
                    rest[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
                (TCP, TCP_CHECKSUM)
            }
            Transport::Udp => {
                rest[4..6].copy_from_slice(&length.to_be_bytes());
                (UDP, UDP_CHECKSUM)
            }
        };
        rest[at..at + 2].fill(0);
        let mut checksum = field(pseudo_header(&network[12..20], protocol, length) + sum(rest) + sum(payload));
        if *transport == Transport::Udp && checksum == [0, 0] {
            checksum = [0xff, 0xff];
        }
        rest[at..at + 2].copy_from_slice(&checksum);
    }
}

/// A length inside of an IPv4 packet, which [`Packet`] has checked to be at most 65,535.
fn word(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
