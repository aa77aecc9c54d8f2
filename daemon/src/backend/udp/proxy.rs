//! The thread that carries packets between the TUN device and the socket, one at a time.
//!
//! Not guaranteed: that a packet arrives. Whatever can't go on is dropped and counted, as a router would.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread::JoinHandle;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tun::AbstractDevice as _;

use super::packet::Packet;
use super::table::Tunnels;
use crate::metrics::{Counter, METRICS};

/// The largest IPv4 packet, in bytes.
const LARGEST: usize = 65_535;

/// The running proxy; it ends, and its device with it, when this is dropped.
pub struct Proxy {
    device: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// A packet can't go on. Told in the log at 1, 2, 4, 8, ... of a kind, so that a flood of them is no flood of lines.
fn drop_for(reason: &Counter, why: impl FnOnce() -> String) {
    let count = reason.inc();
    if count.is_power_of_two() {
        tracing::debug!("udp: {count} packets dropped so far because {}", why());
    }
}

impl Proxy {
    /// Opens the device (its name may have a `%d` for the kernel to fill in) and the socket, and starts the thread.
    /// The error is a sentence with the remedy.
    pub fn start(name: &str, listen: SocketAddrV4, own: Ipv4Addr, tunnels: Tunnels) -> Result<Self, String> {
        let socket = std::net::UdpSocket::bind(listen).map_err(|e| {
            format!("can't listen on UDP {listen}: {e}; free the port or set another Backend.Port on all hosts")
        })?;
        socket.set_nonblocking(true).map_err(|e| format!("can't make the UDP socket non-blocking: {e}"))?;
        let mut config = tun::Configuration::default();
        // Address, MTU and routes are the daemon's own work.
        config.tun_name(name).platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&config).map_err(|e| {
            format!(
                "can't open a TUN device: {e}; in a container, give it --device /dev/net/tun and --cap-add NET_ADMIN"
            )
        })?;
        let name = device.tun_name().map_err(|e| format!("can't read the TUN device's name: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|e| format!("can't start the udp proxy: {e}"))?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("udp-proxy".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(carry(device, socket, own, &tunnels, &stopped)) {
                    tracing::error!("udp proxy ended: {error}");
                }
            })
            .map_err(|e| format!("can't start the udp proxy's thread: {e}"))?;
        tracing::info!("carrying packets between {name} and UDP {listen}");
        Ok(Self { device: name, stop, thread: Some(thread) })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("udp proxy panicked");
        }
    }
}

async fn carry(
    device: tun::Device,
    socket: std::net::UdpSocket,
    own: Ipv4Addr,
    tunnels: &Tunnels,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let device = tun::AsyncDevice::new(device)?;
    let port = socket.local_addr()?.port();
    let socket = UdpSocket::from_std(socket)?;
    tokio::select! {
        result = outward(&device, &socket, port, own, tunnels) => result,
        result = inward(&device, &socket) => result,
        () = stop.cancelled() => Ok(()),
    }
}

/// From the device to the hosts.
async fn outward(
    device: &tun::AsyncDevice,
    socket: &UdpSocket,
    port: u16,
    own: Ipv4Addr,
    tunnels: &Tunnels,
) -> std::io::Result<()> {
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = device.recv(&mut buffer).await?;
        let Some(mut packet) = Packet::parse(&mut buffer[..length]) else {
            // The kernel's own IPv6 chatter (router solicitations) ends here.
            drop_for(&METRICS.udp_not_a_packet, || "the device gave no IPv4 packet".into());
            continue;
        };
        let Some(host) = tunnels.host_of(packet.destination()) else {
            drop_for(&METRICS.udp_no_lease, || "no lease has their destination".into());
            if let Some(message) = packet.unreachable(own) {
                write(device, &message).await?;
            }
            continue;
        };
        if !packet.hop() {
            drop_for(&METRICS.udp_ttl, || "their time to live was over".into());
            continue;
        }
        let to = SocketAddr::from((host, port));
        match socket.send_to(packet.bytes(), to).await {
            Ok(bytes) => METRICS.udp_sent.add(bytes),
            Err(error) => drop_for(&METRICS.udp_send_failed, || format!("{to} can't be sent to: {error}")),
        }
    }
}

/// From the hosts to the device.
async fn inward(device: &tun::AsyncDevice, socket: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => length,
            // An ICMP error of an earlier datagram, told on this socket.
            Err(error) => {
                drop_for(&METRICS.udp_receive_failed, || error.to_string());
                continue;
            }
        };
        let Some(mut packet) = Packet::parse(&mut buffer[..length]) else {
            drop_for(&METRICS.udp_not_a_packet, || "a datagram held no whole IPv4 packet".into());
            continue;
        };
        if packet.hop() {
            METRICS.udp_received.add(packet.bytes().len());
            write(device, packet.bytes()).await?;
        } else {
            drop_for(&METRICS.udp_ttl, || "their time to live was over".into());
        }
    }
}

/// A packet the kernel does not take is dropped; a device that is gone ends the proxy.
async fn write(device: &tun::AsyncDevice, packet: &[u8]) -> std::io::Result<()> {
    match device.send(packet).await {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BADFD.raw_os_error()) => Err(error),
        Err(error) => {
            drop_for(&METRICS.udp_device_refused, || format!("the device does not take them: {error}"));
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
