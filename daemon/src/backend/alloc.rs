//! alloc: a lease and nothing else. docs/upstream.md, section 5.4.

use flannel_core::entry::Entry;
use flannel_core::family::Families;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, Kind};
use crate::error::Error;
use crate::kernel::Scope;
use crate::uplink::ExternalInterface;

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "alloc",
    devices: &[],
    read: |_| Box::new(|context| Box::pin(async { Ok(Box::new(Alloc::new(&context.uplink)) as Box<dyn Backend>) })),
};

/// No device, no entries.
#[derive(Debug, Clone, Copy)]
pub struct Alloc {
    mtu: u32,
}

impl Alloc {
    /// Containers get the interface's MTU.
    pub fn new(uplink: &ExternalInterface) -> Self {
        Self { mtu: uplink.mtu }
    }
}

impl Backend for Alloc {
    /// parity: upstream leaves BackendType out.
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        plain
    }

    fn attach<'a>(&'a mut self, _: &'a Context, _: SubnetKey) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>> {
        Box::pin(async { Ok(Box::new(*self) as Box<dyn Attached>) })
    }
}

impl Attached for Alloc {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope::default()
    }

    fn entries(&self, _: &Lease, _: Families) -> Result<Vec<Entry>, BadLease> {
        Ok(Vec::new())
    }
}
