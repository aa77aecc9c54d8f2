//! Cutting and joining packets against an oracle that does it the slow way, packet by packet from the RFCs: what is cut
//! is what a host would have sent, what is joined is cut again into what came, and no bytes make either panic.

use std::collections::BTreeMap;
use std::ops::Range;

use flannel_core::packet::Packet;
use flannel_core::packet::coalesce::{Coalescer, TunOffloads};
use flannel_core::packet::offload::{Kind, Offload};
use flannel_core::packet::segment::segment;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
const BOTH: TunOffloads = TunOffloads { tcp: true, udp: true };

/// One packet in words.
#[derive(Debug, Clone, PartialEq)]
struct Plain {
    hosts: (u8, u8),
    ports: (u16, u16),
    tcp: bool,
    tos: u8,
    ttl: u8,
    id: u16,
    dont_fragment: bool,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

/// The sum of RFC 1071, word by word.
fn naive_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Whether both checksums of a packet are right.
fn sums_are_right(packet: &[u8]) -> bool {
    let header = usize::from(packet[0] & 15) * 4;
    let rest = &packet[header..];
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let pseudo = [&packet[12..20], &[0, packet[9]], &length].concat();
    naive_sum(&[&packet[..header]]) == 0xffff && naive_sum(&[&pseudo, rest]) == 0xffff
}

impl Plain {
    fn bytes(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.extend(self.ports.0.to_be_bytes());
        rest.extend(self.ports.1.to_be_bytes());
        let at = if self.tcp {
            rest.extend(self.sequence.to_be_bytes());
            rest.extend(self.acknowledgement.to_be_bytes());
            rest.push(u8::try_from(5 + self.options.len() / 4).unwrap() << 4);
            rest.push(self.flags);
            rest.extend(self.window.to_be_bytes());
            rest.extend([0; 4]);
            rest.extend(&self.options);
            16
        } else {
            rest.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            rest.extend([0; 2]);
            6
        };
        rest.extend(&self.payload);
        let mut packet = vec![0x45, self.tos];
        packet.extend(u16::try_from(20 + rest.len()).unwrap().to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(if self.dont_fragment { [0x40, 0] } else { [0, 0] });
        packet.extend([self.ttl, if self.tcp { TCP } else { UDP }, 0, 0]);
        packet.extend([10, 5, self.hosts.0, 2, 10, 5, self.hosts.1, 2]);
        let sum = !naive_sum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let pseudo = [&packet[12..20], &[0, packet[9]], &length].concat();
        let mut sum = !naive_sum(&[&pseudo, &rest]);
        if !self.tcp && sum == 0 {
            sum = 0xffff;
        }
        rest[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(rest);
        packet
    }

    /// The packets a host without offloads would have sent.
    fn split(&self, size: usize) -> Vec<Self> {
        let pieces: Vec<&[u8]> = self.payload.chunks(size).collect();
        let last = pieces.len() - 1;
        let piece = |(number, payload): (usize, &&[u8])| {
            let mut piece = self.clone();
            piece.payload = payload.to_vec();
            piece.id = self.id.wrapping_add(u16::try_from(number).unwrap());
            piece.sequence = self.sequence.wrapping_add(u32::try_from(number * size).unwrap());
            if number > 0 {
                piece.flags &= !CWR;
            }
            if number < last {
                piece.flags &= !(FIN | PSH);
            }
            piece
        };
        pieces.iter().enumerate().map(piece).collect()
    }

    /// What the kernel says of it when it leaves the cutting to us; the checksum field holds whatever it likes.
    fn offload(&self, size: usize) -> Offload {
        let header = if self.tcp { 40 + self.options.len() } else { 28 };
        Offload {
            kind: if self.tcp { Kind::Tcp } else { Kind::Udp },
            needs_checksum: true,
            header_length: u16::try_from(header).unwrap(),
            segment: u16::try_from(size).unwrap(),
            checksum_start: 20,
            checksum_offset: if self.tcp { 16 } else { 6 },
        }
    }
}

fn any_plain(longest: usize) -> impl Strategy<Value = Plain> {
    let addresses = (0..2_u8, 2..4_u8, select(vec![(1000, 80), (1001, 80), (80, 1000)]));
    let network = (any::<bool>(), select(vec![0_u8, 2, 3]), 1..=255_u8, any::<u16>(), any::<bool>());
    let transport =
        (any::<u32>(), any::<u32>(), select(vec![ACK, ACK | PSH, ACK | FIN, ACK | ECE, ACK | CWR]), any::<u16>());
    (addresses, network, transport, 0..10_usize, vec(any::<u8>(), 1..longest)).prop_map(
        |(
            (from, to, ports),
            (tcp, tos, ttl, id, dont_fragment),
            (sequence, acknowledgement, flags, window),
            words,
            payload,
        )| Plain {
            hosts: (from, to),
            ports,
            tcp,
            tos,
            ttl,
            id,
            dont_fragment,
            sequence,
            acknowledgement,
            flags,
            window,
            options: vec![1; words * 4],
            payload,
        },
    )
}

/// What the crate cuts out of a packet.
fn pieces(offload: &Offload, packet: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let mut heads = vec![0xee; 3];
    let mut places = Vec::new();
    let mut parsed = Packet::parse(packet)?;
    segment(offload, &mut parsed, &mut heads, |piece| places.push(piece)).ok()?;
    Some(places.into_iter().map(|p| [&heads[p.head], &packet[p.body]].concat()).collect())
}

/// What the crate makes of a batch: an offload header and a packet for each write.
fn joined(packets: &[Vec<u8>], takes: TunOffloads) -> Vec<(Offload, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut coalescer = Coalescer::new(takes);
    let mut places: Vec<Range<usize>> = Vec::new();
    for packet in packets {
        places.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend(packet);
    }
    for place in places {
        let length = Packet::parse(&mut buffer[place.clone()]).map(|p| p.bytes().len());
        if let Some(length) = length {
            coalescer.add(&buffer, place.start..place.start + length);
        }
    }
    let mut out = Vec::new();
    let mut count = 0;
    let done: Result<(), ()> = coalescer.drain(|join| {
        let mut packet = join.head.to_vec();
        join.parts.iter().for_each(|part| packet.extend(&buffer[part.clone()]));
        out.push((join.offload, packet));
        count += join.packets;
        Ok(())
    });
    done.unwrap();
    assert!(count <= packets.len());
    out
}

/// Cuts a write again, by the oracle's own reading of it.
fn recut((offload, packet): &(Offload, Vec<u8>)) -> Vec<Vec<u8>> {
    if offload.kind == Kind::Single {
        return vec![packet.clone()];
    }
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let long = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let tcp = packet[9] == TCP;
    let header = usize::from(offload.header_length);
    assert_eq!(usize::from(word(2)), packet.len(), "the length of a super-packet");
    assert_eq!(naive_sum(&[&packet[..20]]), 0xffff, "its header's checksum");
    assert!(offload.needs_checksum && offload.checksum_start == 20);
    // The field holds the sum of the pseudo header, as the kernel wants it.
    let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
    let at = 20 + usize::from(offload.checksum_offset);
    assert_eq!(word(at), naive_sum(&[&packet[12..20], &[0, packet[9]], &length]), "the partial checksum");
    let plain = Plain {
        hosts: (packet[14], packet[18]),
        ports: (word(20), word(22)),
        tcp,
        tos: packet[1],
        ttl: packet[8],
        id: word(4),
        dont_fragment: packet[6] & 0x40 != 0,
        sequence: long(24),
        acknowledgement: if tcp { long(28) } else { 0 },
        flags: if tcp { packet[33] } else { 0 },
        window: if tcp { word(34) } else { 0 },
        options: if tcp { packet[40..header].to_vec() } else { Vec::new() },
        payload: packet[header..].to_vec(),
    };
    plain.split(usize::from(offload.segment)).iter().map(Plain::bytes).collect()
}

/// Both addresses; the protocol and both ports.
type Flow = ([u8; 8], Vec<u8>);

/// The flow of a packet; `None` for what may be of any flow between its two hosts.
fn flow_of(packet: &[u8]) -> ([u8; 8], Option<Vec<u8>>) {
    let whole = packet[0] == 0x45 && packet[6] & 0x3f == 0 && packet[7] == 0 && [TCP, UDP].contains(&packet[9]);
    let pair = packet[12..20].try_into().unwrap();
    (pair, (whole && packet.len() >= 24).then(|| [&packet[9..10], &packet[20..24]].concat()))
}

/// Each flow's packets in their order, with the packets that may be of any flow among them. The identification of what
/// must not be fragmented means nothing, nor does the checksum over it.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Flow, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        if let (pair, Some(flow)) = flow_of(packet) {
            flows.entry((pair, flow)).or_default();
        }
    }
    for packet in packets {
        let (pair, flow) = flow_of(packet);
        let mut shown = packet.clone();
        if shown[6] & 0x40 != 0 && naive_sum(&[&shown[..20]]) == 0xffff {
            shown[4..6].fill(0);
            shown[10..12].fill(0);
        }
        for ((of_pair, of_flow), list) in &mut flows {
            if *of_pair == pair && flow.as_ref().is_none_or(|flow| flow == of_flow) {
                list.push(shown.clone());
            }
        }
    }
    flows
}

