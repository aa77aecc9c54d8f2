//! Checks of one path, each tried once: a packet that is lost is a result, not a reason to try again.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::echo::Echo;
use super::server::{ECHO, SUM, line};

/// Pings a path gets.
const PINGS: u16 = 5;
/// The pause between two pings.
const PING_PACE: Duration = Duration::from_millis(10);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of the TCP check by default: more than one window.
pub const TCP_BYTES: usize = 256 * 1024;
/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;
/// How long the throughput is driven.
const DRIVE: Duration = Duration::from_millis(100);
/// How long what is under way then may take to arrive.
const DRAIN: Duration = Duration::from_secs(20);
/// What the fragments' check sends beyond the MTU.
const BEYOND: usize = 1000;

/// What can be tried on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Pings; the mean time in ms. All must be answered.
    Ping,
    /// A transfer with checksum; its time in ms.
    Tcp,
    /// A datagram and back; its time in ms.
    Udp,
    /// A packet of exactly the MTU that must not be fragmented; ms.
    ExactMtu,
    /// A packet one byte above: refused at once with the reason; the MTU.
    AboveMtu,
    /// A datagram far above, which may be fragmented; ms.
    Fragments,
    /// Bytes for a tenth of a second; Mbit/s.
    Throughput,
    /// Nothing may be answered at all; 0.
    Silence,
}

/// A path to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Whose path it is; comes back with the answer.
    pub id: usize,
    /// Where to.
    pub target: SocketAddr,
    /// The MTU of the path as flannel tells it.
    pub mtu: u32,
    /// How much [`Check::Tcp`] carries.
    pub bytes: usize,
    /// What to try.
    pub checks: Vec<Check>,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose path it was.
    pub id: usize,
    /// What was tried.
    pub check: Check,
    /// Its value, or in words what is wrong.
    pub outcome: Result<f64, String>,
    /// Lost packets of a [`Check::Ping`], in percent.
    pub loss: f64,
}

/// Tries all, one after the other, from the place the caller runs in.
#[must_use]
pub fn ask_all(asks: &[Ask]) -> Vec<Answer> {
    asks.iter()
        .flat_map(|ask| {
            ask.checks.iter().map(|check| {
                let (outcome, loss) = try_one(ask, *check);
                Answer { id: ask.id, check: *check, outcome: outcome.map_err(|error| error.to_string()), loss }
            })
        })
        .collect()
}

fn try_one(ask: &Ask, check: Check) -> (std::io::Result<f64>, f64) {
    let mtu = usize::try_from(ask.mtu).unwrap_or(0);
    let outcome = match check {
        Check::Ping => match ping(ask.target.ip(), PINGS) {
            Ok((ms, 0)) => Ok(ms),
            Ok((_, lost)) => {
                let error = std::io::Error::other(format!("{lost} of {PINGS} pings to {} lost", ask.target.ip()));
                return (Err(error), f64::from(lost) * 100.0 / f64::from(PINGS));
            }
            Err(error) => Err(error),
        },
        Check::Tcp => tcp(ask.target, ask.bytes),
        Check::Udp => udp(ask.target, 64, true),
        Check::ExactMtu => udp(ask.target, payload(ask.target.ip(), mtu), true),
        Check::AboveMtu => match udp(ask.target, payload(ask.target.ip(), mtu + 1), true) {
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => Ok(f64::from(ask.mtu)),
            Err(error) => Err(std::io::Error::other(format!("{} bytes: not refused but {error}", mtu + 1))),
            Ok(_) => Err(std::io::Error::other(format!("{} bytes went through an MTU of {mtu}", mtu + 1))),
        },
        Check::Fragments => udp(ask.target, payload(ask.target.ip(), mtu) + BEYOND, false),
        Check::Throughput => throughput(ask.target),
        Check::Silence => match ping(ask.target.ip(), 1) {
            Ok((_, 0)) => Err(std::io::Error::other("an answer came where there must be none")),
            // Lost, or refused on the spot.
            _ => Ok(0.0),
        },
    };
    (outcome, 0.0)
}

/// The payload of a UDP packet of `length` bytes.
fn payload(target: IpAddr, length: usize) -> usize {
    length.saturating_sub(if target.is_ipv6() { 48 } else { 28 })
}

