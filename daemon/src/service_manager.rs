//! Telling the service manager how the daemon is (sd_notify(3)): datagrams to `$NOTIFY_SOCKET`, for systemd units of
//! `Type=notify`, with a watchdog where the unit has `WatchdogSec=`.
//!
//! Without a service manager everything here does nothing. A failure to tell is a warning, once: the network matters
//! more than who knows of it.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub mod descriptors;

pub use descriptors::DescriptorStore;

/// The service manager, or none.
#[derive(Debug, Default)]
pub struct ServiceManager {
    address: Option<String>,
    watchdog_interval: Option<Duration>,
    complained: AtomicBool,
    store: DescriptorStore,
}

impl ServiceManager {
    /// The one that started the process `pid`, by its environment.
    pub fn of_process(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        // A child inherits the variables, but another process is meant.
        let meant = variable("WATCHDOG_PID").is_none_or(|meant| meant.parse() == Ok(pid));
        let period = variable("WATCHDOG_USEC").filter(|_| meant).and_then(|usec| usec.parse().ok());
        Self {
            address: variable("NOTIFY_SOCKET"),
            watchdog_interval: period.filter(|usec| *usec > 0).map(|usec: u64| Duration::from_micros(usec) / 2),
            complained: AtomicBool::new(false),
            store: DescriptorStore::of_process(variable("NOTIFY_SOCKET"), variable("LISTEN_FDNAMES")),
        }
    }

    /// Where descriptors outlive the daemon.
    pub fn store(&self) -> &DescriptorStore {
        &self.store
    }

    /// How often [`ServiceManager::notify_watchdog`] must be called: twice per watchdog timeout. Nothing without a watchdog.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.address.as_ref().and(self.watchdog_interval)
    }

    /// The network is ready, and what comes after it may start. `status` is one line for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What the daemon does or waits for, as one line for people.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    /// The main loop is alive.
    pub fn notify_watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The daemon ends, and why, as one line for people.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    fn tell(&self, message: &str) {
        let Some(address) = &self.address else { return };
        if let Err(error) = send(address, message)
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("can't tell the service manager at {address}: {error}");
        }
    }
}

/// A second line would be read as another assignment.
fn one_line(status: &str) -> String {
    status.replace('\n', " ")
}

/// A leading `@` stands for an abstract address. Never waits: a manager whose queue is full is as good as none.
fn send(address: &str, message: &str) -> io::Result<()> {
    let to = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &to).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(variables: &[(&str, &str)]) -> ServiceManager {
        ServiceManager::of_process(7, |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_message_is_one_datagram() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let name = format!("flanneld-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let unnamed = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (socket, address) in [(named, path.to_str().unwrap().to_owned()), (unnamed, format!("@{name}"))] {
            let manager = manager(&[("NOTIFY_SOCKET", &address)]);
            manager.status("waiting\nREADY=1");
            manager.ready("lease 10.5.1.0-24");
            manager.notify_watchdog();
            manager.stopping("shutting down");
            assert_eq!(receive(&socket), "STATUS=waiting READY=1");
            assert_eq!(receive(&socket), "READY=1\nSTATUS=lease 10.5.1.0-24");
            assert_eq!(receive(&socket), "WATCHDOG=1");
            assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=shutting down");
        }
    }

    #[test]
    fn nobody_there_is_no_fault() {
        for address in ["", "/nonexistent/notify", "relative", "@nobody-listens"] {
            let manager = manager(&[("NOTIFY_SOCKET", address)]);
            manager.ready("");
            manager.notify_watchdog();
        }
    }

    #[test]
    fn the_watchdog_is_fed_at_half_its_time_by_the_process_meant() {
        let interval = |usec, pid| {
            manager(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)]).watchdog_interval()
        };
        assert_eq!(interval("30000000", "7"), Some(Duration::from_secs(15)));
        assert_eq!(interval("30000000", ""), Some(Duration::from_secs(15)));
        for (usec, pid) in [("30000000", "8"), ("30000000", "x"), ("0", "7"), ("", "7"), ("soon", "7")] {
            assert_eq!(interval(usec, pid), None, "{usec} {pid}");
        }
        assert_eq!(manager(&[("WATCHDOG_USEC", "30000000")]).watchdog_interval(), None);
    }
}
