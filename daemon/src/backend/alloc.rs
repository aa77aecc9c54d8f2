//! alloc: a lease and nothing else. docs/upstream.md, section 5.4.

use flannel_core::entry::Entry;
use flannel_core::family::Families;
use flannel_core::lease::{BadLease, Lease};

use super::Backend;
use crate::kernel::Scope;
use crate::uplink::ExternalInterface;

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
