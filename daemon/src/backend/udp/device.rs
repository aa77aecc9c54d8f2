//! The TUN device: packets of the host's kernel, one or many at a time.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use flannel_core::packet::coalesce::TunOffloads;
use flannel_core::packet::offload::{self, Offload};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::sys::{self, offloads};
use crate::service_manager::descriptors::not_inherited;

/// An open device; it goes with its last descriptor.
#[derive(Debug)]
pub struct Device {
    descriptor: OwnedFd,
    name: String,
    header: bool,
    takes: TunOffloads,
    checksums: bool,
}

impl Device {
    /// Opens a new one; its name may have a `%d` for the kernel to fill in. With `offload` the kernel is asked what it
    /// would leave to us; what it refuses, it does itself. The error is a sentence with the remedy.
    pub fn open(name: &str, offload: bool) -> Result<Self, String> {
        let opened = match (create(name, offload), offload) {
            // Before 2.6.27 there is no offload header.
            (Err(_), true) => create(name, false),
            (result, _) => result,
        };
        let device = opened.map_err(|e| {
            format!(
                "can't open a TUN device: {e}; in a container, give it --device /dev/net/tun and --cap-add NET_ADMIN"
            )
        })?;
        Self::adopt(device).map_err(|e| format!("can't set up the TUN device: {e}"))
    }

    /// A device that was opened before, by us or by the daemon before this one.
    pub fn adopt(device: tun::Device) -> io::Result<Self> {
        let descriptor = sys::into_owned(device);
        not_inherited(descriptor.as_fd())?;
        let (name, header) = sys::describe(descriptor.as_fd())?;
        let flags = fcntl_getfl(&descriptor)?;
        fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        let mut device = Self { descriptor, name, header, takes: TunOffloads::default(), checksums: false };
        if header {
            device.ask();
        }
        Ok(device)
    }

    /// The most the kernel agrees to, from all to nothing.
    fn ask(&mut self) {
        let tcp = offloads::CSUM | offloads::TSO4;
        let steps = [
            (tcp | offloads::TSO_ECN | offloads::USO, TunOffloads { tcp: true, udp: true }),
            (tcp | offloads::TSO_ECN, TunOffloads { tcp: true, udp: false }),
            (tcp, TunOffloads { tcp: true, udp: false }),
            (offloads::CSUM, TunOffloads::default()),
        ];
        let agreed = steps.iter().find(|(flags, _)| sys::set_offload(self.as_fd(), *flags).is_ok());
        self.checksums = agreed.is_some();
        self.takes = agreed.map_or(TunOffloads::default(), |(_, takes)| *takes);
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether each packet has an [`Offload`] header before it.
    pub fn has_header(&self) -> bool {
        self.header
    }

    /// Which super-packets it takes.
    pub fn takes(&self) -> TunOffloads {
        self.takes
    }

    /// What the kernel leaves to us, for the log.
    pub fn describe(&self) -> &'static str {
        match (self.takes, self.checksums) {
            (TunOffloads { tcp: true, udp: true }, _) => "checksums, TCP and UDP segmentation",
            (TunOffloads { tcp: true, udp: false }, _) => "checksums and TCP segmentation",
            (_, true) => "checksums",
            (_, false) => "nothing",
        }
    }

    /// The next packet, with its offload header if the device has them; `WouldBlock` if there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.descriptor, buffer)?)
    }

    /// Writes one packet or super-packet, whose parts are one behind the other.
    pub fn write<'a>(&self, offload: &Offload, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let header = offload.to_bytes();
        let mut slices = Vec::with_capacity(64);
        if self.header {
            slices.push(IoSlice::new(&header));
        }
        for part in parts {
            slices.push(IoSlice::new(part));
        }
        rustix::io::writev(&self.descriptor, &slices)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn create(name: &str, header: bool) -> tun::Result<tun::Device> {
    let mut config = tun::Configuration::default();
    // Address, MTU and routes are the daemon's own work.
    config.tun_name(name).platform_config(|platform| {
        platform.ensure_root_privileges(false).vnet_hdr(header);
    });
    tun::create(&config)
}

/// Bytes of the header before each packet of a device that has them.
pub const HEADER: usize = offload::LENGTH;
