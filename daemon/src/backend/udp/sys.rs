//! The calls to the kernel that no library wraps safely: the ioctls of a TUN device, and taking descriptors over.
#![expect(unsafe_code, reason = "ioctls and raw descriptors; each block says why it is sound")]

use std::ffi::{CStr, c_char, c_int, c_short};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

/// `TUN_F_*` of linux/if_tun.h: what the kernel may leave to us.
pub mod offloads {
    /// Checksums.
    pub const CSUM: u32 = 0x01;
    /// Segmentation of TCP over IPv4.
    pub const TSO4: u32 = 0x02;
    /// The same with ECN's CWR flag.
    pub const TSO_ECN: u32 = 0x08;
    /// Segmentation of UDP, both families: the kernel (from 6.2) takes them together only.
    pub const USO: u32 = 0x20 | 0x40;
}

/// Whether a device has the header of [`flannel_core::packet::offload`]: `IFF_VNET_HDR`.
const VNET_HDR: c_short = 0x4000;

/// `struct ifreq` of linux/if.h as `TUNGETIFF` fills it: name and flags, and what else may be in it.
#[repr(C)]
struct Request {
    name: [c_char; 16],
    flags: c_short,
    rest: [u8; 22],
}

mod calls {
    use std::ffi::{c_int, c_uint};

    use super::Request;

    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<c_uint>()));
    nix::ioctl_read_bad!(get_iff, nix::request_code_read!(b'T', 210, size_of::<c_uint>()), Request);
    const _: () = assert!(size_of::<Request>() == 40 && size_of::<c_int>() == 4);
}

/// Tells the kernel what it may leave to us (`TUNSETOFFLOAD`); it refuses what it does not know.
pub fn set_offload(device: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let flags = c_int::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the borrow, and the argument is a number, not a pointer.
    unsafe { calls::set_offload(device.as_raw_fd(), flags) }?;
    Ok(())
}

/// The name of a TUN device and whether it has the offload header (`TUNGETIFF`); an error if it is none.
pub fn describe(device: BorrowedFd<'_>) -> io::Result<(String, bool)> {
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    // SAFETY: the descriptor is open for the borrow; the kernel writes a `struct ifreq`, 40 bytes on every 64-bit
    // architecture (asserted above), to a place that is as large and of a type for which any bytes will do.
    unsafe { calls::get_iff(device.as_raw_fd(), &raw mut request) }?;
    request.name[15] = 0;
    // SAFETY: the last byte is zero, so the string ends inside of the array.
    let name = unsafe { CStr::from_ptr(request.name.as_ptr()) };
    Ok((name.to_string_lossy().into_owned(), request.flags & VNET_HDR != 0))
}

/// The descriptor of a device opened by the crate `tun`, which has no way to give it away owned.
pub fn into_owned(device: tun::Device) -> OwnedFd {
    // SAFETY: `into_raw_fd` gives an open descriptor up; nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) }
}
