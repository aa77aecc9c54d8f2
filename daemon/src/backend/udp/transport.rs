//! The UDP socket: datagrams to and from the other hosts, one or many at a time.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, sendmsg, setsockopt,
    sockopt,
};

use crate::backend::udp::drops::drop_for;
use crate::metrics::METRICS;

/// The most datagrams of one send (`UDP_MAX_SEGMENTS` of linux/udp.h, 64 before 6.9).
const MAX_SEGMENTS: usize = 64;
/// The most bytes of one send: an IPv4 packet without its and UDP's header.
const LARGEST: usize = 65_535 - 28;
/// What may wait in the kernel each way, in bytes: a moment of a fast flow.
const QUEUE: usize = 8 << 20;
/// How many groups go apart, after a device has refused to cut one, before it is asked again.
const SPLIT_SENDS: u32 = 1024;

/// A datagram to be sent: two pieces of memory, and who it is for.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The host.
    pub to: Ipv4Addr,
    /// Its first bytes, possibly none.
    pub head: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
}

impl Datagram<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The socket and what its kernel can do.
#[derive(Debug)]
pub struct UdpTransport {
    socket: UdpSocket,
    port: u16,
    /// `UDP_SEGMENT`: the kernel cuts many datagrams out of one send.
    cuts: bool,
    /// `UDP_GRO`: the kernel hands over many datagrams at once.
    groups: bool,
    /// Groups yet to be sent apart.
    rest: AtomicU32,
}

