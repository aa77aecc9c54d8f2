//! Options of `wireguard`.

use super::Fields;
use crate::wireguard::Secret;

/// Options of `wireguard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wireguard {
    /// UDP port of the device `flannel-wg`; default 51820.
    pub listen_port: u16,
    /// UDP port of the device `flannel-wg-v6`; default 51821.
    pub listen_port_v6: u16,
    /// MTU of the outer packets, in bytes; default that of the external interface.
    pub mtu: Option<u32>,
    /// A key all hosts share, on top of each host's own.
    pub psk: Option<Secret>,
    /// How often a silent tunnel sends something, in seconds; 0, the default, for never.
    pub keepalive: u16,
    /// How many devices there are, and by which addresses hosts are reached.
    pub mode: Mode,
}

/// How many devices there are, and by which addresses hosts are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A device for each family, IPv4 over IPv4 and IPv6 over IPv6.
    Separate,
    /// One device for both, over whichever family is likelier to get through.
    Auto,
    /// One device for both, over IPv4.
    Ipv4,
    /// One device for both, over IPv6.
    Ipv6,
}

impl Wireguard {
    /// Reads the options.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        let port = "a UDP port (1 to 65535)";
        let wireguard = Self {
            listen_port: fields.get("ListenPort", port, 51820),
            listen_port_v6: fields.get("ListenPortV6", port, 51821),
            mtu: Some(fields.get("MTU", "a number of bytes", 0)).filter(|mtu| *mtu > 0),
            psk: read_psk(fields),
            keepalive: fields.get("PersistentKeepaliveInterval", "a number of seconds (0 to 65535)", 0),
            mode: read_mode(fields),
        };
        for (name, value) in [("ListenPort", wireguard.listen_port), ("ListenPortV6", wireguard.listen_port_v6)] {
            if value == 0 {
                fields.mistakes.push(format!("Backend.{name} is 0, which is not {port}: the other hosts must know it"));
            }
        }
        if wireguard.mode == Mode::Separate && wireguard.listen_port == wireguard.listen_port_v6 {
            fields.mistakes.push(format!(
                "Backend.ListenPort and Backend.ListenPortV6 are both {}: each device needs a port of its own",
                wireguard.listen_port
            ));
        }
        wireguard
    }
}

fn read_mode(fields: &mut Fields<'_>) -> Mode {
    let name: String = fields.get("Mode", "one of separate, auto, ipv4, ipv6", "separate".into());
    match name.as_str() {
        "separate" => Mode::Separate,
        "auto" => Mode::Auto,
        "ipv4" => Mode::Ipv4,
        "ipv6" => Mode::Ipv6,
        other => {
            fields.mistakes.push(format!("Backend.Mode {other:?} is unknown: use one of separate, auto, ipv4, ipv6"));
            Mode::Separate
        }
    }
}

/// What was found is not repeated: it may be a secret with a slip in it.
fn read_psk(fields: &mut Fields<'_>) -> Option<Secret> {
    let Ok(text) = fields.object.get::<String>("PSK", "") else {
        fields.mistakes.push("Backend.PSK is not a text".into());
        return None;
    };
    let text = text.filter(|text| !text.is_empty())?;
    match text.parse() {
        Ok(secret) => Some(secret),
        Err(_) => {
            fields
                .mistakes
                .push("Backend.PSK is no preshared key: it must be 32 bytes in base64, as `wg genpsk` prints".into());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, parse};
    use super::*;

    const PSK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn read(options: &str) -> Result<Wireguard, String> {
        let text = format!(r#"{{"Type":"wireguard"{options}}}"#);
        let parsed = parse(&text, &[Kind { name: "wireguard", read: Wireguard::read }]);
        parsed.map(|(_, options)| options).map_err(|bad| bad.to_string())
    }

    #[test]
    fn upstreams_defaults_and_every_option() {
        let defaults = Wireguard {
            listen_port: 51820,
            listen_port_v6: 51821,
            mtu: None,
            psk: None,
            keepalive: 0,
            mode: Mode::Separate,
        };
        assert_eq!(read(r#","PSK":"","MTU":0"#), Ok(defaults));
        let given = format!(
            r#","listenport":1,"ListenPortV6":1,"MTU":1400,"PSK":"{PSK}","PersistentKeepaliveInterval":25,"Mode":"auto""#
        );
        let expected = Wireguard {
            listen_port: 1,
            listen_port_v6: 1,
            mtu: Some(1400),
            psk: Some(PSK.parse().unwrap()),
            keepalive: 25,
            mode: Mode::Auto,
        };
        assert_eq!(read(&given), Ok(expected));
        assert_eq!(read(r#","Mode":"ipv4""#).unwrap().mode, Mode::Ipv4);
        assert_eq!(read(r#","Mode":"ipv6""#).unwrap().mode, Mode::Ipv6);
    }

    #[test]
    fn every_mistake_is_named_and_no_secret_told() {
        let says = read(
            r#","ListenPort":0,"ListenPortV6":70000,"MTU":"x","PSK":"c2VjcmV0","PersistentKeepaliveInterval":-1,"Mode":"both""#,
        )
        .unwrap_err();
        for piece in [
            "Backend.ListenPort is 0",
            "Backend.ListenPortV6 is 70000, which is not a UDP port",
            "Backend.MTU is \"x\"",
            "Backend.PSK is no preshared key",
            "Backend.PersistentKeepaliveInterval is -1",
            "Backend.Mode \"both\" is unknown: use one of separate, auto, ipv4, ipv6",
        ] {
            assert!(says.contains(piece), "{piece:?} is not in {says:?}");
        }
        assert!(!says.contains("c2VjcmV0"), "{says}");
        assert_eq!(read(r#","PSK":12345678"#), Err("Backend.PSK is not a text".into()));
        assert!(read(r#","ListenPort":51821"#).unwrap_err().contains("are both 51821"));
        let config = read(&format!(r#","PSK":"{PSK}""#)).unwrap();
        assert!(!format!("{config:?}").contains("AAEC"), "{config:?}");
    }
}
