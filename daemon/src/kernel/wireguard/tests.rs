//! The messages byte by byte, by the attribute numbers of linux/wireguard.h: device 1 index, 3 private key, 6 port,
//! 8 peers; peer 1 public key, 2 preshared key, 3 flags (1 remove, 2 replace the allowed ones), 4 endpoint (a
//! sockaddr), 5 keepalive, 9 allowed ones; allowed 1 family, 2 address, 3 prefix length. Nested ones have bit 15 set.

use super::*;
use rtnetlink::packet_core::Emitable;

fn bytes(cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> Vec<u8> {
    let message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
    let mut bytes = vec![0; Emitable::buffer_len(&message)];
    message.emit(&mut bytes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [&length.to_le_bytes()[..], &kind.to_le_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

fn peer() -> Peer {
    Peer {
        link: LinkIndex(5),
        key: PublicKey([0x11; 32]),
        endpoint: "192.0.2.7:51820".parse().unwrap(),
        allowed: Some("10.5.1.0-24&fd00:5:0:1::-64".parse().unwrap()),
        psk: Some(PrivateKey([0x22; 32])),
        keepalive: 25,
    }
}

/// As `ip link add flannel-wg mtu 1420 type wireguard` sends it (strace), but for the NUL behind the kind.
#[test]
fn the_device() {
    let spec = WireguardSpec { name: IfName::new("flannel-wg").unwrap(), mtu: 1420 };
    let message = device_message(&spec);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let (header, rest) = bytes.split_at(16);
    assert_eq!(header, [0; 16]);
    let mtu = attribute(4, &1420u32.to_le_bytes());
    let name = attribute(3, b"flannel-wg\0");
    let info = attribute(18, &attribute(1, b"wireguard\0"));
    let mut rest = rest.to_vec();
    for expected in [mtu, name, info] {
        let at = rest.windows(expected.len()).position(|w| w == expected);
        let at = at.unwrap_or_else(|| panic!("{expected:x?} is not in {rest:x?}"));
        rest.drain(at..at + expected.len());
    }
    assert_eq!(rest, [0; 0], "and nothing else");
    assert!(is_wireguard(&message));
    assert!(!is_wireguard(&rtnetlink::LinkBridge::new("flannel-wg").build()));
}

/// The first 24 bytes written out, so that the helpers above are checked too.
#[test]
fn a_peer_is_put_whole() {
    let seen = bytes(WireguardCmd::SetDevice, put_attributes(&peer()));
    let start = [1, 1, 0, 0, 8, 0, 1, 0, 5, 0, 0, 0, 0xbc, 0, 8, 0x80, 0xb8, 0, 0, 0x80, 0x24, 0, 1, 0];
    assert_eq!(seen[..24], start);
    let allowed_v4 = nested(0, &[attribute(1, &[2, 0]), attribute(2, &[10, 5, 1, 0]), attribute(3, &[24])]);
    let v6 = [0xfd, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let allowed_v6 = nested(0, &[attribute(1, &[10, 0]), attribute(2, &v6), attribute(3, &[64])]);
    let endpoint = [2, 0, 0xca, 0x6c, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    let parts = [
        attribute(1, &[0x11; 32]),
        attribute(3, &[2, 0, 0, 0]),
        attribute(2, &[0x22; 32]),
        attribute(4, &endpoint),
        attribute(5, &[25, 0]),
        nested(9, &[allowed_v4, allowed_v6]),
    ];
    let device = [attribute(1, &[5, 0, 0, 0]), nested(8, &[nested(0, &parts)])].concat();
    assert_eq!(seen, [&[1, 1, 0, 0][..], &device].concat());
    // No shared key is one of zeros: that takes an earlier one away.
    let open = bytes(WireguardCmd::SetDevice, put_attributes(&Peer { psk: None, ..peer() }));
    assert!(open.windows(36).any(|w| w == attribute(2, &[0; 32])));
}

#[test]
fn a_peer_is_removed_by_its_key() {
    let seen = bytes(WireguardCmd::SetDevice, remove_attributes(&peer()));
    let parts = [attribute(1, &[0x11; 32]), attribute(3, &[1, 0, 0, 0])];
    let device = [attribute(1, &[5, 0, 0, 0]), nested(8, &[nested(0, &parts)])].concat();
    assert_eq!(seen, [&[1, 1, 0, 0][..], &device].concat());
}

#[test]
fn what_was_put_reads_back_also_in_two_messages() {
    let plain = Peer { key: PublicKey([0x33; 32]), psk: None, keepalive: 0, ..peer() };
    let both = put_attributes(&peer()).into_iter().chain(put_attributes(&plain));
    assert_eq!(read_peers(LinkIndex(5), both), [peer(), plain]);
    // The kernel cuts between the allowed ones.
    let half = |key: &str| put_attributes(&Peer { allowed: Some(key.parse().unwrap()), ..peer() });
    let cut = half("10.5.1.0-24").into_iter().chain(half("0.0.0.0-0&fd00:5:0:1::-64"));
    assert_eq!(read_peers(LinkIndex(5), cut), [peer()]);
    // More than a lease has is no lease's.
    let more = half("10.5.1.0-24").into_iter().chain(half("10.5.2.0-24"));
    assert_eq!(read_peers(LinkIndex(5), more)[0].allowed, None);
}

/// The question for the family is put to the real kernel; one without wireguard has no such family.
#[tokio::test]
async fn the_family_is_found_or_named_as_missing() {
    match Socket::open().await {
        Ok(socket) => assert!(socket.family > 0),
        Err(error) => {
            assert_eq!(error.fault, Fault::Unsupported);
            assert_eq!(error.to_string(), "cannot find wireguard's netlink family: this kernel lacks wireguard");
        }
    }
}
