//! The Internet checksum (RFC 1071), over whole packets at the speed of memory.
//!
//! Sums are taken over words in the machine's own byte order, which the ones' complement sum allows (RFC 1071,
//! section 2 B): the folded sum goes back into a packet by `to_ne_bytes`.

/// Bytes of a block of [`sum`].
const BLOCK: usize = 64;

/// The sum of the 16-bit words of `bytes`, not yet folded; an odd last byte counts as if a zero followed. Sums of parts
/// may be added as long as all but the last part have even length. Up to 2^31 bytes.
pub fn sum(bytes: &[u8]) -> u64 {
    let blocks = bytes.chunks_exact(BLOCK);
    let rest = blocks.remainder();
    // A header is shorter than one block: it must not pay for what makes a payload quick.
    let total = if bytes.len() < BLOCK { 0 } else { sum_blocks(blocks) };
    let mut words = rest.chunks_exact(4);
    let words_total: u64 = words.by_ref().map(|w| u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))).sum();
    let last = match *words.remainder() {
        [] => 0,
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, ..] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
    };
    total + words_total + last
}

/// Two halves of each 64-bit word in sums of their own: no carry is ever lost, and the compiler makes vector additions
/// of it.
fn sum_blocks(blocks: std::slice::ChunksExact<'_, u8>) -> u64 {
    let mut low = [0_u64; 8];
    let mut high = [0_u64; 8];
    for block in blocks {
        for (i, word) in block.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            low[i] += word & 0xffff_ffff;
            high[i] += word >> 32;
        }
    }
    low.iter().sum::<u64>() + high.iter().sum::<u64>()
}

/// The sum as 16 bits: 0 only if all that was summed was zero.
pub fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the loop above left 16 bits")]
    let sum = sum as u16;
    sum
}

/// The bytes of the checksum field for this sum.
pub fn field(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// Whether bytes that hold their own checksum have this sum.
pub fn is_right(sum: u64) -> bool {
    fold(sum) == 0xffff
}

/// The pseudo header of TCP and UDP: both addresses as in the IPv4 header, the protocol, and the length of what follows
/// the IPv4 header, in bytes.
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: u16) -> u64 {
    sum(addresses) + u64::from(u16::from_be_bytes([0, protocol]).to_be()) + u64::from(length.to_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 1071 says it in words.
    fn naive(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn every_length_sums_as_the_rfc_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for length in (0..600).chain([1448, 1449, 65_535]) {
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            assert_eq!(fold(sum(&bytes)).to_ne_bytes(), naive(&bytes).to_be_bytes(), "{length} bytes");
            let all_ones = vec![0xff; length];
            assert_eq!(fold(sum(&all_ones)).to_ne_bytes(), naive(&all_ones).to_be_bytes(), "{length} bytes of ones");
        }
    }

    #[test]
    fn parts_of_even_length_may_be_summed_apart() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in (0..256).step_by(2) {
            assert_eq!(fold(sum(&bytes[..cut]) + sum(&bytes[cut..])), fold(sum(&bytes)));
        }
    }

    #[test]
    fn the_pseudo_header_is_the_twelve_bytes() {
        let bytes = [10, 5, 1, 2, 10, 5, 2, 2, 0, 6, 0x12, 0x34];
        assert_eq!(fold(pseudo_header(&bytes[..8], 6, 0x1234)), fold(sum(&bytes)));
    }
}
