//! IPv4 and UDP by hand, from the RFCs (791, 768, 1071), so that the daemon's own arithmetic is not what checks it.

use std::net::Ipv4Addr;

use crate::support::{Error, Result};

pub(crate) const ICMP: u8 = 1;
pub(crate) const UDP: u8 = 17;

/// An IPv4 header without options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) protocol: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// Offset in units of 8 bytes.
    pub(crate) fragment: u16,
    /// Of a parsed header: the sum over it, 0 if the checksum is right.
    pub(crate) sum: u16,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
            ttl: 64,
            id: 7,
            protocol: UDP,
            dont_fragment: false,
            more_fragments: false,
            fragment: 0,
            sum: 0,
        }
    }
}

impl Header {
    /// Reads the header at the start of a packet.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let header: &[u8; 20] =
            packet.first_chunk().ok_or_else(|| Error::new(format!("no IPv4 packet: {packet:02x?}")))?;
        if header[0] != 0x45 {
            return Err(Error::new(format!("no IPv4 header without options: {packet:02x?}")));
        }
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Ok(Self {
            source: address(12),
            destination: address(16),
            ttl: header[8],
            id: word(4),
            protocol: header[9],
            dont_fragment: word(6) & 0x4000 != 0,
            more_fragments: word(6) & 0x2000 != 0,
            fragment: word(6) & 0x1fff,
            sum: checksum(header),
        })
    }

    /// Whether a parsed header's checksum was right.
    pub(crate) fn checksum_is_right(&self) -> bool {
        self.sum == 0
    }

    /// A packet of this header and `content`.
    pub(crate) fn with(&self, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + content.len()).expect("a packet of at most 64 KiB");
        let mut flags = self.fragment;
        flags |= if self.dont_fragment { 0x4000 } else { 0 };
        flags |= if self.more_fragments { 0x2000 } else { 0 };
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(flags.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(content);
        packet
    }

    /// A UDP packet; without the UDP checksum, which IPv4 allows.
    pub(crate) fn udp(&self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).expect("a datagram of at most 64 KiB");
        let mut datagram = Vec::new();
        for word in [source, destination, length, 0] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(payload);
        self.with(&datagram)
    }
}

/// A parsed UDP packet.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) header: Header,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) payload: Vec<u8>,
}

impl Datagram {
    /// Reads a packet that is UDP and whole.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self> {
        let header = Header::parse(packet)?;
        let short = || Error::new(format!("no UDP in {packet:02x?}"));
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let total = usize::from(word(2).ok_or_else(short)?);
        if header.protocol != UDP || total != packet.len() {
            return Err(short());
        }
        Ok(Self {
            header,
            source_port: word(20).ok_or_else(short)?,
            destination_port: word(22).ok_or_else(short)?,
            payload: packet.get(28..).ok_or_else(short)?.to_vec(),
        })
    }
}

/// The Internet checksum; over bytes that hold a right one it is 0.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
