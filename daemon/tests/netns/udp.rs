//! The udp proxy against a host that is not there: a lease by hand whose public address is h2, and a plain socket on
//! h2's port 8285 that plays its daemon.
//!
//! ```text
//! h1: flanneld, flannel0, cbr0 (lease + 1)  ==== UDP 8285 ====  h2: a socket, lease 10.5.200.0/24
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::support::*;
use crate::udp_packets::{Datagram, Header, ICMP, UDP};

pub(crate) const PORT: u16 = 8285;
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence must last to count.
const SILENCE: Duration = Duration::from_millis(300);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 200, 9);
const UNLEASED: Ipv4Addr = Ipv4Addr::new(10, 5, 254, 9);

/// h1 with its lease and the stand-in for h2's daemon.
pub(crate) struct Wire<'a> {
    pub(crate) host: &'a Host,
    env: SubnetEnv,
    daemon: Daemon,
    pub(crate) peer: UdpSocket,
}

pub(crate) fn on_the_wire(body: impl FnOnce(&Lab, &Wire<'_>) -> Result<()>) {
    on_the_wire_of(&plain("udp"), body);
}

/// The same with another config.
pub(crate) fn on_the_wire_of(config: &str, body: impl FnOnce(&Lab, &Wire<'_>) -> Result<()>) {
    lab(2, config).check(|lab| {
        let (host, other) = (lab.host(1), lab.host(2));
        lab.etcd().put(&format!("{SUBNETS}10.5.200.0-24"), r#"{"PublicIP":"172.31.77.2","PublicIPv6":null}"#)?;
        let peer = other.run(|_| UdpSocket::bind((other.address(), PORT)))?.context(|| "port 8285".to_owned())?;
        peer.set_read_timeout(Some(PATIENCE)).context(|| "port 8285".to_owned())?;
        let daemon = host.up(FLANNELD, &["-healthz-port=8081"])?;
        let env = daemon.ready()?;
        host.ip("link add cbr0 type bridge")?;
        host.ip(&format!("addr add {} dev cbr0", env.gateway))?;
        host.ip("link set cbr0 up")?;
        let wire = Wire { host, env, daemon, peer };
        wire.until_known()?;
        body(lab, &wire)
    });
}

impl Wire<'_> {
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.env.address(1)
    }

    /// A datagram of h1 itself with this TTL, from the lease's first address.
    pub(crate) fn send(&self, to: Ipv4Addr, ttl: u8, payload: &[u8]) -> Result<u16> {
        self.host
            .run(|_| -> std::io::Result<u16> {
                let socket = UdpSocket::bind((self.gateway(), 0))?;
                socket.set_ttl(ttl.into())?;
                socket.send_to(payload, (to, 9999))?;
                Ok(socket.local_addr()?.port())
            })?
            .context(|| format!("datagram to {to}"))
    }

    /// The next tunnel datagram that carries `payload`.
    pub(crate) fn receive(&self, payload: &[u8]) -> Result<Datagram> {
        loop {
            let datagram = self.receive_any()?;
            if datagram.payload == payload {
                return Ok(datagram);
            }
        }
    }

    /// The next one that carries UDP: the host's own kernel speaks to the far container too, by ICMP.
    pub(crate) fn receive_any(&self) -> Result<Datagram> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.peer.recv_from(&mut buffer).context(|| "no tunnel datagram came".to_owned())?;
            assert_eq!(from.to_string(), format!("{}:{PORT}", self.host.address()));
            if Header::parse(&buffer[..length])?.protocol == UDP {
                return Datagram::parse(&buffer[..length]);
            }
        }
    }

    /// The daemon learns of the lease after its file is written: send until something comes.
    fn until_known(&self) -> Result<()> {
        self.peer.set_read_timeout(Some(Duration::from_millis(50))).context(|| "socket".to_owned())?;
        eventually("the lease of h2", SOON, || {
            self.send(FAR, 64, b"are you there")?;
            self.receive(b"are you there")
        })?;
        self.peer.set_read_timeout(Some(PATIENCE)).context(|| "socket".to_owned())
    }

    /// Sends an inner packet as h2's daemon would.
    pub(crate) fn inject(&self, packet: &[u8]) -> Result<()> {
        self.peer.send_to(packet, (self.host.address(), PORT)).map(drop).context(|| "tunnel datagram".to_owned())
    }

    /// A socket on h1 that inner packets are for.
    pub(crate) fn listener(&self) -> Result<UdpSocket> {
        let socket = self.host.run(|_| UdpSocket::bind((self.gateway(), 0)))?.context(|| "listener".to_owned())?;
        socket.set_read_timeout(Some(PATIENCE)).context(|| "listener".to_owned())?;
        Ok(socket)
    }

    /// An inner packet from the far container to `listener`.
    pub(crate) fn packet_for(&self, listener: &UdpSocket, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let port = listener.local_addr().unwrap().port();
        Header { source: FAR, destination: self.gateway(), ttl, ..Header::default() }.udp(9999, port, payload)
    }
}