impl UdpTransport {
    /// Takes a bound socket and finds out what the kernel can do; with `offload` off nothing is used.
    pub fn new(socket: UdpSocket, offload: bool) -> io::Result<Self> {
        let port = socket.local_addr()?.port();
        let ask = |name: &str, result: nix::Result<()>| {
            result.map_err(|e| tracing::debug!("udp: the kernel refuses {name}: {e}")).is_ok()
        };
        // Without the right to more, what the system allows has to do.
        if !ask("SO_RCVBUFFORCE", setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)) {
            ask("SO_RCVBUF", setsockopt(&socket, sockopt::RcvBuf, &QUEUE));
        }
        if !ask("SO_SNDBUFFORCE", setsockopt(&socket, sockopt::SndBufForce, &QUEUE)) {
            ask("SO_SNDBUF", setsockopt(&socket, sockopt::SndBuf, &QUEUE));
        }
        // Set to 0 it changes nothing, and says whether it is there. GRO is set either way: a socket taken over may
        // have it on.
        let cuts = offload && ask("UDP_SEGMENT", setsockopt(&socket, sockopt::UdpGsoSegment, &0));
        let groups = ask("UDP_GRO", setsockopt(&socket, sockopt::UdpGroSegment, &offload)) && offload;
        Ok(Self { socket, port, cuts, groups, rest: AtomicU32::new(0) })
    }

    /// What is used of the kernel, for the log.
    pub fn describe(&self) -> &'static str {
        match (self.cuts, self.groups) {
            (true, true) => "many datagrams at once both ways",
            (true, false) => "many datagrams at once out",
            (false, true) => "many datagrams at once in",
            (false, false) => "one datagram at a time",
        }
    }

    /// Sends datagrams in their order. What can't be sent is dropped and counted.
    pub fn send(&self, datagrams: &[Datagram<'_>]) {
        let mut left = datagrams;
        while !left.is_empty() {
            let alike = if self.cuts { alike(left) } else { 1 };
            let count = if alike > 1 {
                self.send_group(&left[..alike]);
                alike
            } else {
                let alone = if self.cuts { left.windows(2).position(|two| fit(two)) } else { None };
                let count = alone.unwrap_or(left.len()).max(1);
                self.send_apart(&left[..count]);
                count
            };
            left = &left[count..];
        }
    }

    /// Datagrams of one size (the last may be shorter) to one host, which the kernel or the network card cuts.
    fn send_group(&self, group: &[Datagram<'_>]) {
        let (Some(first), Ok(size)) = (group.first(), u16::try_from(group[0].len())) else { return };
        let resting = self.rest.load(Ordering::Relaxed);
        if resting > 0 {
            self.rest.store(resting - 1, Ordering::Relaxed);
            return self.send_apart(group);
        }
        let mut slices = Vec::with_capacity(2 * group.len());
        for datagram in group {
            if !datagram.head.is_empty() {
                slices.push(IoSlice::new(datagram.head));
            }
            slices.push(IoSlice::new(datagram.body));
        }
        let to = SockaddrIn::from(SocketAddrV4::new(first.to, self.port));
        let control = [ControlMessage::UdpGsoSegments(&size)];
        let sent = retry(|| sendmsg(self.socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to)));
        match sent {
            Ok(bytes) => {
                METRICS.udp_sent(group.len(), bytes);
                METRICS.udp_sent_together.add(u64::try_from(group.len()).unwrap_or(0));
            }
            // A device that can't sum (EIO), a path that does not take this size in a group (EINVAL, EMSGSIZE):
            // datagrams may go one by one what won't go together.
            Err(error @ (Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP)) => {
                let count = METRICS.udp_split.inc();
                if count.is_power_of_two() {
                    tracing::info!(
                        "udp: {count} groups of datagrams went apart so far, because of {}: {error}",
                        first.to
                    );
                }
                if error == Errno::EIO {
                    self.rest.store(SPLIT_SENDS, Ordering::Relaxed);
                }
                self.send_apart(group);
            }
            Err(error) => {
                for datagram in group {
                    failed(datagram, error);
                }
            }
        }
    }

    /// Datagrams of any size to any hosts.
    fn send_apart(&self, datagrams: &[Datagram<'_>]) {
        if let [one] = datagrams {
            let to = SockaddrIn::from(SocketAddrV4::new(one.to, self.port));
            let slices = [IoSlice::new(one.head), IoSlice::new(one.body)];
            match retry(|| sendmsg(self.socket.as_raw_fd(), &slices, &[], MsgFlags::empty(), Some(&to))) {
                Ok(bytes) => METRICS.udp_sent(1, bytes),
                Err(error) => failed(one, error),
            }
            return;
        }
        let slices: Vec<_> = datagrams.iter().map(|d| [IoSlice::new(d.head), IoSlice::new(d.body)]).collect();
        let hosts: Vec<_> =
            datagrams.iter().map(|d| Some(SockaddrIn::from(SocketAddrV4::new(d.to, self.port)))).collect();
        let mut headers = MultiHeaders::preallocate(datagrams.len(), None);
        let mut done = 0;
        while done < datagrams.len() {
            let flags = MsgFlags::empty();
            let no_control: [ControlMessage<'_>; 0] = [];
            let sent =
                sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices[done..], &hosts[done..], no_control, flags)
                    .map(Iterator::count);
            match sent {
                Ok(count) => {
                    let bytes = datagrams[done..done + count].iter().map(Datagram::len).sum();
                    METRICS.udp_sent(count, bytes);
                    METRICS.udp_sent_together.add(u64::try_from(count).unwrap_or(0));
                    done += count.max(1);
                }
                Err(Errno::EINTR) => {}
                // About the first of them; the others are still to be tried.
                Err(error) => {
                    failed(&datagrams[done], error);
                    done += 1;
                }
            }
        }
    }

    /// Receives what has come, at most one handful for each of `slots` equal parts of `buffer`; `WouldBlock` if nothing
    /// has. Calls `datagram` with its sender and its place in the buffer, in the order they came.
    pub fn receive(
        &self,
        buffer: &mut [u8],
        slots: usize,
        mut datagram: impl FnMut(Ipv4Addr, Range<usize>),
    ) -> io::Result<()> {
        let slot = buffer.len() / slots;
        let mut slices: Vec<_> = buffer.chunks_exact_mut(slot).map(|part| [IoSliceMut::new(part)]).collect();
        // Built each time: the kernel writes how much of the control buffer it used into the header, and nix does
        // not put it right.
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(slots, Some(nix::cmsg_space!(i32)));
        let flags = MsgFlags::MSG_DONTWAIT;
        let messages = match recvmmsg(self.socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            Err(Errno::EINTR) => return Ok(()),
            messages => messages?,
        };
        for (number, message) in messages.enumerate() {
            let bytes = message.bytes;
            let from = message.address.map_or(Ipv4Addr::UNSPECIFIED, |a| a.ip());
            let (start, size) = (number * slot, size_of_parts(&message).unwrap_or(bytes).max(1));
            if size < bytes {
                METRICS.udp_received_together.add(u64::try_from(bytes.div_ceil(size)).unwrap_or(0));
            }
            // An empty datagram is one too.
            for at in (0..bytes.max(1)).step_by(size) {
                datagram(from, start + at..start + (at + size).min(bytes));
            }
        }
        Ok(())
    }
}

impl AsFd for UdpTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The size of the datagrams in one handful.
fn size_of_parts(message: &nix::sys::socket::RecvMsg<'_, '_, SockaddrIn>) -> Option<usize> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
        _ => None,
    })
}

/// How many of the first datagrams may go in one send: to one host, of one size, the last may be shorter.
fn alike(datagrams: &[Datagram<'_>]) -> usize {
    let size = datagrams[0].len();
    let most = MAX_SEGMENTS.min(LARGEST / size.max(1)).max(1);
    let mut count = 1;
    while count < most.min(datagrams.len()) && fit(&datagrams[count - 1..=count]) {
        count += 1;
        if datagrams[count - 1].len() < size {
            break;
        }
    }
    count
}

/// Whether the second of two may follow the first in one send.
fn fit(two: &[Datagram<'_>]) -> bool {
    two[0].to == two[1].to && two[1].len() <= two[0].len() && two[1].len() > 0
}

fn failed(datagram: &Datagram<'_>, error: Errno) {
    drop_for(&METRICS.udp_send_failed, || format!("{} can't be sent to: {error}", datagram.to));
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
