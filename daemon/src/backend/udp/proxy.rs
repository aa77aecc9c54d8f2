//! The two threads that carry packets between the TUN device and the socket: one for each direction, so that each flow
//! keeps its order.
//!
//! Not guaranteed: that a packet arrives. Whatever can't go on is dropped and counted, as a router would.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::device::Device;
use super::receiver::Receiver;
use super::sender::Sender;
use super::table::Tunnels;
use super::transport::UdpTransport;
use crate::service_manager::DescriptorStore;

/// The names of what outlives the daemon.
const SOCKET: &str = "flannel-udp";
const DEVICE: &str = "flannel-tun";

/// How packets are carried.
#[derive(Debug, Clone, Copy)]
pub struct ProxyConfig {
    /// Where the socket is, and with that the source of what is sent.
    pub listen: SocketAddrV4,
    /// The host's own end of the network, for messages to its senders.
    pub own: Ipv4Addr,
    /// Many packets at a time, with the kernel's help; else one, as upstream.
    pub offload: bool,
    /// Senders without a lease are listened to, as upstream does.
    pub any_source: bool,
}

/// The running proxy; it ends, and its device with it, when this is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    device: Device,
    wire: UdpTransport,
    tunnels: Tunnels,
    stop: OwnedFd,
}

impl Proxy {
    /// Opens the device (its name may have a `%d` for the kernel to fill in) and the socket, and starts the threads.
    /// The error is a sentence with the remedy.
    pub fn start(name: &str, config: ProxyConfig, tunnels: Tunnels, store: &DescriptorStore) -> Result<Self, String> {
        let ProxyConfig { listen, offload, .. } = config;
        let socket = kept_socket(listen, store).map_or_else(|| bind(listen), Ok)?;
        let wire = UdpTransport::new(socket, offload).map_err(|e| format!("can't set up the UDP socket: {e}"))?;
        let device = kept_device(offload, store).map_or_else(|| Device::open(name, offload), Ok)?;
        store.keep(SOCKET, wire.as_fd());
        store.keep(DEVICE, device.as_fd());
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| format!("can't start the udp proxy: {e}"))?;
        tracing::info!(
            "carrying packets between {} and UDP {listen}: {}; the kernel leaves us {}",
            device.name(),
            wire.describe(),
            device.describe()
        );
        let mut proxy = Self { shared: Arc::new(Shared { device, wire, tunnels, stop }), threads: Vec::new() };
        proxy.spawn("udp-out", move |shared| {
            let Shared { device, wire, tunnels, .. } = shared;
            let mut outward = Sender::new(device, wire, tunnels, config.own, offload);
            until_stopped(device.as_fd(), shared, || outward.carry())
        })?;
        proxy.spawn("udp-in", move |shared| {
            let Shared { device, wire, tunnels, .. } = shared;
            let mut inward = Receiver::new(device, wire, tunnels, config.any_source, offload);
            until_stopped(wire.as_fd(), shared, || inward.carry())
        })?;
        Ok(proxy)
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            if !shared.tunnels.wait() {
                return;
            }
            if let Err(error) = body(&shared) {
                tracing::error!("udp proxy ended: {error}");
                shared.stop();
            }
        });
        self.threads.push(thread.map_err(|e| format!("can't start the udp proxy's thread: {e}"))?);
        Ok(())
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.shared.device.name()
    }
}

fn bind(listen: SocketAddrV4) -> Result<UdpSocket, String> {
    UdpSocket::bind(listen).map_err(|e| {
        format!("can't listen on UDP {listen}: {e}; free the port or set another Backend.Port on all hosts")
    })
}

/// The socket of the daemon before this one, with the datagrams that came meanwhile, if it is where ours is to be.
fn kept_socket(listen: SocketAddrV4, store: &DescriptorStore) -> Option<UdpSocket> {
    let socket = store.take_socket(SOCKET)?;
    let fits = socket.local_addr().is_ok_and(|address| address == listen.into());
    // Sending waits for room, receiving never waits: as for a new one.
    if fits && socket.set_nonblocking(false).is_ok() {
        tracing::info!("goes on with the UDP socket of the daemon before this one");
        return Some(socket);
    }
    store.forget(SOCKET);
    None
}

/// Its device, with the packets that wait in it, if it speaks as ours is to.
fn kept_device(offload: bool, store: &DescriptorStore) -> Option<Device> {
    let device = Device::adopt(store.take_device(DEVICE)?).ok();
    let fits = device.filter(|device| device.has_header() == offload);
    match &fits {
        Some(device) => tracing::info!("goes on with the device {} of the daemon before this one", device.name()),
        None => store.forget(DEVICE),
    }
    fits
}

impl Shared {
    fn stop(&self) {
        // An addition to a counter of 64 bits does not fail before it is full.
        if let Err(error) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!("can't stop the udp proxy: {error}");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop();
        self.shared.tunnels.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("udp proxy panicked");
            }
        }
    }
}

/// Carries until there is nothing, waits for more, and so on.
fn until_stopped(
    source: BorrowedFd<'_>,
    shared: &Shared,
    mut carry: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    let mut rounds: u32 = 0;
    loop {
        let dry = carry()?;
        rounds = rounds.wrapping_add(1);
        // A source that is never dry must not keep us from stopping.
        if !dry && !rounds.is_multiple_of(256) {
            continue;
        }
        let stop = PollFd::new(&shared.stop, PollFlags::IN);
        let mut both = [PollFd::from_borrowed_fd(source, PollFlags::IN), stop];
        match poll(&mut both, None) {
            Ok(_) if !both[1].revents().is_empty() => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
