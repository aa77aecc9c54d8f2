//! Contract: whatever datagrams come in a batch, no panic; every packet is written once, and each write is at most as
//! long as an IPv4 packet may be. The batch is the data cut into datagrams: a length of two bytes before each.
#![no_main]

use flannel_core::packet::Packet;
use flannel_core::packet::coalesce::{Coalescer, TunOffloads};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut buffer = data.to_vec();
    let mut coalescer = Coalescer::new(TunOffloads { tcp: true, udp: true });
    let (mut at, mut added) = (0, 0);
    while at + 2 <= buffer.len() {
        let start = at + 2;
        let end = (start + usize::from(u16::from_be_bytes([buffer[at], buffer[at + 1]]))).min(buffer.len());
        let length = Packet::parse(&mut buffer[start..end]).map(|packet| packet.bytes().len());
        if let Some(length) = length {
            coalescer.add(&buffer, start..start + length);
            added += 1;
        }
        at = end;
    }
    let mut written = 0;
    let drained: Result<(), ()> = coalescer.drain(|joined| {
        written += joined.packets;
        assert!(joined.head.len() + joined.parts.iter().map(|part| part.len()).sum::<usize>() <= 65_535);
        Ok(())
    });
    assert!(drained.is_ok() && written == added);
});
