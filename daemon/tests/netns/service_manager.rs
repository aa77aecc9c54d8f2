//! What a service manager hears (sd_notify), and the options it passes on to Docker.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::*;

/// A service manager's ear. A path, since abstract names end at the namespace's border.
struct Ear(UnixDatagram);

impl Ear {
    fn open(host: &Host) -> (Self, String) {
        let path = host.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        (Self(socket), path.display().to_string())
    }

    fn next(&self) -> Result<String> {
        let mut buffer = [0; 1024];
        let length = self.0.recv(&mut buffer).context(|| "a datagram of the daemon".to_owned())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next datagram that is no heartbeat.
    fn next_news(&self) -> Result<String> {
        loop {
            let message = self.next()?;
            if message != "WATCHDOG=1" {
                return Ok(message);
            }
        }
    }
}

#[test]
fn state_heartbeat_and_end_are_told() {
    Lab::flat(1).unwrap().check(|lab| {
        let host = lab.host(1);
        let (ear, address) = Ear::open(host);
        let daemon = host.flanneld(FLANNELD).env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "400000").start()?;
        assert_eq!(ear.next()?, "STATUS=waiting for the config /coreos.com/network/config in etcd");
        lab.configure(&plain("vxlan"))?;
        assert_eq!(ear.next()?, "STATUS=waiting for a lease");
        let ready = ear.next_news()?;
        assert_eq!(
            ready,
            format!("READY=1\nSTATUS=lease {}, MTU 1450", host.subnet_env()?.key().trim_start_matches(SUBNETS))
        );
        // Twice in the time the manager waits, and not much oftener: this machine may hand over the first one late.
        assert_eq!(ear.next()?, "WATCHDOG=1");
        let first = Instant::now();
        for _ in 0..5 {
            assert_eq!(ear.next()?, "WATCHDOG=1");
        }
        assert!(first.elapsed() >= Duration::from_millis(600), "{:?}", first.elapsed());
        daemon.stop()?;
        assert!(ear.next_news()?.starts_with("STOPPING=1\nSTATUS=shutting down"));
        Ok(())
    });
}

#[test]
fn why_it_ends_is_told_and_without_a_watchdog_there_is_no_heartbeat() {
    lab(1, &plain("nosuch")).check(|lab| {
        let host = lab.host(1);
        let (ear, address) = Ear::open(host);
        // The heartbeat another process owes is not ours.
        let daemon = host.flanneld(FLANNELD).env("NOTIFY_SOCKET", address);
        let exit = daemon.env("WATCHDOG_USEC", "100").env("WATCHDOG_PID", "1").run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        assert!(ear.next()?.starts_with("STATUS=waiting for the config"));
        let end = ear.next()?;
        assert!(end.starts_with("STOPPING=1\nSTATUS=") && end.contains("nosuch"), "{end}");
        Ok(())
    });
}

// parity: daemon/tests/vectors/recorded/mk-docker-opts, the run with a route in the way.
#[test]
fn a_lease_routed_elsewhere_is_told_after_the_file_is_written() {
    Lab::without_etcd(&[Segment::Near]).unwrap().check(|lab| {
        let host = lab.host(1);
        let (env, out) = (host.directory().join("masq.env"), host.directory().join("out"));
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        std::fs::write(&env, text).unwrap();
        let call = || {
            let words = format!("{FLANNELD} docker-opts -f {} -d {}", env.display(), out.display());
            host.exec(&words)
        };
        let written = || std::fs::read_to_string(&out).unwrap();
        call()?;
        let expected = "DOCKER_OPT_BIP=\"--bip=10.5.72.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
            DOCKER_OPT_MTU=\"--mtu=1450\"\n\
            DOCKER_OPTS=\" --bip=10.5.72.1/24 --ip-masq=false --mtu=1450\"\n";
        assert_eq!(written(), expected);
        std::fs::remove_file(&out).unwrap();
        // A route without a gateway is the bridge's own, and one to another subnet is another host's.
        host.ip("link add cbr0 type bridge")?;
        host.ip("link set cbr0 up")?;
        host.ip("route add 10.5.72.0/24 dev cbr0")?;
        host.ip("route add 10.5.0.0/16 via 172.31.77.2")?;
        call()?;
        std::fs::remove_file(&out).unwrap();
        host.ip("route replace 10.5.72.0/24 via 172.31.77.2")?;
        let error = call().unwrap_err().to_string();
        assert!(error.contains("10.5.72.0/24, this host's lease, is routed via 172.31.77.2"), "{error}");
        assert!(error.contains("exit status: 1"), "{error}");
        assert_eq!(written(), expected);
        Ok(())
    });
}
