//! The leases in etcd v3, with upstream's keys and values.

use std::cell::RefCell;
use std::collections::HashSet;

use flannel_core::key::{SubnetKey, etcd_key};
use flannel_core::lease::{BadLease, LeaseAttrs};
use futures_util::{Stream, StreamExt, future};

use crate::client::{Client, Item, ItemEvent};
use crate::leases::{Expect, Revision, StoreError, Stored, SubnetStore, Ttl, WatchEvent, Written};
use crate::metrics::METRICS;
use crate::options::EtcdOptions;

/// The store of the network under one prefix.
pub struct EtcdStore {
    client: Client,
    config_key: String,
    subnets_key: String,
    /// Keys already reported as unreadable, so that each is logged once.
    reported: RefCell<HashSet<String>>,
}

impl EtcdStore {
    /// Checks the options and reads the certificates; nothing is connected yet.
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self {
            client: Client::new(options)?,
            config_key: etcd_key(&options.prefix, "config"),
            subnets_key: etcd_key(&options.prefix, "subnets"),
            reported: RefCell::default(),
        })
    }

    /// The config's key.
    pub fn config_key(&self) -> &str {
        &self.config_key
    }

    fn lease_key(&self, key: SubnetKey) -> String {
        format!("{}/{key}", self.subnets_key)
    }

    fn stored(&self, item: &Item) -> Option<Stored> {
        let key = self.subnet_key(&item.key)?;
        let attrs = std::str::from_utf8(&item.value)
            .map_err(|_| BadLease("not UTF-8 text".into()))
            .and_then(LeaseAttrs::from_json);
        Some(Stored { key, attrs, revision: item.revision, reserved: item.permanent })
    }

    fn subnet_key(&self, key: &str) -> Option<SubnetKey> {
        match SubnetKey::from_etcd_key(key) {
            Ok(key) => Some(key),
            Err(error) => {
                METRICS.undecodable.inc();
                if self.reported.borrow_mut().insert(key.to_owned()) {
                    tracing::warn!("etcd key is skipped: {error}; delete it if nothing needs it");
                }
                None
            }
        }
    }

    fn event(&self, event: ItemEvent) -> Option<WatchEvent> {
        match event {
            ItemEvent::Put(item) => self.stored(&item).map(WatchEvent::Put),
            ItemEvent::Delete(key) => self.subnet_key(&key).map(WatchEvent::Delete),
            ItemEvent::Progress(revision) => Some(WatchEvent::Progress(revision)),
            ItemEvent::Compacted => Some(WatchEvent::Compacted),
        }
    }
}

impl SubnetStore for EtcdStore {
    async fn config(&self) -> Result<String, StoreError> {
        let item = self.client.get(&self.config_key).await?;
        let item = item.ok_or_else(|| StoreError::NoConfig(self.config_key.clone()))?;
        Ok(String::from_utf8_lossy(&item.value).into_owned())
    }

    async fn list(&self) -> Result<(Vec<Stored>, Revision), StoreError> {
        let (items, revision) = self.client.list(&self.subnets_key).await?;
        Ok((items.iter().filter_map(|item| self.stored(item)).collect(), revision))
    }

    async fn get(&self, key: SubnetKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.client.get(&self.lease_key(key)).await?.and_then(|item| self.stored(&item)))
    }

    async fn put(&self, key: SubnetKey, attrs: &LeaseAttrs, ttl: Ttl, expect: Expect) -> Result<Written, StoreError> {
        self.client.put(&self.lease_key(key), &attrs.to_json(), ttl, expect).await
    }

    async fn delete(&self, key: SubnetKey, revision: Revision) -> Result<bool, StoreError> {
        self.client.delete(&self.lease_key(key), revision).await
    }

    async fn watch(
        &self,
        after: Revision,
    ) -> Result<impl Stream<Item = Result<WatchEvent, StoreError>> + Unpin, StoreError> {
        let watch = self.client.watch(&self.subnets_key, after).await?;
        Ok(watch.filter_map(|event| future::ready(event.map(|event| self.event(event)).transpose())))
    }
}
