//! Joining packets of one flow, as they came from the wire, into super-packets for the kernel.
//!
//! The rules are those of the kernel's own joining (GRO): TCP segments in sequence, UDP datagrams of equal size, headers
//! that differ only in what [`super::segment`] would make differ, every checksum right. What was joined and is cut again
//! gives the packets as they came; only the IPv4 identification of packets that must not be fragmented may differ, since
//! it means nothing there (RFC 6864). Anything else stays as it is, and packets of one flow never change their order;
//! fragments count as of any flow between their addresses.
//!
//! A packet whose checksum is wrong is handed on alone, so that its receiver's kernel finds it so.

use std::ops::Range;

use super::checksum::{field, fold, is_right, pseudo_header, sum};
use super::offload::{Kind, Offload};
use super::{FRAGMENT, IPV4_HEADER, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, tcp};

/// The longest super-packet, in bytes.
const LONGEST: usize = 65_535;
/// The most parts of a super-packet. `writev` takes 1024; the kernel takes 64 of UDP (`UDP_MAX_SEGMENTS`).
const MOST_TCP: usize = 512;
const MOST_UDP: usize = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// What the kernel of the device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunOffloads {
    /// Super-packets of TCP.
    pub tcp: bool,
    /// Super-packets of UDP.
    pub udp: bool,
}

/// One write to the device: an [`Offload`] header, a packet's header, the parts of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperPacket<'a> {
    /// What precedes the packet if the device wants an [`Offload`] header.
    pub offload: Offload,
    /// The packet's header; empty when the first part is the whole packet as it came.
    pub head: &'a [u8],
    /// What follows, as places in the buffer.
    pub parts: &'a [Range<usize>],
    /// How many packets of the wire it is.
    pub packets: usize,
}

/// Packets of one batch, joined as far as they can be.
#[derive(Debug, Default)]
pub struct Coalescer {
    takes: TunOffloads,
    /// Only the first `used` count; the others wait to be used again.
    groups: Vec<Group>,
    used: usize,
}

#[derive(Debug, Default)]
struct Group {
    /// Both addresses.
    pair: u64,
    /// What the packets have in common, while more may follow.
    open: Option<Flow>,
    /// The first packet, whole; later parts are payload only.
    parts: Vec<Range<usize>>,
    /// A copy of the first packet's header, made once there is a second one.
    head: Vec<u8>,
    /// Bytes of the whole super-packet.
    total: usize,
    kind: Option<Transport>,
    segment: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    fn checksum(self) -> usize {
        match self {
            Self::Tcp => TCP_CHECKSUM,
            Self::Udp => UDP_CHECKSUM,
        }
    }
}

type Ports = (u8, [u8; 4]);

/// What of a packet decides whether another may be joined to it.
#[derive(Debug, Clone, Copy)]
struct Flow {
    transport: Transport,
    ports: Ports,
    /// Bytes of both headers.
    header: usize,
    /// Bytes of payload.
    payload: usize,
    id: u16,
    /// TCP: the sequence number behind it.
    behind: u32,
    checked: bool,
    /// TCP: nothing may follow a segment with FIN or PSH.
    ends: bool,
}

impl Coalescer {
    /// A coalescer for a device that takes these.
    pub fn new(takes: TunOffloads) -> Self {
        Self { takes, ..Self::default() }
    }

    /// Forgets the last batch.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Takes the packet at `place` of `buffer`, which [`Packet::parse`](super::Packet::parse) found to be one.
    pub fn add(&mut self, buffer: &[u8], place: Range<usize>) {
        let bytes = &buffer[place.clone()];
        let pair = pair_of(bytes);
        let ports = ports_of(bytes);
        let flow = Flow::of(bytes, self.takes);
        // At most one join of a flow is open: before another is begun, it is closed.
        for join in self.groups[..self.used].iter_mut().rev().filter(|join| join.pair == pair) {
            let Some(open) = &join.open else { continue };
            match &flow {
                // It goes nowhere, and nothing of its flow may go before it. Of a fragment the flow is not known.
                None if ports.is_none_or(|ports| ports == open.ports) => join.open = None,
                Some(flow) if flow.ports == open.ports => {
                    if join.append(buffer, place.clone(), flow) {
                        return;
                    }
                    join.open = None;
                    break;
                }
                _ => {}
            }
        }
        self.start(pair, place, flow);
    }

