//! Reserving published ports: no other container and no program on the host may have them.
//!
//! The packets themselves are translated before any socket sees them. What the translation leaves out (`::1`, IPv6
//! where the container has none, `127.0.0.1` where the kernel may not be told to let it pass) arrives at our own
//! listener, which carries TCP on; for UDP there is none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use flannel_host::backoff::Backoff;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::ports::Wanted;
use crate::error::Error;
use crate::store::port::{Port, Proto};

/// How soon a listener that cannot accept (no file descriptor left, for example) tries again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A port of the host that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    /// Which.
    pub port: Port,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Listener(JoinHandle<()>),
    Udp {
        _socket: UdpSocket,
    },
    /// The kernel cannot reserve it, so only our own list of ports does.
    Nothing,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Socket::Listener(task) = &self.socket {
            task.abort();
        }
    }
}

/// Reserves a suitable port for the container at `to`; `taken` are reserved already.
pub fn reserve(wanted: &Wanted, to: IpAddr, taken: &[Port]) -> Result<Reserved, Error> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for host in wanted.first..=wanted.last {
        let port = wanted.at(host);
        if host != 0 && taken.iter().any(|t| t.collides(&port)) {
            continue;
        }
        match bind(port, to) {
            Ok(held) => return Ok(held),
            Err(e) => last = e,
        }
    }
    let range = match (wanted.first, wanted.last) {
        (first, last) if first == last => String::new(),
        (first, last) => format!(", nor any other of {first}-{last},"),
    };
    let reason = match last.kind() {
        io::ErrorKind::AddrInUse => {
            format!("is in use on this host{range}: stop what has it, or choose another port with -p")
        }
        io::ErrorKind::AddrNotAvailable => "is no address of this host: choose another with -p".to_owned(),
        _ => format!("can't be held: {last}"),
    };
    Err(Error::Request { what: format!("port {}", wanted.at(wanted.last)), reason })
}

fn bind(port: Port, to: IpAddr) -> io::Result<Reserved> {
    let every = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    match port.host_ip {
        Some(ip) => bind_at(port, ip, to),
        // One socket for both families, where the kernel has both.
        None => bind_at(port, every[0], to).or_else(|e| match e.kind() {
            io::ErrorKind::AddrInUse => Err(e),
            _ => bind_at(port, every[1], to),
        }),
    }
}

fn bind_at(port: Port, ip: IpAddr, to: IpAddr) -> io::Result<Reserved> {
    let address = SocketAddr::new(ip, port.host);
    let bound = match port.proto {
        Proto::Tcp => TcpListener::bind(address).and_then(|listener| {
            let host = listener.local_addr()?.port();
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok((host, Socket::Listener(tokio::spawn(carry(listener, SocketAddr::new(to, port.container))))))
        }),
        Proto::Udp => UdpSocket::bind(address)
            .and_then(|socket| Ok((socket.local_addr()?.port(), Socket::Udp { _socket: socket }))),
        Proto::Sctp if port.host == 0 => Err(io::Error::other("an SCTP port can't be left to choice: name one")),
        Proto::Sctp => Ok((port.host, Socket::Nothing)),
    };
    match bound {
        Ok((host, socket)) => Ok(Reserved { port: Port { host, ..port }, socket }),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && port.host != 0 => {
            warn!("port {port} is published but not held: flannel-docker lacks CAP_NET_BIND_SERVICE");
            Ok(Reserved { port, socket: Socket::Nothing })
        }
        Err(e) => Err(e),
    }
}

async fn carry(listener: tokio::net::TcpListener, to: SocketAddr) {
    let mut retry = Backoff::new(ACCEPT_RETRY, ACCEPT_RETRY * 10);
    loop {
        match listener.accept().await {
            Ok((mut from, _)) => {
                retry.reset();
                tokio::spawn(async move {
                    let carried = async { copy_bidirectional(&mut from, &mut TcpStream::connect(to).await?).await };
                    if let Err(e) = carried.await {
                        debug!("connection to {to}: {e}");
                    }
                });
            }
            Err(e) => {
                debug!("no connection for {to}: {e}");
                retry.pause().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn wanted(proto: Proto, first: u16, last: u16) -> Wanted {
        Wanted { proto, container: 80, host_ip: Some(HERE), first, last }
    }

    #[tokio::test]
    async fn a_held_port_is_nobody_elses_until_it_is_dropped() {
        for proto in [Proto::Tcp, Proto::Udp] {
            let reserved = reserve(&wanted(proto, 0, 0), HERE, &[]).unwrap();
            let host = reserved.port.host;
            assert_ne!(host, 0);
            let error = reserve(&wanted(proto, host, host), HERE, &[]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("port 127.0.0.1:{host}/{proto}: is in use on this host")), "{error}");
            drop(reserved);
            // The listener's task ends at its next turn.
            while reserve(&wanted(proto, host, host), HERE, &[]).is_err() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn the_first_free_port_of_a_range_is_taken() {
        let busy = reserve(&wanted(Proto::Udp, 0, 0), HERE, &[]).unwrap().port.host.min(65_000);
        let ours = wanted(Proto::Udp, busy, busy).at(busy);
        let second = reserve(&wanted(Proto::Udp, busy, busy + 30), HERE, &[ours]).unwrap();
        assert!(second.port.host > busy, "{}", second.port);
        let elsewhere = Wanted { host_ip: Some("192.0.2.77".parse().unwrap()), ..wanted(Proto::Udp, busy, busy) };
        assert!(reserve(&elsewhere, HERE, &[]).unwrap_err().to_string().contains("no address of this host"));
    }

    #[tokio::test]
    async fn what_reaches_the_listener_is_carried_to_the_container() {
        let server = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let container = server.local_addr().unwrap().port();
        let reserved = reserve(&Wanted { container, ..wanted(Proto::Tcp, 0, 0) }, HERE, &[]).unwrap();
        let echo = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let mut client = TcpStream::connect((HERE, reserved.port.host)).await.unwrap();
        client.write_all(b"word").await.unwrap();
        let mut back = String::new();
        client.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "word");
        echo.await.unwrap();
    }
}
