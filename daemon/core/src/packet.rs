//! What the udp backend does to packets; no sockets here. docs/upstream.md, section 5.2.
//!
//! A datagram between hosts holds one whole IPv4 packet. The kernel likes to hand over, and to be handed, many at once:
//! [`segment`] makes wire packets of what it gives, [`coalesce`] makes one of many of what the wire gives, and [`offload`] is
//! the header by which both sides say so. Whatever the bytes, no function here panics.

use std::net::Ipv4Addr;

pub mod checksum;
pub mod coalesce;
pub mod offload;
pub mod segment;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of the shortest TCP header, and where its checksum is.
const TCP_HEADER: usize = 20;
const TCP_CHECKSUM: usize = 16;
/// Bytes of the UDP header, and where its checksum is.
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;
/// Where the IPv4 header has the don't-fragment and more-fragments flags and the fragment's offset.
const FRAGMENT: usize = 6;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
/// As upstream sends its ICMP messages.
const ICMP_TTL: u8 = 8;

/// Places and flags of the TCP header (RFC 9293, section 3.1).
mod tcp {
    /// The byte whose high half is the header's length in words.
    pub(super) const OFFSET: usize = 12;
    /// The byte of the flags.
    pub(super) const FLAGS: usize = 13;
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const ECE: u8 = 0x40;
    pub(super) const CWR: u8 = 0x80;
}

/// An IPv4 packet whose header is whole and whose lengths are true.
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a mut [u8],
    header: usize,
}

