//! Contract: whatever a device gives, its offload header first, no panic; pieces are in order, lie inside of what was
//! given, and together hold all its payload.
#![no_main]

use flannel_core::packet::Packet;
use flannel_core::packet::offload::{LENGTH, Offload};
use flannel_core::packet::segment::segment;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((header, rest)) = data.split_first_chunk::<LENGTH>() else { return };
    let mut bytes = rest.to_vec();
    let Some(mut packet) = Packet::parse(&mut bytes) else { return };
    let total = packet.bytes().len();
    packet.decrement_ttl();
    packet.unreachable(std::net::Ipv4Addr::LOCALHOST);
    let mut heads = Vec::new();
    let mut pieces = Vec::new();
    if segment(&Offload::parse(*header), &mut packet, &mut heads, |piece| pieces.push(piece)).is_err() {
        assert!(pieces.is_empty());
        return;
    }
    for two in pieces.windows(2) {
        assert!(two[0].head.end == two[1].head.start && two[0].body.end == two[1].body.start);
    }
    let last = pieces.last().expect("at least one piece");
    assert!(last.head.end <= heads.len() && last.body.end == total);
});
