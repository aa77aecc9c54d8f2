//! One measurement each: a TCP transfer, a flood of datagrams, questions and answers, a process's time.

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, Namespace, Process, Result, SOON, eventually};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};

/// What iperf3 saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp {
    /// Received, in Gbit/s.
    pub(crate) gigabits: f64,
    /// CPU seconds of both its ends.
    pub(crate) seconds: f64,
    /// Received, in GB.
    pub(crate) gigabytes: f64,
}

/// What iperf3 receives over `flows` TCP flows; its server (`-1`) ends by itself after it.
pub(crate) fn tcp(sender: &Namespace, receiver: &Namespace, address: Ipv4Addr, flows: u32, period: u32) -> Result<Tcp> {
    let log = tempfile::NamedTempFile::new().context(|| "temporary file".to_owned())?;
    let mut command = receiver.command("iperf3");
    command.args(["-s", "-1", "-B", &address.to_string()]);
    let server = Process::start("iperf3 -s", command, log.path())?;
    eventually("iperf3's server", SOON, || {
        let listening = receiver.exec("ss -Hltn")?;
        if listening.contains(":5201") { Ok(()) } else { Err(Error::new(listening)) }
    })?;
    let report = sender.exec(&format!("iperf3 -J -t {period} -P {flows} -c {address}"))?;
    server.exit_within(SOON)?;
    let report: serde_json::Value = serde_json::from_str(&report).context(|| "iperf3's report".to_owned())?;
    let end = &report["end"];
    let number = |value: &serde_json::Value| value.as_f64().context(|| format!("a number is missing in {report}"));
    let bits = number(&end["sum_received"]["bits_per_second"])?;
    let cpu = &end["cpu_utilization_percent"];
    let percent = number(&cpu["host_total"])? + number(&cpu["remote_total"])?;
    Ok(Tcp {
        gigabits: bits / 1e9,
        seconds: percent / 100.0 * f64::from(period),
        gigabytes: number(&end["sum_received"]["bytes"])? / 1e9,
    })
}

/// Datagrams sent and received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flood {
    /// A second.
    pub(crate) received: f64,
    /// Lost of those sent, in percent.
    pub(crate) lost: f64,
}

/// How many datagrams one `sendmmsg` takes: the load must not be what is measured.
const BURST: usize = 32;

/// How the datagrams of a flood are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Each goes down through the kernel by itself.
    EachAlone,
    /// By `UDP_SEGMENT`, as QUIC programs do: the kernel cuts them as late as it can.
    Together,
}

/// As many datagrams of `size` payload bytes as one thread can send.
pub(crate) fn flood(
    sender: &Namespace,
    receiver: &Namespace,
    address: Ipv4Addr,
    (size, mode): (usize, Sender),
    period: Duration,
) -> Result<Flood> {
    let what = || format!("flood to {address}");
    let sink = receiver.run(|_| UdpSocket::bind((address, 0)))?.context(what)?;
    let queue: usize = 8 << 20;
    setsockopt(&sink, sockopt::RcvBufForce, &queue).context(what)?;
    sink.set_read_timeout(Some(Duration::from_millis(50))).context(what)?;
    // The reader, too, takes as many at once as the kernel gives.
    setsockopt(&sink, sockopt::UdpGroSegment, &true).context(what)?;
    let target = sink.local_addr().context(what)?;
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let receiving = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut count: usize = 0;
        // What is still on its way when the sender stops is within its rights.
        loop {
            match sink.recv(&mut buffer) {
                Ok(length) => count += length / size,
                Err(_) if stop.load(Ordering::Relaxed) => return count,
                Err(_) => {}
            }
        }
    });
    let sent = sender.run(|_| -> std::io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        let together = if mode == Sender::Together { 60_000 / size } else { 1 }.min(60);
        let payload = vec![7; size * together];
        if mode == Sender::Together {
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(size).unwrap_or(0))?;
        }
        let burst = BURST / together.min(16);
        let slices = vec![[IoSlice::new(&payload)]; burst];
        let nowhere: Vec<Option<SockaddrIn>> = vec![None; burst];
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < period {
            let mut headers = MultiHeaders::preallocate(burst, None);
            let control: [ControlMessage<'_>; 0] = [];
            let flags = MsgFlags::empty();
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &nowhere, control, flags).map(Iterator::count) {
                Ok(count) => sent += count * together,
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    })?;
    done.store(true, Ordering::Relaxed);
    let received = receiving.join().map_err(|_| Error::new("the receiving thread panicked"))?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (sent, received) = (sent.context(what)? as f64, received as f64);
    Ok(Flood { received: received / period.as_secs_f64(), lost: 100.0 * (1.0 - received / sent) })
}

/// How long each of `count` questions of 64 bytes waited for its answer.
pub(crate) fn questions(
    sender: &Namespace,
    receiver: &Namespace,
    address: Ipv4Addr,
    count: usize,
) -> Result<Vec<Duration>> {
    let what = || format!("questions to {address}");
    let timeout = Some(Duration::from_secs(2));
    let echo = receiver.run(|_| UdpSocket::bind((address, 0)))?.context(what)?;
    echo.set_read_timeout(timeout).context(what)?;
    let target = echo.local_addr().context(what)?;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 64];
        for _ in 0..count {
            let (length, from) = echo.recv_from(&mut buffer)?;
            echo.send_to(&buffer[..length], from)?;
        }
        Ok(())
    });
    let times = sender.run(|_| -> std::io::Result<Vec<Duration>> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(timeout)?;
        let mut buffer = [0; 64];
        (0..count)
            .map(|_| {
                let start = Instant::now();
                socket.send(&buffer)?;
                socket.recv(&mut buffer)?;
                Ok(start.elapsed())
            })
            .collect()
    })?;
    answering.join().map_err(|_| Error::new("the answering thread panicked"))?.context(what)?;
    times.context(what)
}