/// The mean time in ms and how many were lost. All are sent at their pace, whatever becomes of the first.
fn ping(target: IpAddr, count: u16) -> std::io::Result<(f64, u16)> {
    let echo = Echo::new(target)?;
    let begin = Instant::now();
    let mut sent: Vec<Instant> = Vec::new();
    let mut times: Vec<Option<f64>> = vec![None; usize::from(count)];
    let timeout = if count == 1 { TIMEOUT / 2 } else { TIMEOUT };
    while times.iter().any(Option::is_none) {
        let next = match u16::try_from(sent.len()) {
            Ok(number) if number < count => begin + PING_PACE * u32::from(number),
            _ => sent[sent.len() - 1] + timeout,
        };
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if sent.len() == times.len() {
                break;
            }
            let number = u16::try_from(sent.len()).unwrap_or(0);
            sent.push(Instant::now());
            // One that cannot be sent is lost.
            drop(echo.send(number));
            continue;
        }
        echo.socket().set_read_timeout(Some(left))?;
        // Else a timeout, or what a router says of a lost one.
        if let Ok(Some(number)) = echo.receive()
            && let Some((at, time)) = sent.get(usize::from(number)).zip(times.get_mut(usize::from(number)))
        {
            time.get_or_insert(at.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let answered: Vec<f64> = times.into_iter().flatten().collect();
    let lost = count - u16::try_from(answered.len()).unwrap_or(count);
    #[expect(clippy::cast_precision_loss, reason = "five at most")]
    let mean = answered.iter().sum::<f64>() / answered.len().max(1) as f64;
    Ok((mean, lost))
}

fn connect(target: SocketAddr, wish: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&[wish])?;
    Ok(stream)
}

fn answer(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Connects for an echo, as a flow does.
pub(super) fn connect_echo(target: SocketAddr) -> std::io::Result<TcpStream> {
    connect(target, ECHO)
}

fn tcp(target: SocketAddr, bytes: usize) -> std::io::Result<f64> {
    let begin = Instant::now();
    let mut stream = connect(target, SUM)?;
    let mut chunk = vec![0; CHUNK];
    let mut sum = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        let chunk = &mut chunk[..left.min(CHUNK)];
        fastrand::fill(chunk);
        sum.update(&*chunk);
        stream.write_all(chunk)?;
        left -= chunk.len();
    }
    let got = answer(&mut stream)?;
    if got == line(sum, bytes) {
        return Ok(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Err(std::io::Error::other(format!("{bytes} bytes to {target} came as {:?}", got.trim())))
}

fn udp(target: SocketAddr, payload: usize, whole: bool) -> std::io::Result<f64> {
    let any: SocketAddr = if target.is_ipv6() { ([0; 16], 0).into() } else { ([0; 4], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    match (target.is_ipv6(), whole) {
        (false, true) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        (false, false) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?,
        (true, true) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
        (true, false) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?,
    }
    socket.connect(target)?;
    let mut sent = vec![0; payload];
    fastrand::fill(&mut sent);
    let begin = Instant::now();
    socket.send(&sent)?;
    let mut got = vec![0; payload + 1];
    let length = socket.recv(&mut got).map_err(|error| {
        if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) {
            return error;
        }
        std::io::Error::other(format!("{payload} bytes by UDP to {target}: no answer: {error}"))
    })?;
    if got[..length] != sent {
        return Err(std::io::Error::other(format!("{payload} bytes by UDP to {target} came back changed")));
    }
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

fn throughput(target: SocketAddr) -> std::io::Result<f64> {
    let mut stream = connect(target, SUM)?;
    stream.set_read_timeout(Some(DRAIN))?;
    let chunk = vec![0x5a; CHUNK];
    let begin = Instant::now();
    let mut sent = 0_usize;
    while begin.elapsed() < DRIVE {
        sent += stream.write(&chunk)?;
    }
    let got = answer(&mut stream)?;
    let took = begin.elapsed().as_secs_f64();
    match got.split_whitespace().nth(1).and_then(|text| text.parse::<usize>().ok()) {
        Some(bytes) if bytes == sent => {
            #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
            let bits = sent as f64 * 8.0;
            Ok(bits / took / 1e6)
        }
        _ => Err(std::io::Error::other(format!("{sent} bytes to {target} came as {:?}", got.trim()))),
    }
}
