//! A TCP transfer between two namespaces, hashed at both ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use sha2::{Digest as _, Sha256};

use crate::namespace::join;
use crate::{Context, Error, Namespace, Result};

/// How long either end waits for the other.
const TIMEOUT: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 * 1024;

/// A transfer that arrived whole.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bytes carried.
    pub bytes: usize,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

/// Sends `bytes` random bytes from `sender` to `address` in `receiver`; an error unless both ends have the same
/// SHA-256.
pub fn transfer(sender: &Namespace, receiver: &Namespace, address: Ipv4Addr, bytes: usize) -> Result<Transfer> {
    let listener = receiver.run(|_| TcpListener::bind((address, 0)))?.context(|| format!("listening on {address}"))?;
    set_socket_timeout(&listener, Timeout::Recv, Some(TIMEOUT)).context(|| "listening socket".to_owned())?;
    let target = listener.local_addr().context(|| "listening socket".to_owned())?;
    let start = Instant::now();
    let receiving = receiver.spawn(move |_| receive(&listener))?;
    let sent = sender.run(|_| send(target, bytes))?.context(|| format!("sending to {target}"))?;
    let received = join(receiving.join()).and_then(|r| r).context(|| format!("receiving on {target}"))?;
    if sent != received {
        return Err(Error::new(format!("{bytes} bytes to {target} did not arrive as sent: {sent:x?} {received:x?}")));
    }
    Ok(Transfer { bytes, took: start.elapsed() })
}

type Sum = [u8; 32];

fn send(target: SocketAddr, bytes: usize) -> std::io::Result<Sum> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut sum = Sha256::new();
    let mut random = fastrand::Rng::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let piece = &mut chunk[..left.min(CHUNK)];
        random.fill(piece);
        sum.update(&piece);
        stream.write_all(piece)?;
        left -= piece.len();
    }
    Ok(sum.finalize().into())
}

fn receive(listener: &TcpListener) -> std::io::Result<Sum> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(sum.finalize().into()),
            n => sum.update(&chunk[..n]),
        }
    }
}
