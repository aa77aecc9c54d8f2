//! What a forwarder between a TUN device and a UDP socket can reach at most: one thread for each direction moves what
//! the kernel hands over, offload header and all, and never looks at it. Both ends understand only each other.

#![expect(unsafe_code, reason = "TUNSETOFFLOAD is an ioctl, and the crate tun gives its descriptor away raw")]

use std::io::{IoSlice, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _};

use flannel_testbed::{Context as _, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, setsockopt, sockopt};

/// The size of its datagrams, in bytes; as the udp backend's with an MTU of 1500 outside.
const SEGMENT: u16 = 1472;
/// The most bytes of one send.
const LARGEST: usize = 65_507;
const QUEUE: usize = 8 << 20;
/// `TUN_F_CSUM`, `TUN_F_TSO4` and `TUN_F_TSO6` of linux/if_tun.h.
const OFFLOADS: i32 = 1 | 2 | 4;

nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<std::ffi::c_uint>()));

/// Forwards between a new device `name` and the socket `local`:`port` until the process is ended.
pub(crate) fn forward(name: &str, local: &str, peer: &str, port: &str) -> Result<()> {
    let what = || format!("limit on {name}");
    let mut config = tun::Configuration::default();
    config.tun_name(name).platform_config(|platform| {
        platform.ensure_root_privileges(false).vnet_hdr(true);
    });
    let device = tun::create(&config).context(what)?;
    // SAFETY: the device is open, and the argument is a number.
    unsafe { set_offload(device.as_raw_fd(), OFFLOADS) }.context(what)?;
    // SAFETY: `into_raw_fd` gives an open descriptor up.
    let device = unsafe { std::fs::File::from_raw_fd(device.into_raw_fd()) };
    let socket = UdpSocket::bind(format!("{local}:{port}")).context(what)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true).context(what)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).context(what)?;
    setsockopt(&socket, sockopt::SndBufForce, &QUEUE).context(what)?;
    socket.connect(format!("{peer}:{port}")).context(what)?;
    std::thread::scope(|scope| {
        scope.spawn(|| to_peer(&device, &socket).unwrap_or_else(|e| eprintln!("to_peer: {e}")));
        from_peer(&device, &socket).context(what)
    })
}

fn to_peer(mut device: &std::fs::File, socket: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    let control = [ControlMessage::UdpGsoSegments(&SEGMENT)];
    loop {
        let length = device.read(&mut buffer)?;
        // TCP's longest, 46 segments, are a little less than one send takes.
        let bytes = [IoSlice::new(&buffer[..length.min(LARGEST)])];
        let control = if length > usize::from(SEGMENT) { &control[..] } else { &[] };
        if let Err(error) = sendmsg::<SockaddrIn>(socket.as_raw_fd(), &bytes, control, MsgFlags::empty(), None) {
            eprintln!("to_peer: {error}");
        }
    }
}

fn from_peer(mut device: &std::fs::File, socket: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        if let Err(error) = device.write(&buffer[..length]) {
            eprintln!("from_peer: {error}");
        }
    }
}