impl<'a> Packet<'a> {
    /// Checks version and lengths; bytes behind the packet's own length are cut off.
    pub fn parse(bytes: &'a mut [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header = usize::from(first & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        let good = first >> 4 == 4 && header >= IPV4_HEADER && header <= total && total <= bytes.len();
        good.then(|| Self { bytes: &mut bytes[..total], header })
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Where it says it comes from.
    pub fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// Where it wants to go.
    pub fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    /// Takes one off the time to live, and off the checksum what belongs to it (RFC 1624); false when the packet may
    /// not go on. Upstream drops such packets without a word, and so do we.
    pub fn decrement_ttl(&mut self) -> bool {
        if self.bytes[8] <= 1 {
            return false;
        }
        self.bytes[8] -= 1;
        let sum = u16::from_be_bytes([self.bytes[10], self.bytes[11]]);
        // The TTL is the high byte of its word, so the word shrank by 0x0100 and the complement grows by it.
        let (sum, carry) = sum.overflowing_add(0x0100);
        let sum = sum + u16::from(carry);
        self.bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        true
    }

    /// The ICMP message "net unreachable" from `router` to this packet's sender. None is due for ICMP itself and for
    /// fragments behind the first.
    pub fn unreachable(&self, router: Ipv4Addr) -> Option<Vec<u8>> {
        let later_fragment = u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff != 0;
        if self.bytes[9] == ICMP || later_fragment {
            return None;
        }
        let quoted = &self.bytes[..self.bytes.len().min(self.header + 8)];
        let length = u16::try_from(IPV4_HEADER + ICMP_HEADER + quoted.len()).ok()?;
        let mut reply = vec![0; IPV4_HEADER + ICMP_HEADER];
        reply[0] = 0x45;
        reply[2..4].copy_from_slice(&length.to_be_bytes());
        reply[8] = ICMP_TTL;
        reply[9] = ICMP;
        reply[12..16].copy_from_slice(&router.octets());
        reply[16..20].copy_from_slice(&self.address(12).octets());
        reply[IPV4_HEADER] = ICMP_UNREACHABLE;
        reply.extend_from_slice(quoted);
        let sum = checksum::field(checksum::sum(&reply[..IPV4_HEADER]));
        reply[10..12].copy_from_slice(&sum);
        let sum = checksum::field(checksum::sum(&reply[IPV4_HEADER..]));
        reply[IPV4_HEADER + 2..IPV4_HEADER + 4].copy_from_slice(&sum);
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    // parity: daemon/tests/vectors/recorded/udp-proxy/n1-flannel0.txt: a datagram to an address without lease, and upstream's answer
    const SENT: &str = "4500 002d 736e 4000 4011 a33d 0a05 1201 0a05 fe09 9c40 270f 0019 4c86 6865 6c6c \
        6f2d 666c 616e 6e65 6c2d 7564 70";
    const ANSWER: &str = "4500 0038 0000 0000 0801 7abb 0a05 1200 0a05 1201 0300 ed10 0000 0000 4500 002d \
        736e 4000 4011 a33d 0a05 1201 0a05 fe09 9c40 270f 0019 4c86";
    // parity: daemon/tests/vectors/recorded/udp-proxy: TTL 2 as sent, and TTL 1 as seen behind the first proxy's hop of a TTL 3 packet
    const TTL_3: &str = "4500 002d 0b0f 4000 0311 3ca6 0a05 1201 0a05 0a01 9c40 270f 0019 408f 6865 6c6c \
        6f2d 666c 616e 6e65 6c2d 7564 70";
    const TTL_1: &str = "4500 002d 0b0f 4000 0111 3ea6 0a05 1201 0a05 0a01 9c40 270f 0019 408f 6865 6c6c \
        6f2d 666c 616e 6e65 6c2d 7564 70";

    #[test]
    fn the_unreachable_message_is_upstreams_byte_for_byte() {
        let mut sent = bytes(SENT);
        let packet = Packet::parse(&mut sent).unwrap();
        assert_eq!(packet.destination(), Ipv4Addr::new(10, 5, 254, 9));
        assert_eq!(packet.unreachable(Ipv4Addr::new(10, 5, 18, 0)), Some(bytes(ANSWER)));
    }

    #[test]
    fn no_message_about_icmp_or_later_fragments() {
        let mut icmp = bytes(ANSWER);
        assert_eq!(Packet::parse(&mut icmp).unwrap().unreachable(Ipv4Addr::LOCALHOST), None);
        let mut fragment = bytes(SENT);
        fragment[7] = 1;
        assert_eq!(Packet::parse(&mut fragment).unwrap().unreachable(Ipv4Addr::LOCALHOST), None);
        fragment[6] = 0x20;
        fragment[7] = 0;
        assert!(Packet::parse(&mut fragment).unwrap().unreachable(Ipv4Addr::LOCALHOST).is_some());
    }

    #[test]
    fn two_hops_give_upstreams_bytes_and_the_last_one_drops() {
        let mut packet = bytes(TTL_3);
        let mut parsed = Packet::parse(&mut packet).unwrap();
        assert!(parsed.decrement_ttl() && parsed.decrement_ttl());
        assert_eq!(parsed.bytes(), bytes(TTL_1));
        assert!(!parsed.decrement_ttl());
        let mut dead = bytes(TTL_3);
        dead[8] = 0;
        assert!(!Packet::parse(&mut dead).unwrap().decrement_ttl());
    }

    #[test]
    fn the_checksum_stays_right_for_every_ttl_and_checksum() {
        for id in 0..=u16::MAX {
            let mut packet = bytes(TTL_3);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[8] = id.to_be_bytes()[1].max(2);
            packet[10..12].fill(0);
            let sum = checksum::field(checksum::sum(&packet[..20]));
            packet[10..12].copy_from_slice(&sum);
            let mut parsed = Packet::parse(&mut packet).unwrap();
            assert!(parsed.decrement_ttl());
            assert!(checksum::is_right(checksum::sum(&packet[..20])), "id {id}");
        }
    }

    #[test]
    fn garbage_is_no_packet() {
        assert!(Packet::parse(&mut []).is_none());
        assert!(Packet::parse(&mut [0x45]).is_none());
        assert!(Packet::parse(&mut [0x45; 19]).is_none());
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 0xff), (3, 0x10)] {
            let mut packet = bytes(SENT);
            packet[at] = value;
            assert!(Packet::parse(&mut packet).is_none(), "byte {at} = {value:#x}");
        }
        let mut longer = bytes(SENT);
        longer.extend([0; 7]);
        assert_eq!(Packet::parse(&mut longer).unwrap().bytes(), bytes(SENT));
    }
}
