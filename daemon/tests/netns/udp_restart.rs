//! The udp backend's device and socket in the keeping of a service manager: the daemon is started again, and no packet
//! is lost.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::support::*;

/// What systemd is to a unit with `FileDescriptorStoreMax=`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<(String, OwnedFd)>,
}

impl Manager {
    fn of(host: &Host) -> Self {
        let path = host.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, path, kept: Vec::new() }
    }

    /// Reads what the daemon says until a message begins with `start`.
    fn hear(&mut self, start: &str) -> Result<()> {
        loop {
            let mut buffer = [0; 1024];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty());
            let length = received.context(|| format!("waiting for {start}"))?.bytes;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            if text.starts_with("FDSTOREREMOVE=1") {
                self.kept.retain(|(kept, _)| *kept != name);
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    assert!(text.starts_with("FDSTORE=1"), "{text}");
                    self.kept.retain(|(kept, _)| *kept != name);
                    self.kept.extend(descriptors.map(|d| (name.clone(), d)));
                }
            }
            if text.starts_with(start) {
                return Ok(());
            }
        }
    }

    /// Starts the daemon with what is kept, as sd_listen_fds(3) says: from descriptor 3 on, with their names.
    fn start(&mut self, host: &Host) -> Result<Daemon> {
        let script = host.directory().join("start");
        let mut lines = vec!["#!/bin/bash".to_owned()];
        for (number, (_, descriptor)) in (3..).zip(&self.kept) {
            // Descriptors that came by a message are inherited; they are far from the ones they are to become.
            let from = descriptor.as_raw_fd();
            assert!(from > 8, "descriptor {from}");
            lines.push(format!("exec {number}<&{from} {from}<&-"));
        }
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        lines.push(format!("export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}", names.len(), names.join(":")));
        lines.push(format!("exec {FLANNELD} \"$@\""));
        std::fs::write(&script, lines.join("\n")).context(|| script.display().to_string())?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).context(|| "chmod".to_owned())?;
        let daemon =
            host.flanneld(&script).arg("-healthz-port=8081").env("NOTIFY_SOCKET", self.path.display().to_string());
        let daemon = daemon.start()?;
        daemon.ready()?;
        self.hear("READY=1")?;
        Ok(daemon)
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

/// Descriptors 3 to 8 taken, so that none that comes by a message gets one of those numbers.
fn low_numbers() -> Vec<std::fs::File> {
    (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect()
}

#[test]
fn no_packet_is_lost_when_the_manager_keeps_device_and_socket() {
    let _taken = low_numbers();
    lab(2, &plain("udp")).check(|lab| {
        let host = lab.host(1);
        let mut manager = Manager::of(host);
        let first = manager.start(host)?;
        assert_eq!(manager.names(), ["flannel-tun", "flannel-udp"]);
        lab.host(2).up(FLANNELD, &[])?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("a first answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        let index = host.index_of("flannel0")?;
        let ping = one.ping_on(two.address())?;
        ping.replies_more(20)?;

        first.stop()?;
        let second = manager.start(host)?;
        one_line(&second.log(), &["goes on with the UDP socket"]);
        one_line(&second.log(), &["goes on with the device flannel0"]);
        ping.replies_more(50)?;
        assert_eq!(host.index_of("flannel0")?, index);

        second.kill()?;
        manager.start(host)?;
        ping.replies_more(50)?;
        assert_eq!(host.index_of("flannel0")?, index);
        let report = ping.stop()?;
        eprintln!("kept: longest gap {:?}, {} of {} lost", report.longest_gap(), report.lost(), report.sent);
        assert_eq!(report.lost(), 0, "{}", report.text);
        // Still a whole way, with offloads.
        transfer(&one, &two, two.address(), 20_000_000)?;
        assert!(sample(host, "flannel_udp_offloaded_total{direction=\"out\"}")? > 1000);
        Ok(())
    });
}

/// Without: what the gap costs is printed, and the way is whole again.
#[test]
fn without_a_manager_there_is_a_gap() {
    lab(2, &plain("udp")).check(|lab| {
        let host = lab.host(1);
        let first = host.up(FLANNELD, &[])?;
        lab.host(2).up(FLANNELD, &[])?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("a first answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        let ping = one.ping_on(two.address())?;
        ping.replies_more(20)?;
        first.stop()?;
        assert!(host.ip("link show dev flannel0").is_err(), "flannel0 is still there");
        host.up(FLANNELD, &[])?;
        ping.replies_more(50)?;
        let report = ping.stop()?;
        eprintln!("not kept: longest gap {:?}, {} of {} lost", report.longest_gap(), report.lost(), report.sent);
        Ok(())
    });
}

/// A socket on another port, a device without offloads: they are let go, and made anew.
#[test]
fn what_does_not_fit_the_config_any_more_is_let_go() {
    let _taken = low_numbers();
    lab(1, &plain("udp")).check(|lab| {
        let host = lab.host(1);
        let mut manager = Manager::of(host);
        manager.start(host)?.stop()?;
        manager.hear("STOPPING=1")?;
        let index = host.index_of("flannel0")?;
        lab.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":7890,"Offload":false}}"#)?;
        let second = manager.start(host)?;
        assert!(!second.log().contains("goes on with"), "{}", second.log());
        assert_eq!(manager.names(), ["flannel-tun", "flannel-udp"]);
        second.stop()?;
        manager.hear("STOPPING=1")?;
        let devices = host.ip("-br link")?;
        let tuns: Vec<&str> = devices.lines().filter(|l| l.starts_with("flannel")).collect();
        assert_eq!(tuns.len(), 1, "{devices}");
        assert!(host.index_of("flannel0").map_or(true, |now| now != index), "{devices}");

        lab.configure(&plain("vxlan"))?;
        manager.start(host)?;
        assert_eq!(manager.names(), Vec::<&str>::new());
        let devices = host.ip("-br link")?;
        assert!(!devices.contains("flannel0") && devices.contains("flannel.1"), "{devices}");
        Ok(())
    });
}