pub(crate) fn receive_on(listener: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = listener.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// The datagram's content is the packet with one TTL less, and every checksum in it is right.
#[test]
fn a_datagram_is_the_raw_packet_with_one_hop_less() {
    on_the_wire(|_, wire| {
        let port = wire.send(FAR, 64, b"hello")?;
        let seen = wire.receive(b"hello")?;
        assert_eq!((seen.header.source, seen.header.destination), (wire.gateway(), FAR));
        assert_eq!((seen.header.ttl, seen.header.protocol), (63, UDP));
        assert_eq!((seen.source_port, seen.destination_port), (port, 9999));
        assert!(seen.header.checksum_is_right(), "{seen:?}");
        Ok(())
    });
}

/// Outer header: DF, source and destination port 8285.
#[test]
fn the_outer_packet_must_not_be_fragmented() {
    on_the_wire(|lab, wire| {
        let tap = lab.host(2).run(|inside| capture(inside, ipproto::UDP, PATIENCE))??;
        wire.send(FAR, 64, b"outer")?;
        let mut buffer = [0; 2048];
        let outer = loop {
            let length = tap.recv(&mut buffer).context(|| "no outer packet".to_owned())?;
            if buffer[..length].ends_with(b"outer") {
                break Datagram::parse(&buffer[..length])?;
            }
        };
        assert_eq!((outer.source_port, outer.destination_port), (PORT, PORT));
        assert!(outer.header.dont_fragment, "{:?}", outer.header);
        assert_eq!(outer.header.source, wire.host.address());
        Ok(())
    });
}

#[test]
fn ttl_1_is_dropped_by_the_sender() {
    on_the_wire(|_, wire| {
        wire.send(FAR, 1, b"one")?;
        wire.send(FAR, 2, b"two")?;
        // In order: had the first been let through, it would be here first.
        let first = wire.receive_any()?;
        assert_eq!((first.payload.as_slice(), first.header.ttl), (&b"two"[..], 1));
        Ok(())
    });
}

#[test]
fn ttl_1_is_dropped_by_the_receiver() {
    on_the_wire(|_, wire| {
        let listener = wire.listener()?;
        for (ttl, payload) in [(1, b"one"), (2, b"two")] {
            wire.inject(&wire.packet_for(&listener, ttl, payload))?;
        }
        assert_eq!(receive_on(&listener), b"two");
        Ok(())
    });
}

/// The next "destination unreachable" on any interface of `host`'s tap, nothing when silence lasts.
fn unreachable(tap: &UdpSocket, silence: Duration) -> Option<Vec<u8>> {
    let start = std::time::Instant::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < silence {
        let Ok(length) = tap.recv(&mut buffer) else { continue };
        let packet = &buffer[..length];
        if Header::parse(packet).is_ok_and(|h| h.protocol == ICMP) && packet.get(20) == Some(&3) {
            return Some(packet.to_vec());
        }
    }
    None
}

/// What goes back into the TUN for an unleased destination: type 3 code 0 from the TUN's address with TTL 8 and id 0,
/// that quotes header and 8 bytes.
///
/// Looked at on the device: the kernel drops it as a martian (a source that is its own address), upstream's as well.
// parity: daemon/tests/vectors/recorded/udp-proxy
#[test]
fn an_unleased_address_is_answered_with_net_unreachable() {
    on_the_wire(|_, wire| {
        let tap = wire.host.run(|inside| tap(inside, SILENCE))??;
        let port = wire.send(UNLEASED, 64, b"hello-flannel-udp")?;
        let packet = unreachable(&tap, PATIENCE).context(|| "no ICMP came".to_owned())?;
        let header = Header::parse(&packet)?;
        assert_eq!((header.source, header.destination), (wire.env.subnet().addr(), wire.gateway()));
        assert_eq!((header.ttl, header.id), (8, 0));
        assert!(header.checksum_is_right(), "{header:?}");
        assert_eq!(packet.len(), 20 + 8 + 20 + 8, "{packet:02x?}");
        let (icmp, quote) = packet[20..].split_at(8);
        assert_eq!(icmp[..2], [3, 0]);
        assert_eq!(crate::udp_packets::checksum(&packet[20..]), 0, "ICMP checksum: {packet:02x?}");
        assert_eq!(icmp[4..], [0; 4]);
        let quoted = Header::parse(quote)?;
        assert_eq!((quoted.source, quoted.destination, quoted.ttl), (wire.gateway(), UNLEASED, 64));
        assert_eq!(quote[20..24], [port.to_be_bytes(), 9999_u16.to_be_bytes()].concat());
        Ok(())
    });
}

/// Nothing is said about ICMP, nor about a fragment that is not the first.
#[test]
fn some_packets_to_nowhere_get_no_answer() {
    on_the_wire(|_, wire| {
        let (tap, out) = wire.host.run(|inside| Ok::<_, Error>((tap(inside, SILENCE)?, injector(inside)?)))??;
        let base = Header { source: wire.gateway(), destination: UNLEASED, ttl: 64, ..Header::default() };
        let echo = Header { protocol: ICMP, ..base }.with(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        let fragment = Header { fragment: 185, ..base }.with(&[0; 64]);
        for packet in [echo, fragment] {
            out.send_to(&packet, (UNLEASED, 0)).context(|| "raw packet".to_owned())?;
            let answer = unreachable(&tap, SILENCE);
            assert_eq!(answer, None, "the answer to {packet:02x?}");
        }
        // The first fragment of a datagram is answered: the silence above was not deafness.
        let first = Header { more_fragments: true, ..base }.with(&[0; 64]);
        out.send_to(&first, (UNLEASED, 0)).context(|| "raw packet".to_owned())?;
        let answer = unreachable(&tap, PATIENCE).context(|| "no ICMP came".to_owned())?;
        assert_eq!(answer[20..22], [3, 0], "{answer:02x?}");
        Ok(())
    });
}

#[test]
fn garbage_does_no_harm() {
    on_the_wire(|_, wire| {
        let listener = wire.listener()?;
        let good = wire.packet_for(&listener, 64, b"good");
        let mut lying = good.clone();
        lying[2..4].copy_from_slice(&60_000_u16.to_be_bytes());
        let mut short_header = good.clone();
        short_header[0] = 0x41;
        let mut long_header = good.clone();
        long_header[0] = 0x4f;
        let mut six = vec![0; 60];
        six[0] = 0x60;
        let garbage: Vec<Vec<u8>> = vec![
            vec![],
            vec![0],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 1472],
            vec![0x45; 19],
            good[..20].to_vec(),
            good[..27].to_vec(),
            lying,
            short_header,
            long_header,
            six,
            vec![0x45; 9000],
        ];
        for (i, packet) in garbage.iter().enumerate() {
            wire.inject(packet)?;
            assert!(wire.daemon.process().exited()?.is_none(), "ended by garbage {i}:\n{}", wire.daemon.log());
        }
        for packet in random_packets(500) {
            wire.inject(&packet)?;
        }
        // It still carries packets, both ways. The burst may have filled its socket, so more than one is sent.
        listener.set_read_timeout(Some(Duration::from_millis(50))).context(|| "listener".to_owned())?;
        eventually("a good packet", SOON, || {
            wire.inject(&good)?;
            let mut buffer = [0; 2048];
            let length = listener.recv(&mut buffer).context(|| "listener".to_owned())?;
            expect(&buffer[..length] == b"good", || format!("{:02x?}", &buffer[..length]))
        })?;
        wire.send(FAR, 64, b"and back")?;
        wire.receive(b"and back")?;
        assert!(wire.daemon.process().exited()?.is_none(), "{}", wire.daemon.log());
        Ok(())
    });
}

/// Bytes that look random and are the same in every run; half of them begin like an IPv4 header.
fn random_packets(count: u32) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(move |i| {
        let length = usize::try_from(next() % 200).unwrap_or(0);
        let mut bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[3]).collect();
        if i % 2 == 0
            && let Some(first) = bytes.first_mut()
        {
            *first = 0x45;
        }
        bytes
    })
}