    fn start(&mut self, pair: u64, place: Range<usize>, flow: Option<Flow>) {
        if self.used == self.groups.len() {
            self.groups.push(Group::default());
        }
        let join = &mut self.groups[self.used];
        self.used += 1;
        join.pair = pair;
        join.kind = flow.map(|flow| flow.transport);
        join.open = flow.filter(|flow| !flow.ends);
        join.total = place.len();
        join.segment = flow.map_or(0, |flow| flow.payload);
        join.head.clear();
        join.parts.clear();
        join.parts.push(place);
    }

    /// Calls `write` for each packet of the batch as it is to be written, in order.
    pub fn drain<E>(&mut self, mut write: impl FnMut(&SuperPacket<'_>) -> Result<(), E>) -> Result<(), E> {
        let used = std::mem::take(&mut self.used);
        for join in &mut self.groups[..used] {
            let offload = join.finish();
            write(&SuperPacket { offload, head: &join.head, parts: &join.parts, packets: join.parts.len() })?;
        }
        Ok(())
    }
}

impl Group {
    /// Adds a packet of the same flow if nothing speaks against it.
    fn append(&mut self, buffer: &[u8], place: Range<usize>, next: &Flow) -> bool {
        let Some(open) = &mut self.open else { return false };
        let most = match next.transport {
            Transport::Tcp => MOST_TCP,
            Transport::Udp => MOST_UDP,
        };
        let first = &buffer[self.parts[0].clone()];
        let first = if self.head.is_empty() { first } else { self.head.as_slice() };
        let bytes = &buffer[place.clone()];
        let count = self.parts.len();
        let fits = next.header == open.header
            && next.payload <= self.segment
            && self.total + next.payload <= LONGEST
            && count < most
            && follows(first, open, next, count)
            && same_headers(first, bytes, next);
        if !fits {
            return false;
        }
        // The first one's sum is taken only now: most packets that stay alone are never summed.
        if !open.checked && !checksums_are_right(&buffer[self.parts[0].clone()], open) {
            return false;
        }
        open.checked = true;
        if !checksums_are_right(bytes, next) {
            return false;
        }
        if self.head.is_empty() {
            let whole = self.parts[0].clone();
            self.head.extend_from_slice(&buffer[whole.start..whole.start + open.header]);
            self.parts[0].start += open.header;
        }
        if next.transport == Transport::Tcp {
            self.head[IPV4_HEADER + tcp::FLAGS] |= bytes[IPV4_HEADER + tcp::FLAGS] & (tcp::FIN | tcp::PSH);
            open.behind = next.behind;
        }
        self.total += next.payload;
        self.parts.push(place.start + next.header..place.end);
        // A short one is the last.
        if next.ends || next.payload < self.segment {
            self.open = None;
        }
        true
    }

