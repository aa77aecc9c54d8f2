//! From the hosts to the device.
//!
//! What came together is joined where it can be and written together, in its order.

use std::io;
use std::net::Ipv4Addr;

use flannel_core::packet::Packet;
use flannel_core::packet::coalesce::{Coalescer, SuperPacket};
use flannel_core::packet::offload::Offload;

use super::device::Device;
use super::drops::{drop_for, refuse_for};
use super::sender::write;
use super::table::{Hosts, Tunnels};
use super::transport::UdpTransport;
use crate::metrics::METRICS;

/// Bytes of a handful of datagrams.
const GRO_BATCH: usize = 65_536;
/// How many handfuls are received at once.
const RECEIVE_DEPTH: usize = 8;

/// What carries packets one way, with its buffers.
pub(super) struct Receiver<'a> {
    device: &'a Device,
    wire: &'a UdpTransport,
    tunnels: &'a Tunnels,
    /// Whether a sender that has no lease is listened to, as upstream does.
    any_source: bool,
    slots: usize,
    buffer: Vec<u8>,
    places: Vec<(Ipv4Addr, std::ops::Range<usize>)>,
    coalescer: Coalescer,
}

impl<'a> Receiver<'a> {
    /// Buffers for this device and this socket; without `batch` it is one packet, one system call, as upstream.
    pub(super) fn new(
        device: &'a Device,
        wire: &'a UdpTransport,
        tunnels: &'a Tunnels,
        any_source: bool,
        batch: bool,
    ) -> Self {
        let slots = if batch { RECEIVE_DEPTH } else { 1 };
        let coalescer = Coalescer::new(device.takes());
        Self {
            device,
            wire,
            tunnels,
            any_source,
            slots,
            buffer: vec![0; GRO_BATCH * slots],
            places: Vec::new(),
            coalescer,
        }
    }

    /// Carries what has come; returns whether there was nothing. An error means that the device is gone.
    pub(super) fn carry(&mut self) -> io::Result<bool> {
        self.places.clear();
        let places = &mut self.places;
        match self.wire.receive(&mut self.buffer, self.slots, |from, place| places.push((from, place))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            // An ICMP error of an earlier datagram, told on this socket.
            Err(error) => {
                drop_for(&METRICS.udp_receive_failed, || error.to_string());
                return Ok(false);
            }
        }
        let hosts = self.tunnels.now();
        let (mut packets, mut bytes) = (0, 0);
        // Neighbours in a batch mostly have both in common.
        let mut known = None;
        for (from, place) in self.places.drain(..) {
            let start = place.start;
            let Some(mut packet) = Packet::parse(&mut self.buffer[place]) else {
                drop_for(&METRICS.udp_not_a_packet, || "a datagram held no whole IPv4 packet".into());
                continue;
            };
            let source = packet.source();
            if !self.any_source && known != Some((from, source)) {
                if !may_send(&hosts, from, source) {
                    continue;
                }
                known = Some((from, source));
            }
            if !packet.decrement_ttl() {
                drop_for(&METRICS.udp_ttl, || "their time to live was over".into());
                continue;
            }
            let length = packet.bytes().len();
            packets += 1;
            bytes += length;
            self.coalescer.add(&self.buffer, start..start + length);
        }
        METRICS.udp_received(packets, bytes);
        let (device, buffer) = (self.device, &self.buffer);
        self.coalescer.drain(|joined| put(device, buffer, joined))?;
        Ok(false)
    }
}

/// Whether the host `from` may send packets of `source`: its lease has that address, or it is the host itself.
fn may_send(hosts: &Hosts, from: Ipv4Addr, source: Ipv4Addr) -> bool {
    if hosts.host_of(source) == Some(from) {
        return true;
    }
    if !hosts.has(from) {
        refuse_for(&METRICS.udp_foreign_host, || {
            format!("{from} sent them and no lease has it as its public IP; for hosts behind NAT set Backend.AnySource")
        });
        return false;
    }
    if source == from {
        return true;
    }
    refuse_for(&METRICS.udp_foreign_source, || {
        format!("{from} sent them in the name of {source}, which is not in its lease")
    });
    false
}

/// Writes one join. What the kernel does not take joined, it may take packet by packet.
fn put(device: &Device, buffer: &[u8], joined: &SuperPacket<'_>) -> io::Result<()> {
    let parts = || joined.parts.iter().map(|part| &buffer[part.clone()]);
    if joined.head.is_empty() {
        return write(device, &joined.offload, parts()).map(drop);
    }
    if device.write(&joined.offload, std::iter::once(joined.head).chain(parts())).is_ok() {
        return Ok(());
    }
    for part in joined.parts {
        let whole = &buffer[part.start - joined.head.len()..part.end];
        write(device, &Offload::NONE, std::iter::once(whole))?;
    }
    Ok(())
}
