//! From the device to the hosts.
//!
//! Reads until the device is dry or the buffer full, then sends: what came together goes together, and nothing waits
//! for more to come.

use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;

use flannel_core::packet::Packet;
use flannel_core::packet::offload::Offload;
use flannel_core::packet::segment::segment;

use super::device::{Device, HEADER};
use super::drops::drop_for;
use super::table::Tunnels;
use super::transport::{Datagram, UdpTransport};
use crate::metrics::METRICS;

/// The largest packet the device gives, in bytes.
const LARGEST: usize = 65_535;
/// How many of the largest packets fit into the buffer.
const READ_DEPTH: usize = 4;
/// The most datagrams of one batch.
const MAX_DATAGRAMS: usize = 512;

/// What carries packets one way, with its buffers.
pub(super) struct Sender<'a> {
    device: &'a Device,
    wire: &'a UdpTransport,
    tunnels: &'a Tunnels,
    /// The host's own end, for messages to its senders.
    own: Ipv4Addr,
    /// Off: one packet, one system call, as upstream.
    batch: bool,
    buffer: Vec<u8>,
    heads: Vec<u8>,
    cut: Vec<Cut>,
}

/// A datagram, before its memory is borrowed.
struct Cut {
    to: Ipv4Addr,
    head: Range<usize>,
    body: Range<usize>,
}

impl<'a> Sender<'a> {
    /// Buffers for this device and this socket.
    pub(super) fn new(
        device: &'a Device,
        wire: &'a UdpTransport,
        tunnels: &'a Tunnels,
        own: Ipv4Addr,
        batch: bool,
    ) -> Self {
        let buffer = vec![0; (LARGEST + HEADER) * if batch { READ_DEPTH } else { 1 }];
        Self { device, wire, tunnels, own, batch, buffer, heads: Vec::new(), cut: Vec::new() }
    }

    /// Carries what the device has; returns whether it is dry. An error means that the device is gone.
    pub(super) fn carry(&mut self) -> io::Result<bool> {
        let hosts = self.tunnels.now();
        self.heads.clear();
        self.cut.clear();
        let mut used = 0;
        let dry = loop {
            if self.buffer.len() - used < LARGEST + HEADER || self.cut.len() >= MAX_DATAGRAMS {
                break false;
            }
            let length = match self.device.read(&mut self.buffer[used..]) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take(used..used + length, &hosts)?;
            used += length;
            if !self.batch {
                break false;
            }
        };
        self.send();
        Ok(dry)
    }

    /// Makes datagrams of what was read.
    fn take(&mut self, place: Range<usize>, hosts: &super::table::Hosts) -> io::Result<()> {
        let mut start = place.start;
        let mut offload = Offload::NONE;
        if self.device.has_header() {
            let Some(header) = self.buffer[place.clone()].first_chunk() else { return Ok(()) };
            offload = Offload::parse(*header);
            start += HEADER;
        }
        let Some(mut packet) = Packet::parse(&mut self.buffer[start..place.end]) else {
            // The kernel's own IPv6 chatter (router solicitations) ends here.
            drop_for(&METRICS.udp_not_a_packet, || "the device gave no IPv4 packet".into());
            return Ok(());
        };
        let Some(to) = hosts.host_of(packet.destination()) else {
            drop_for(&METRICS.udp_no_lease, || "no lease has their destination".into());
            if let Some(message) = packet.unreachable(self.own) {
                write(self.device, &Offload::NONE, [message.as_slice()].into_iter())?;
            }
            return Ok(());
        };
        if !packet.decrement_ttl() {
            drop_for(&METRICS.udp_ttl, || "their time to live was over".into());
            return Ok(());
        }
        let cuts = &mut self.cut;
        let done = segment(&offload, &mut packet, &mut self.heads, |piece| {
            let body = start + piece.body.start..start + piece.body.end;
            cuts.push(Cut { to, head: piece.head, body });
        });
        if let Err(error) = done {
            drop_for(&METRICS.udp_not_a_packet, || error.to_string());
        }
        Ok(())
    }

    fn send(&mut self) {
        // Groups for each host; the order to one host stays.
        if self.cut.windows(2).any(|two| two[0].to != two[1].to) {
            self.cut.sort_by_key(|cut| cut.to);
        }
        let datagram = |cut: &Cut| Datagram {
            to: cut.to,
            head: &self.heads[cut.head.clone()],
            body: &self.buffer[cut.body.clone()],
        };
        let datagrams: Vec<Datagram<'_>> = self.cut.iter().map(datagram).collect();
        self.wire.send(&datagrams);
    }
}

/// A packet the kernel does not take is dropped; a device that is gone ends the proxy.
pub(super) fn write<'a>(device: &Device, offload: &Offload, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<bool> {
    match device.write(offload, parts) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BADFD.raw_os_error()) => Err(error),
        Err(error) => {
            drop_for(&METRICS.udp_device_refused, || format!("the device does not take them: {error}"));
            Ok(false)
        }
        Ok(()) => Ok(true),
    }
}
