//! The header that a TUN device with `IFF_VNET_HDR` puts before each packet: what the kernel left to be done, or may
//! leave undone. `struct virtio_net_hdr` of linux/virtio_net.h, without the buffer count, in the machine's byte order.

/// Bytes of the header.
pub const LENGTH: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary packet.
    Single,
    /// Many TCP segments behind one header.
    Tcp,
    /// Many UDP datagrams behind one header.
    Udp,
    /// One this code does not know.
    Other(u8),
}

/// The header's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// What follows.
    pub kind: Kind,
    /// The checksum that starts at `checksum_start` is to be completed: its field, `checksum_offset` further on, holds
    /// the sum of the pseudo header.
    pub needs_checksum: bool,
    /// Bytes of all headers, a hint.
    pub header_length: u16,
    /// Payload bytes of each segment but the last.
    pub segment: u16,
    /// See `needs_checksum`.
    pub checksum_start: u16,
    /// See `needs_checksum`.
    pub checksum_offset: u16,
}

impl Offload {
    /// An ordinary packet with all its checksums.
    pub const NONE: Self = Self {
        kind: Kind::Single,
        needs_checksum: false,
        header_length: 0,
        segment: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Reads a header.
    pub fn parse(bytes: [u8; LENGTH]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let kind = match bytes[1] & !GSO_ECN {
            GSO_NONE => Kind::Single,
            GSO_TCPV4 => Kind::Tcp,
            GSO_UDP_L4 => Kind::Udp,
            other => Kind::Other(other),
        };
        Self {
            kind,
            needs_checksum: bytes[0] & NEEDS_CSUM != 0,
            header_length: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let kind = match self.kind {
            Kind::Single => GSO_NONE,
            Kind::Tcp => GSO_TCPV4,
            Kind::Udp => GSO_UDP_L4,
            Kind::Other(other) => other,
        };
        let mut bytes = [0; LENGTH];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = kind;
        for (at, word) in
            [(2, self.header_length), (4, self.segment), (6, self.checksum_start), (8, self.checksum_offset)]
        {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let offload = Offload {
            kind: Kind::Tcp,
            needs_checksum: true,
            header_length: 52,
            segment: 1420,
            checksum_start: 20,
            checksum_offset: 16,
        };
        assert_eq!(Offload::parse(offload.to_bytes()), offload);
        assert_eq!(Offload::parse([0; LENGTH]), Offload::NONE);
        assert_eq!(Offload::NONE.to_bytes(), [0; LENGTH]);
        assert_eq!(Offload::parse([1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).kind, Kind::Tcp);
        assert_eq!(Offload::parse([1, 4, 0, 0, 0, 0, 0, 0, 0, 0]).kind, Kind::Other(4));
    }
}
