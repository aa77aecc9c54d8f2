//! The kernel through netlink, for both daemons.
//!
//! Single requests go through rtnetlink. Dumps go through a socket of our own ([`socket`]): one at a time, because the
//! kernel refuses a second dump on a socket whose first still runs (EBUSY, `__netlink_dump_start`), and checked for
//! `NLM_F_DUMP_INTR`, which marks a dump during which the table changed, so that entries may be missing from it.
//! rtnetlink does neither.
//!
//! Error numbers are decoded here and nowhere else.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flannel_core::entry::LinkIndex;
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno as E;
use tokio::sync::{Mutex, MutexGuard};

pub mod attributes;
pub mod batch;
mod device;
pub mod socket;

use socket::{Socket, is_overrun};

/// How often a dump is repeated that changes of others interrupted. Each takes some hundred microseconds to some
/// milliseconds.
pub const DUMP_ATTEMPTS: usize = 20;

/// What went wrong with one operation, as far as our programs react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It exists already.
    Exists,
    /// It does not exist.
    NotFound,
    /// The device does not exist.
    NoDevice,
    /// Not permitted.
    Denied,
    /// The kernel dropped answers, so the outcome is unknown.
    Overrun,
    /// The list changed each time while it was read, so it may lack entries.
    Interrupted,
    /// This kernel cannot do it.
    Unsupported,
    /// Something else.
    Other,
}

/// An operation the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what}: {reason}")]
pub struct KernelError {
    /// What was tried, with its object: "add route 10.5.1.0/24 via 192.0.2.1".
    pub what: String,
    /// Why not, with the remedy where there is one.
    pub reason: String,
    /// The reason as far as our programs react to it.
    pub fault: Fault,
}

/// The netlink sockets of one network namespace.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    socket: Arc<Mutex<Socket>>,
    port: u32,
    round_trips: Arc<AtomicU64>,
    connection: Arc<Connection>,
}

/// The task that serves the handle; it ends with the last clone.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Netlink {
    /// Opens sockets in the current network namespace; a task of the current runtime serves them.
    pub fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| KernelError {
            what: "open a netlink socket".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })?;
        let socket = Socket::open(0)?;
        Ok(Self {
            handle,
            port: socket.port(),
            socket: Arc::new(Mutex::new(socket)),
            round_trips: Arc::default(),
            connection: Arc::new(Connection(tokio::spawn(connection))),
        })
    }

    /// The handle for one request, which is counted. Not for dumps: see [`Netlink::dump`].
    pub fn handle(&self) -> &Handle {
        debug_assert!(!self.connection.0.is_finished(), "the runtime that serves this handle is gone");
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        &self.handle
    }

    /// Our own socket, once nobody else uses it.
    pub async fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().await
    }

    /// The port that the kernel names as the author of what goes through [`Netlink::socket`].
    pub fn port(&self) -> u32 {
        self.port
    }

    /// How many single requests and dumps were made so far.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Everything a dump lists that `pick` keeps: complete, or an error.
    pub async fn dump<T>(
        &self,
        request: &RouteNetlinkMessage,
        what: impl Fn() -> String,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let mut socket = self.socket.lock().await;
        let mut list = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            self.round_trips.fetch_add(1, Ordering::Relaxed);
            list.clear();
            let complete = socket.dump(request, |message| list.extend(pick(message))).await;
            if complete.map_err(|e| io_error(what(), &e))? {
                return Ok(list);
            }
        }
        Err(interrupted(what()))
    }

    /// All devices.
    pub async fn links(&self) -> Result<Vec<LinkMessage>, KernelError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(
            &request,
            || "list devices".into(),
            |message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            },
        )
        .await
    }

    /// The addresses of one device, or of all. The kernel filters by device where the socket's strict checking is on.
    pub async fn addresses(&self, of: Option<LinkIndex>) -> Result<Vec<AddressMessage>, KernelError> {
        let mut message = AddressMessage::default();
        message.header.index = of.map_or(0, |link| link.0);
        let what =
            || of.map_or_else(|| "list addresses".into(), |link| format!("list the addresses of device {}", link.0));
        let request = RouteNetlinkMessage::GetAddress(message);
        let listed = self.dump(&request, what, |message| match message {
            RouteNetlinkMessage::NewAddress(address) if of.is_none_or(|link| link.0 == address.header.index) => {
                Some(address)
            }
            _ => None,
        });
        match listed.await {
            // With strict checking the kernel refuses an index that is gone; without, it lists nothing.
            Err(error) if error.fault == Fault::NoDevice => Ok(Vec::new()),
            other => other,
        }
    }

    /// The routes of the main table of one family.
    pub async fn main_routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, KernelError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.dump(
            &RouteNetlinkMessage::GetRoute(message),
            || "list routes".into(),
            |message| match message {
                RouteNetlinkMessage::NewRoute(route)
                    if attributes::table(&route) == u32::from(RouteHeader::RT_TABLE_MAIN) =>
                {
                    Some(route)
                }
                _ => None,
            },
        )
        .await
    }

    /// The route the kernel would take to an address.
    pub async fn route_to(&self, ip: IpAddr) -> Result<RouteMessage, KernelError> {
        let what = || format!("look up the route to {ip}");
        let answer = self.handle().route().get(route_query(ip)).execute().try_next().await.map_err(refused(what))?;
        answer.ok_or_else(|| KernelError {
            what: what(),
            reason: "the kernel gave no answer".into(),
            fault: Fault::NotFound,
        })
    }
}

