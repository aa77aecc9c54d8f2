//! The other end of every measurement: TCP and UDP on one port.
//!
//! A TCP client says with its first byte what it wants: [`SUM`], then after all its data has come, the SHA-256 of it and
//! the number of bytes as one line; [`ECHO`], every byte back as it comes. A UDP datagram is sent back as it is.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use sha2::{Digest as _, Sha256};

/// The port that is served everywhere.
pub const PORT: u16 = 7411;
/// The port of a host behind which the server of its first container is published.
pub const PUBLISHED: u16 = 7412;
/// What a client that wants a checksum begins with.
pub(super) const SUM: u8 = b's';
/// What a client that wants its bytes back begins with.
pub(super) const ECHO: u8 = b'e';

/// How long a connection may be silent: longer than any fault lasts.
const SILENCE: Duration = Duration::from_secs(120);
/// How often a thread checks whether it has to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);
/// Room for the largest datagram.
const DATAGRAM: usize = 65_536;

/// A server that runs until it is dropped, on threads of the place it was started in.
#[derive(Debug)]
pub struct Server {
    ended: Arc<AtomicBool>,
}

impl Server {
    /// Listens by TCP on all addresses and by UDP on these: an answer must come from the address that was asked.
    pub fn start(addresses: &[IpAddr]) -> std::io::Result<Self> {
        // Both families, as Linux binds the unspecified IPv6 address; without IPv6 in the kernel the other one.
        let listener = TcpListener::bind(("::", PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))?;
        // A thread that hangs in `accept` would keep its namespace alive, and all that is in it.
        set_socket_timeout(&listener, Timeout::Recv, Some(STOP_INTERVAL))?;
        let ended = Arc::new(AtomicBool::new(false));
        for address in addresses {
            let datagrams = UdpSocket::bind((*address, PORT))?;
            datagrams.set_read_timeout(Some(STOP_INTERVAL))?;
            let flag = Arc::clone(&ended);
            std::thread::spawn(move || echo_datagrams(&datagrams, &flag));
        }
        let flag = Arc::clone(&ended);
        std::thread::spawn(move || accept(&listener, &flag));
        Ok(Self { ended })
    }
}

/// The addresses of the place it runs in, without link-local ones.
pub fn own_addresses() -> std::io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6().filter(|v6| !v6.ip().is_unicast_link_local()) {
            found.push(v6.ip().into());
        }
    }
    Ok(found)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, ended: &Arc<AtomicBool>) {
    while !ended.load(Ordering::Relaxed) {
        // Nobody came, or a connection was reset before it was accepted: the client notices.
        if let Ok((stream, _)) = listener.accept() {
            let ended = Arc::clone(ended);
            std::thread::spawn(move || drop(serve(stream, &ended)));
        }
    }
}

/// Reads what there is; 0 at the end of the stream, or when nobody wants more.
fn read(stream: &mut TcpStream, chunk: &mut [u8], ended: &AtomicBool) -> std::io::Result<usize> {
    let begin = Instant::now();
    loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && begin.elapsed() < SILENCE => {
                if ended.load(Ordering::Relaxed) {
                    return Ok(0);
                }
            }
            other => return other,
        }
    }
}

fn serve(mut stream: TcpStream, ended: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(STOP_INTERVAL))?;
    stream.set_nodelay(true)?;
    let mut wish = [0];
    if read(&mut stream, &mut wish, ended)? == 0 {
        return Ok(());
    }
    let mut chunk = vec![0; DATAGRAM];
    let mut sum = Sha256::new();
    let mut bytes = 0;
    loop {
        let length = read(&mut stream, &mut chunk, ended)?;
        match (wish[0], length) {
            (ECHO, 0) => return Ok(()),
            (_, 0) => return stream.write_all(line(sum, bytes).as_bytes()),
            (ECHO, _) => stream.write_all(&chunk[..length])?,
            _ => {
                sum.update(&chunk[..length]);
                bytes += length;
            }
        }
    }
}

/// The server's answer to so many bytes with this sum.
pub(super) fn line(sum: Sha256, bytes: usize) -> String {
    let hex: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex} {bytes}\n")
}

fn echo_datagrams(socket: &UdpSocket, ended: &AtomicBool) {
    let mut datagram = vec![0; DATAGRAM];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // One that cannot be sent back is missed by who waits for it.
            drop(socket.send_to(&datagram[..length], from));
        }
    }
}