/// The largest packet passes whole; leases of any backend are destinations.
#[test]
fn full_size_packets_and_leases_of_any_backend() {
    on_the_wire(|lab, wire| {
        let payload = vec![7; 1472 - 28];
        wire.send(FAR, 64, &payload)?;
        assert_eq!(wire.receive(&payload)?.payload.len(), payload.len());
        let listener = wire.listener()?;
        wire.inject(&wire.packet_for(&listener, 64, &payload))?;
        assert_eq!(receive_on(&listener), payload);

        let lease = r#"{"PublicIP":"172.31.77.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"}}"#;
        lab.etcd().put(&format!("{SUBNETS}10.5.201.0-24"), lease)?;
        wire.peer.set_read_timeout(Some(Duration::from_millis(50))).context(|| "socket".to_owned())?;
        eventually("the vxlan host's lease as a destination", SOON, || {
            wire.send(Ipv4Addr::new(10, 5, 201, 9), 64, b"any backend")?;
            wire.receive(b"any backend")
        })?;
        // And gone with its key.
        lab.etcd().delete(&format!("{SUBNETS}10.5.201.0-24"))?;
        eventually("silence after the key is gone", SOON, || {
            while wire.receive_any().is_ok() {}
            wire.send(Ipv4Addr::new(10, 5, 201, 9), 64, b"any backend")?;
            expect(wire.receive_any().is_err(), || "still sent".to_owned())
        })
    });
}