/// What may happen to a packet before it comes.
#[derive(Debug, Clone)]
enum Fate {
    AsItIs,
    Lost,
    Twice,
    /// A bit of it flips.
    Corrupt(usize),
    /// It becomes a fragment.
    Fragment,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::AsItIs),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => any::<usize>().prop_map(Fate::Corrupt),
        1 => Just(Fate::Fragment),
    ]
}

proptest! {
    /// Byte for byte what a host without offloads would have sent, each with right checksums.
    #[test]
    fn a_super_packet_is_cut_as_a_host_would(plain in any_plain(8000), size in 1..1500_usize, junk in any::<[u8; 2]>()) {
        let mut bytes = plain.bytes();
        let at = if plain.tcp { 36 } else { 26 };
        bytes[at..at + 2].copy_from_slice(&junk);
        let expected: Vec<Vec<u8>> = plain.split(size).iter().map(Plain::bytes).collect();
        let pieces = pieces(&plain.offload(size), &mut bytes).unwrap();
        prop_assert!(pieces.iter().all(|piece| sums_are_right(piece)));
        prop_assert_eq!(pieces, expected);
    }

    /// The kernel may leave only the checksum to us.
    #[test]
    fn a_checksum_left_to_us_is_completed(plain in any_plain(2000)) {
        let expected = plain.bytes();
        let mut bytes = expected.clone();
        let at = if plain.tcp { 36 } else { 26 };
        let length = u16::try_from(bytes.len() - 20).unwrap().to_be_bytes();
        let partial = naive_sum(&[&bytes[12..20], &[0, bytes[9]], &length]);
        bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let offload = Offload { kind: Kind::Single, segment: 0, ..plain.offload(1) };
        prop_assert_eq!(pieces(&offload, &mut bytes), Some(vec![expected]));
    }

    /// Every super-packet that is cut and then joined is itself.
    #[test]
    fn segmenting_undoes_coalescing(plain in any_plain(20_000), size in 300..1500_usize) {
        prop_assume!(plain.flags & CWR == 0 && plain.payload.len() > size);
        let pieces = pieces(&plain.offload(size), &mut plain.bytes()).unwrap();
        prop_assume!(plain.tcp || pieces.len() <= 64);
        let writes = joined(&pieces, BOTH);
        prop_assert_eq!(writes.len(), 1);
        let (offload, packet) = &writes[0];
        prop_assert_eq!(*offload, plain.offload(size));
        let mut expected = plain.bytes();
        let at = if plain.tcp { 36 } else { 26 };
        expected[at..at + 2].copy_from_slice(&packet[at..at + 2]);
        prop_assert_eq!(packet, &expected);
    }

    /// Flows that run through each other, with packets lost, doubled, corrupted, fragmented: what is written, cut again,
    /// is what came, each flow in its order.
    #[test]
    fn what_came_is_what_is_written(
        flows in vec((any_plain(6000), 100..1500_usize), 1..5),
        turns in vec((any::<prop::sample::Index>(), fate()), 1..80),
        (tcp, udp) in any::<(bool, bool)>(),
    ) {
        let mut sources: Vec<std::vec::IntoIter<Plain>> = flows.iter().map(|(p, size)| p.split(*size).into_iter()).collect();
        let mut packets = Vec::new();
        for (index, fate) in turns {
            let Some(plain) = sources[index.index(flows.len())].next() else { continue };
            let mut bytes = plain.bytes();
            match fate {
                Fate::Lost => continue,
                Fate::AsItIs => {}
                Fate::Twice => packets.push(bytes.clone()),
                // Behind the lengths and addresses, so that it stays a packet of these hosts.
                Fate::Corrupt(bit) => {
                    let bit = 20 * 8 + bit % ((bytes.len() - 20) * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                Fate::Fragment => bytes[6] = 0x20,
            }
            packets.push(bytes);
        }
        let writes = joined(&packets, TunOffloads { tcp, udp });
        let taken = |kind| kind == Kind::Single || if kind == Kind::Tcp { tcp } else { udp };
        prop_assert!(writes.iter().all(|(offload, _)| taken(offload.kind)));
        let again: Vec<Vec<u8>> = writes.iter().flat_map(recut).collect();
        prop_assert_eq!(again.len(), packets.len());
        prop_assert_eq!(by_flow(&again), by_flow(&packets));
    }

    /// Whatever the bytes and whatever the kernel says of them.
    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in vec(any::<u8>(), 0..300),
        header in any::<[u8; 10]>(),
        like in any::<bool>(),
        kind in 0..6_u8,
    ) {
        if like && bytes.len() > 20 {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes[0] = 0x40 | (bytes[0] & 15);
            bytes[2..4].copy_from_slice(&length);
            bytes[9] = if kind % 2 == 0 { TCP } else { UDP };
        }
        let mut header = header;
        header[1] = kind;
        let offload = Offload::parse(header);
        let writes = joined(&[bytes.clone(), bytes.clone(), bytes.clone()], BOTH);
        prop_assert!(writes.iter().all(|(_, packet)| packet.len() <= 65_535));
        if let Some(mut packet) = Packet::parse(&mut bytes.clone()) {
            packet.decrement_ttl();
            packet.unreachable(std::net::Ipv4Addr::LOCALHOST);
        }
        if let Some(pieces) = pieces(&offload, &mut bytes) {
            prop_assert!(!pieces.is_empty());
        }
    }
}

/// A sender without offloads that counts nothing up: DF and the same identification always.
#[test]
fn a_constant_identification_is_joined_if_it_means_nothing() {
    let plain = Plain {
        hosts: (0, 2),
        ports: (1000, 80),
        tcp: true,
        tos: 0,
        ttl: 60,
        id: 0,
        dont_fragment: true,
        sequence: u32::MAX - 700,
        acknowledgement: 1,
        flags: ACK,
        window: 512,
        options: Vec::new(),
        payload: vec![5; 3000],
    };
    for (dont_fragment, writes) in [(true, 1), (false, 3)] {
        let mut packets = Plain { dont_fragment, ..plain.clone() }.split(1000);
        packets.iter_mut().for_each(|p| p.id = 0);
        let packets: Vec<Vec<u8>> = packets.iter().map(Plain::bytes).collect();
        assert_eq!(joined(&packets, BOTH).len(), writes, "DF {dont_fragment}");
    }
}

/// Not more than 64 KiB, and not more than the kernel takes of UDP.
#[test]
fn a_super_packet_has_its_bounds() {
    let plain = |tcp, payload| Plain {
        hosts: (0, 2),
        ports: (1000, 80),
        tcp,
        tos: 0,
        ttl: 60,
        id: 65_500,
        dont_fragment: true,
        sequence: 0,
        acknowledgement: 0,
        flags: ACK,
        window: 0,
        options: Vec::new(),
        payload: vec![9; payload],
    };
    let split_all = |p: &Plain, size| p.split(size).iter().map(Plain::bytes).collect::<Vec<_>>();
    let mut packets = split_all(&plain(true, 65_000), 1420);
    let behind = Plain { sequence: 65_000 - 65_000 % 1420, id: 65_500_u16.wrapping_add(45), ..plain(true, 20_000) };
    packets.pop();
    packets.extend(split_all(&behind, 1420));
    let sizes: Vec<usize> = joined(&packets, BOTH).iter().map(|(_, p)| p.len()).collect();
    assert_eq!(sizes.iter().map(|s| s - 40).sum::<usize>(), 65_000 - 65_000 % 1420 + 20_000);
    assert_eq!(sizes.len(), 2, "{sizes:?}");
    assert!(sizes[0] <= 65_535 && sizes[0] + 1420 > 65_535, "{sizes:?}");
    let packets = split_all(&plain(false, 20_000), 100);
    let sizes: Vec<usize> = joined(&packets, BOTH).iter().map(|(_, p)| p.len()).collect();
    assert_eq!(sizes, [6428, 6428, 6428, 828]);
}