/// Asks for the route to an address. Table, protocol, scope and type stay zero: with strict checking the kernel refuses
/// anything else (EINVAL, `inet_rtm_valid_getroute_req`).
pub fn route_query(ip: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(ip.into()));
    message
}

/// Decodes a failed request.
pub fn refused(what: impl Fn() -> String) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    move |error| {
        let rtnetlink::Error::NetlinkError(message) = &error else {
            return KernelError { what: what(), reason: error.to_string(), fault: Fault::Other };
        };
        refusal(what(), E::from_raw_os_error(message.raw_code().wrapping_neg()))
    }
}

/// Decodes an error of our own socket.
pub fn io_error(what: String, error: &io::Error) -> KernelError {
    if is_overrun(error) {
        return KernelError { what, reason: "the kernel dropped answers".into(), fault: Fault::Overrun };
    }
    match E::from_io_error(error) {
        Some(errno) => refusal(what, errno),
        None => KernelError { what, reason: error.to_string(), fault: Fault::Other },
    }
}

/// Every attempt at a dump was interrupted.
pub fn interrupted(what: String) -> KernelError {
    let reason = format!("not read whole: the list changed during each of {DUMP_ATTEMPTS} attempts");
    KernelError { what, reason, fault: Fault::Interrupted }
}

/// Decodes an error number.
pub fn refusal(what: String, errno: E) -> KernelError {
    let (fault, remedy) = match errno {
        E::EXIST => (Fault::Exists, ""),
        E::NOENT | E::SRCH => (Fault::NotFound, ""),
        E::NODEV | E::NXIO => (Fault::NoDevice, ""),
        E::PERM | E::ACCESS => (Fault::Denied, "; run as root or with CAP_NET_ADMIN"),
        E::OPNOTSUPP | E::AFNOSUPPORT => (Fault::Unsupported, "; this kernel lacks it"),
        E::ADDRINUSE => (Fault::Other, "; another program or device has the port"),
        E::NETUNREACH => (Fault::Other, "; the gateway is not on the interface's link"),
        _ => (Fault::Other, ""),
    };
    let reason = io::Error::from_raw_os_error(errno.raw_os_error());
    KernelError { what, reason: format!("{reason}{remedy}"), fault }
}