    /// Makes the header that of the super-packet.
    fn finish(&mut self) -> Offload {
        let (Some(transport), false) = (self.kind, self.head.is_empty()) else { return Offload::NONE };
        let word = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let (network, rest) = self.head.split_at_mut(IPV4_HEADER);
        network[2..4].copy_from_slice(&word(self.total).to_be_bytes());
        network[10..12].fill(0);
        let checksum = field(sum(network));
        network[10..12].copy_from_slice(&checksum);
        let length = word(self.total - IPV4_HEADER);
        if transport == Transport::Udp {
            rest[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let at = transport.checksum();
        let partial = fold(pseudo_header(&network[12..20], transport.protocol(), length));
        rest[at..at + 2].copy_from_slice(&partial.to_ne_bytes());
        Offload {
            kind: match transport {
                Transport::Tcp => Kind::Tcp,
                Transport::Udp => Kind::Udp,
            },
            needs_checksum: true,
            header_length: word(self.head.len()),
            segment: word(self.segment),
            checksum_start: word(IPV4_HEADER),
            checksum_offset: word(at),
        }
    }
}

impl Flow {
    /// Nothing if the packet can't be part of a super-packet.
    fn of(bytes: &[u8], takes: TunOffloads) -> Option<Self> {
        // Options and fragments stay alone, as for the kernel.
        let ports = ports_of(bytes)?;
        let rest = &bytes[IPV4_HEADER..];
        let flow = |transport, header: usize| Self {
            transport,
            ports,
            header: IPV4_HEADER + header,
            payload: rest.len() - header,
            id: word(bytes, 4),
            behind: 0,
            checked: false,
            ends: false,
        };
        match bytes[9] {
            TCP if takes.tcp && rest.len() > TCP_HEADER => {
                let header = usize::from(rest[tcp::OFFSET] >> 4) * 4;
                let flags = rest[tcp::FLAGS];
                let plain = flags & !(tcp::FIN | tcp::PSH | tcp::ECE) == tcp::ACK;
                if header < TCP_HEADER || header >= rest.len() || !plain {
                    return None;
                }
                let flow = flow(Transport::Tcp, header);
                let sequence = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
                let behind = sequence.wrapping_add(u32::try_from(flow.payload).unwrap_or(0));
                Some(Self { behind, ends: flags & (tcp::FIN | tcp::PSH) != 0, ..flow })
            }
            UDP if takes.udp && rest.len() > UDP_HEADER => {
                // Without a checksum it would get one, and a length that is not the packet's is nobody's to mend.
                let whole = usize::from(word(rest, 4)) == rest.len();
                let summed = rest[UDP_CHECKSUM..UDP_HEADER] != [0, 0];
                (whole && summed).then(|| flow(Transport::Udp, UDP_HEADER))
            }
            _ => None,
        }
    }
}

/// Whether `next` is the packet that cutting would give as number `count` behind `first`.
fn follows(first: &[u8], open: &Flow, next: &Flow, count: usize) -> bool {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    let counted = next.id == open.id.wrapping_add(count);
    let constant = next.id == open.id && word(first, FRAGMENT) & DONT_FRAGMENT != 0;
    let payload = u32::try_from(next.payload).unwrap_or(0);
    let in_sequence = next.transport == Transport::Udp || next.behind.wrapping_sub(payload) == open.behind;
    in_sequence && (counted || constant)
}

/// Whether all else in the headers is equal: not lengths, identification, sequence, FIN, PSH and checksums.
fn same_headers(first: &[u8], next: &[u8], flow: &Flow) -> bool {
    // Version, header length, type of service; fragment flags, time to live, protocol.
    let network = first[..2] == next[..2] && first[6..10] == next[6..10];
    if flow.transport == Transport::Udp {
        return network;
    }
    let (a, b) = (&first[IPV4_HEADER..flow.header], &next[IPV4_HEADER..flow.header]);
    let flags = (a[tcp::FLAGS] ^ b[tcp::FLAGS]) & !(tcp::FIN | tcp::PSH) == 0;
    // Acknowledgement and header length; window; urgent pointer and options.
    network && flags && a[8..tcp::FLAGS] == b[8..tcp::FLAGS] && a[14..16] == b[14..16] && a[18..] == b[18..]
}

fn checksums_are_right(bytes: &[u8], flow: &Flow) -> bool {
    let rest = &bytes[IPV4_HEADER..];
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    is_right(sum(&bytes[..IPV4_HEADER]))
        && is_right(pseudo_header(&bytes[12..20], flow.transport.protocol(), length) + sum(rest))
}

/// The protocol and both ports, of packets that have them.
fn ports_of(bytes: &[u8]) -> Option<Ports> {
    if bytes[0] != 0x45 || word(bytes, FRAGMENT) & 0x3fff != 0 || !matches!(bytes[9], TCP | UDP) {
        return None;
    }
    let ports = bytes.get(IPV4_HEADER..IPV4_HEADER + 4)?;
    Some((bytes[9], [ports[0], ports[1], ports[2], ports[3]]))
}

fn pair_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15], bytes[16], bytes[17], bytes[18], bytes[19]])
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
