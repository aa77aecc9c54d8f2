//! [`Links`] in memory, with faults on demand, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flannel_core::name::IfName;
use ipnet::IpNet;

use super::{BridgeSpec, HostRoute, LinkError, Links, Owned, VethSpec};

/// What the kernel would have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// By name.
    pub bridges: BTreeMap<IfName, BridgeSpec>,
    /// By the host end's name.
    pub veths: BTreeMap<IfName, VethSpec>,
    /// Routes besides those of the bridges.
    pub routes: Vec<HostRoute>,
    /// How many of the next changing calls are to fail.
    pub fail_next: u32,
}

/// A kernel that is not there.
#[derive(Debug, Default)]
pub struct FakeLinks(Mutex<Interfaces>);

impl FakeLinks {
    /// What is there, to look at or to change.
    pub fn interfaces(&self) -> MutexGuard<'_, Interfaces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, action: String) -> Result<MutexGuard<'_, Interfaces>, LinkError> {
        let mut all = self.interfaces();
        if all.fail_next > 0 {
            all.fail_next -= 1;
            return Err(LinkError::Failed { action, reason: "made to fail".to_owned() });
        }
        Ok(all)
    }
}

impl Links for FakeLinks {
    async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<bool, LinkError> {
        let before = self.change(format!("bridge {}", spec.name))?.bridges.insert(spec.name.clone(), spec.clone());
        Ok(before.is_none())
    }

    async fn create_veth(&self, spec: &VethSpec) -> Result<(), LinkError> {
        let action = format!("veth {}", spec.host);
        let mut all = self.change(action.clone())?;
        if !all.bridges.contains_key(&spec.bridge) {
            return Err(LinkError::Failed { action, reason: "no such bridge".to_owned() });
        }
        all.veths.insert(spec.host.clone(), spec.clone());
        Ok(())
    }

    async fn attach_veth(&self, host: &IfName, bridge: &IfName) -> Result<(), LinkError> {
        if let Some(veth) = self.change(format!("veth {host}"))?.veths.get_mut(host) {
            veth.bridge = bridge.clone();
        }
        Ok(())
    }

    async fn remove(&self, name: &IfName) -> Result<(), LinkError> {
        let mut all = self.change(format!("removing {name}"))?;
        all.bridges.remove(name);
        all.veths.remove(name);
        Ok(())
    }

    async fn owned(&self) -> Result<Vec<Owned>, LinkError> {
        let all = self.interfaces();
        let bridges = all.bridges.values().map(|b| Owned {
            name: b.name.to_string(),
            is_bridge: true,
            mtu: b.mtu,
            up: true,
            bridge: None,
            addresses: b.addresses.clone(),
        });
        let veths = all.veths.values().map(|c| Owned {
            name: c.host.to_string(),
            mtu: c.mtu,
            up: true,
            bridge: all.bridges.contains_key(&c.bridge).then(|| c.bridge.to_string()),
            ..Owned::default()
        });
        Ok(bridges.chain(veths).collect())
    }

    async fn routes(&self) -> Result<Vec<HostRoute>, LinkError> {
        let all = self.interfaces();
        let connected = all.bridges.values().flat_map(|b| {
            let route = |a: &IpNet| HostRoute { destination: a.trunc(), device: Some(b.name.to_string()), metric: 0 };
            b.addresses.iter().map(route)
        });
        Ok(connected.chain(all.routes.iter().cloned()).collect())
    }
}
