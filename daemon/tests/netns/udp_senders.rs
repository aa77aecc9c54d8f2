//! Who may send through the udp proxy: hosts with a lease, in the name of their own lease. And what comes in one
//! handful with something bad.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::*;
use crate::udp::{FAR, PORT, Wire, on_the_wire, on_the_wire_of, receive_on};
use crate::udp_packets::{Header, checksum};

const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 31, 77, 66);

/// A socket on h2 with an address no lease names.
fn stranger(lab: &Lab) -> Result<UdpSocket> {
    let other = lab.host(2);
    other.ip(&format!("addr add {STRANGER}/24 dev eth0"))?;
    other.run(|_| UdpSocket::bind((STRANGER, PORT)))?.context(|| "stranger's socket".to_owned())
}

fn drops(host: &Host, reason: &str) -> Result<u64> {
    sample(host, &format!("flannel_udp_drops_total{{reason=\"{reason}\"}}"))
}

/// What a stranger sends goes nowhere, and is counted.
#[test]
fn a_sender_without_a_lease_is_not_listened_to() {
    on_the_wire(|lab, wire| {
        let (stranger, listener) = (stranger(lab)?, wire.listener()?);
        let before = drops(wire.host, "foreign_host")?;
        let packet = wire.packet_for(&listener, 64, b"from nowhere");
        stranger.send_to(&packet, (wire.host.address(), PORT)).context(|| "datagram".to_owned())?;
        eventually("the drop in the metrics", SOON, || {
            let now = drops(wire.host, "foreign_host")?;
            expect(now == before + 1, || format!("{now}, before {before}"))
        })?;
        // In order: had it been let through, it would be here first.
        wire.inject(&wire.packet_for(&listener, 64, b"from a host"))?;
        assert_eq!(receive_on(&listener), b"from a host");
        Ok(())
    });
}

/// A host speaks for its lease and for itself, not for others.
#[test]
fn a_host_can_not_speak_for_another() {
    on_the_wire(|lab, wire| {
        let listener = wire.listener()?;
        let port = listener.local_addr().unwrap().port();
        let to = wire.gateway();
        let packet = |source: Ipv4Addr, payload: &[u8]| {
            Header { source, destination: to, ttl: 64, ..Header::default() }.udp(9999, port, payload)
        };
        let before = drops(wire.host, "foreign_source")?;
        for foreign in [Ipv4Addr::new(10, 5, 201, 9), Ipv4Addr::new(192, 0, 2, 1), wire.gateway()] {
            wire.inject(&packet(foreign, b"foreign"))?;
        }
        wire.inject(&packet(FAR, b"its container"))?;
        assert_eq!(receive_on(&listener), b"its container");
        assert_eq!(drops(wire.host, "foreign_source")?, before + 3);
        // The kernel would drop it, since it has another route to that host; the proxy lets it through.
        wire.inject(&packet(lab.host(2).address(), b"the host itself"))?;
        wire.inject(&packet(FAR, b"its container again"))?;
        while receive_on(&listener) != b"its container again" {}
        assert_eq!(drops(wire.host, "foreign_source")?, before + 3);
        Ok(())
    });
}

/// `AnySource`, for hosts whose address is translated on the way.
#[test]
fn any_source_takes_from_everyone() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","AnySource":true}}"#;
    on_the_wire_of(config, |lab, wire| {
        let (stranger, listener) = (stranger(lab)?, wire.listener()?);
        let packet = wire.packet_for(&listener, 64, b"translated");
        stranger.send_to(&packet, (wire.host.address(), PORT)).context(|| "datagram".to_owned())?;
        assert_eq!(receive_on(&listener), b"translated");
        Ok(())
    });
}

/// An inner UDP packet to `listener` with a checksum.
fn summed(wire: &Wire<'_>, listener: &UdpSocket, id: u16, payload: &[u8]) -> Vec<u8> {
    let port = listener.local_addr().unwrap().port();
    let header = Header { source: FAR, destination: wire.gateway(), id, ttl: 64, ..Header::default() };
    let mut packet = header.udp(9999, port, payload);
    let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
    let whole = [&packet[12..20], &[0, 17], &length, &packet[20..]].concat();
    let sum = checksum(&whole).to_be_bytes();
    packet[26..28].copy_from_slice(&sum);
    packet
}

/// Datagrams that come in one handful: a corrupt one among them is not covered up by being joined to the others.
#[test]
fn a_corrupt_packet_among_good_ones_stays_corrupt() {
    on_the_wire(|_, wire| {
        let listener = wire.listener()?;
        let mut packets: Vec<Vec<u8>> =
            (0..8).map(|n| summed(wire, &listener, 100 + n, &[u8::try_from(n).unwrap(); 500])).collect();
        packets[3][200] ^= 0x10;
        // One send with UDP_SEGMENT, so that they come as one handful.
        setsockopt(&wire.peer, sockopt::UdpGsoSegment, &528).context(|| "UDP_SEGMENT".to_owned())?;
        wire.inject(&packets.concat())?;
        let seen: Vec<u8> = (0..7).map(|_| receive_on(&listener)[0]).collect();
        assert_eq!(seen, [0, 1, 2, 4, 5, 6, 7]);
        listener.set_read_timeout(Some(Duration::from_millis(300))).context(|| "listener".to_owned())?;
        assert!(listener.recv(&mut [0; 8]).is_err(), "the corrupt one came too");
        eventually("the handful in the metrics", SOON, || {
            let together = sample(wire.host, "flannel_udp_offloaded_total{direction=\"in\"}")?;
            expect(together >= 8, || together.to_string())
        })?;
        Ok(())
    });
}

/// What a program hands to the kernel in one piece (`UDP_SEGMENT`) is on the wire as packets, each whole and summed.
#[test]
fn a_super_packet_is_on_the_wire_as_packets() {
    on_the_wire(|_, wire| {
        let payload: Vec<u8> = (0..10_500_u32).map(|n| n.to_le_bytes()[0]).collect();
        wire.host
            .run(|_| -> std::io::Result<()> {
                let socket = UdpSocket::bind((wire.gateway(), 0))?;
                setsockopt(&socket, sockopt::UdpGsoSegment, &1000)?;
                socket.send_to(&payload, (FAR, 9999)).map(drop)
            })?
            .context(|| "super-packet".to_owned())?;
        let mut buffer = [0; 2048];
        let mut carried = Vec::new();
        while carried.len() < payload.len() {
            let length = wire.peer.recv(&mut buffer).context(|| format!("behind {} bytes", carried.len()))?;
            let packet = &buffer[..length];
            let header = Header::parse(packet)?;
            if header.protocol != 17 {
                continue;
            }
            assert!(header.checksum_is_right(), "{header:?}");
            assert_eq!((usize::from(u16::from_be_bytes([packet[2], packet[3]])), header.ttl), (length, 63));
            let rest = u16::try_from(length - 20).unwrap().to_be_bytes();
            let whole = [&packet[12..20], &[0, 17], &rest, &packet[20..]].concat();
            assert_eq!(checksum(&whole), 0, "UDP checksum of {packet:02x?}");
            carried.extend_from_slice(&packet[28..]);
        }
        assert_eq!(carried, payload);
        Ok(())
    });
}
