//! Descriptors that outlive the daemon: handed to the service manager (`FDSTORE=1`, sd_pid_notify_with_fds(3)), which
//! hands them to the next daemon (`LISTEN_FDS`, `LISTEN_FDNAMES`, sd_listen_fds(3)).
//!
//! A manager that keeps none (`FileDescriptorStoreMax=0`, the default) passes over what it is handed.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

use listenfd::ListenFd;
use rustix::io::FdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

/// What was handed to this process, and where to hand descriptors to; clones share it.
#[derive(Debug, Clone, Default)]
pub struct DescriptorStore {
    address: Option<String>,
    handed: Arc<Mutex<Handed>>,
}

#[derive(Default)]
struct Handed {
    descriptors: Option<ListenFd>,
    /// By the number of the descriptor; empty once it is taken.
    names: Vec<String>,
}

impl std::fmt::Debug for Handed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

impl DescriptorStore {
    /// The one of the service manager that started this process, by its environment.
    pub(super) fn of_process(address: Option<String>, names: Option<String>) -> Self {
        let names: Vec<String> = names.map_or(Vec::new(), |names| names.split(':').map(str::to_owned).collect());
        // Looks at LISTEN_PID, so that what was meant for our parent is left alone.
        let descriptors = address.as_ref().map(|_| ListenFd::from_env());
        Self { address, handed: Arc::new(Mutex::new(Handed { descriptors, names })) }
    }

    /// The socket handed over under this name.
    pub fn take_socket(&self, name: &str) -> Option<UdpSocket> {
        self.take(name, |descriptors, number| descriptors.take_udp_socket(number).ok().flatten())
    }

    /// The TUN device handed over under this name.
    pub fn take_device(&self, name: &str) -> Option<tun::Device> {
        let descriptor = self.take(name, |descriptors, number| descriptors.take_raw_fd(number).ok().flatten())?;
        let mut config = tun::Configuration::default();
        config.raw_fd(descriptor).platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        tun::create(&config).ok()
    }

    fn take<T>(&self, name: &str, take: impl Fn(&mut ListenFd, usize) -> Option<T>) -> Option<T> {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let Handed { descriptors, names } = &mut *handed;
        let descriptors = descriptors.as_mut()?;
        let number = names.iter().position(|n| n == name)?;
        names[number].clear();
        take(descriptors, number)
    }

    /// Closes what was handed over under this name, here and in the store: it does not fit.
    pub fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    /// Has all that nobody took forgotten.
    pub fn forget_rest(&self) {
        let names = {
            let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
            handed.names.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>()
        };
        for name in names {
            // Closed by being dropped, whichever it is.
            if self.take_socket(&name).is_none() {
                drop(self.take_device(&name));
            }
            self.forget(&name);
        }
    }

    /// Hands a descriptor over for the next daemon.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.tell(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor]);
    }

    fn tell(&self, message: &str, descriptors: &[BorrowedFd<'_>]) {
        let Some(address) = &self.address else { return };
        if let Err(error) = send(address, message, descriptors) {
            tracing::warn!("can't hand descriptors to the service manager at {address}: {error}");
        }
    }
}

/// What a descriptor must have, so that no program we start inherits it.
pub fn not_inherited(descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}

fn send(address: &str, message: &str, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let to = match address.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::Error::other("more descriptors than one message takes"));
    }
    sendmsg_addr(&socket, &to, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;

    use super::*;

    #[test]
    fn without_a_manager_nothing_is_handed_over() {
        let store = DescriptorStore::of_process(None, Some("a:b".into()));
        assert!(store.take_socket("a").is_none() && store.take_device("b").is_none());
        store.forget("a");
        store.forget_rest();
    }

    #[test]
    fn names_without_descriptors_are_no_fault() {
        let address = format!("@flanneld-store-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(&address[1..]).unwrap();
        let ear = UnixDatagram::bind_addr(&name).unwrap();
        let store = DescriptorStore::of_process(Some(address), Some("device:socket".into()));
        assert!(store.take_socket("socket").is_none());
        store.forget_rest();
        let mut buffer = [0; 256];
        let length = ear.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"FDSTOREREMOVE=1\nFDNAME=device");
    }
}
