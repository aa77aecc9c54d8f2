//! The store in memory, for tests: the same contract as etcd's, with faults on demand.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use flannel_core::key::SubnetKey;
use flannel_core::lease::LeaseAttrs;
use futures_util::{Stream, stream};
use tokio::sync::Notify;

use crate::leases::{Expect, Revision, StoreError, Stored, SubnetStore, Ttl, WatchEvent, Written};

/// What another host does just before a write.
pub type Interference = Box<dyn FnOnce(&MemoryStore)>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    text: String,
    reserved: bool,
}

/// A store with a history.
#[derive(Default)]
pub struct MemoryStore {
    /// The config's text, if there is one.
    pub config: RefCell<Option<String>>,
    /// How many of the next calls fail as if no endpoint were reachable.
    pub unreachable: Cell<u32>,
    /// Runs once just before the next write: a lost race.
    pub before_put: RefCell<Option<Interference>>,
    history: RefCell<Vec<(SubnetKey, Option<Value>)>>,
    compacted: Cell<i64>,
    written: Notify,
}

impl MemoryStore {
    /// A store with this config.
    pub fn with_config(text: &str) -> Self {
        Self { config: RefCell::new(Some(text.to_owned())), ..Self::default() }
    }

    /// Writes a value as another host would.
    pub fn write(&self, key: SubnetKey, value: &str) {
        self.push(key, Some(Value { text: value.to_owned(), reserved: false }));
    }

    /// Writes a value without a time to live, as an operator would.
    pub fn reserve(&self, key: SubnetKey, value: &str) {
        self.push(key, Some(Value { text: value.to_owned(), reserved: true }));
    }

    fn push(&self, key: SubnetKey, value: Option<Value>) {
        self.history.borrow_mut().push((key, value));
        self.written.notify_waiters();
    }

    /// Removes a key as another host, an operator or its expiry would.
    pub fn remove(&self, key: SubnetKey) {
        self.push(key, None);
    }

    /// Loses all data: a new store in place of the old one.
    pub fn wipe(&self) {
        self.history.borrow_mut().clear();
        self.compacted.set(0);
        self.written.notify_waiters();
    }

    /// Compacts the history up to now.
    pub fn compact(&self) {
        self.compacted.set(self.revision());
    }

    /// The values by key.
    pub fn values(&self) -> BTreeMap<SubnetKey, String> {
        self.state().into_iter().map(|(key, (value, _))| (key, value.text)).collect()
    }

    /// The keys without a time to live.
    pub fn reservations(&self) -> Vec<SubnetKey> {
        self.state().into_iter().filter(|(_, (value, _))| value.reserved).map(|(key, _)| key).collect()
    }

    fn state(&self) -> BTreeMap<SubnetKey, (Value, i64)> {
        let mut state = BTreeMap::new();
        for (revision, (key, value)) in (1..).zip(self.history.borrow().iter()) {
            match value {
                Some(value) => state.insert(*key, (value.clone(), revision)),
                None => state.remove(key),
            };
        }
        state
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.history.borrow().len()).unwrap_or(i64::MAX)
    }

    fn reach(&self) -> Result<(), StoreError> {
        let left = self.unreachable.get();
        self.unreachable.set(left.saturating_sub(1));
        if left > 0 { Err(StoreError::Unreachable("switched off".into())) } else { Ok(()) }
    }

    fn next_event(&self, after: i64) -> Option<(WatchEvent, i64)> {
        if after < self.compacted.get() || after > self.revision() {
            return Some((WatchEvent::Compacted, self.revision()));
        }
        let history = self.history.borrow();
        let (key, value) = history.get(usize::try_from(after).ok()?)?;
        let event = match value {
            Some(value) => WatchEvent::Put(stored(*key, value, after + 1)),
            None => WatchEvent::Delete(*key),
        };
        Some((event, after + 1))
    }
}

fn stored(key: SubnetKey, value: &Value, revision: i64) -> Stored {
    let Value { text, reserved } = value;
    Stored { key, attrs: LeaseAttrs::from_json(text), revision: Revision(revision), reserved: *reserved }
}

impl SubnetStore for MemoryStore {
    async fn config(&self) -> Result<String, StoreError> {
        self.reach()?;
        self.config.borrow().clone().ok_or_else(|| StoreError::NoConfig("/config".into()))
    }

    async fn list(&self) -> Result<(Vec<Stored>, Revision), StoreError> {
        self.reach()?;
        let leases = self.state().into_iter().map(|(key, (value, revision))| stored(key, &value, revision));
        Ok((leases.collect(), Revision(self.revision())))
    }

    async fn get(&self, key: SubnetKey) -> Result<Option<Stored>, StoreError> {
        self.reach()?;
        Ok(self.state().get(&key).map(|(value, revision)| stored(key, value, *revision)))
    }

    async fn put(&self, key: SubnetKey, attrs: &LeaseAttrs, ttl: Ttl, expect: Expect) -> Result<Written, StoreError> {
        self.reach()?;
        let before = self.before_put.borrow_mut().take();
        if let Some(before) = before {
            before(self);
        }
        let current = self.state().get(&key).map(|(_, revision)| Revision(*revision));
        let expected = match expect {
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision),
        };
        if current != expected {
            return Ok(Written::Raced);
        }
        self.push(key, Some(Value { text: attrs.to_json(), reserved: ttl == Ttl::Never }));
        Ok(Written::Yes { ttl, revision: Revision(self.revision()) })
    }

    async fn delete(&self, key: SubnetKey, revision: Revision) -> Result<bool, StoreError> {
        self.reach()?;
        let same = self.state().get(&key).is_some_and(|(_, at)| Revision(*at) == revision);
        if same {
            self.remove(key);
        }
        Ok(same)
    }

    async fn watch(
        &self,
        after: Revision,
    ) -> Result<impl Stream<Item = Result<WatchEvent, StoreError>> + Unpin, StoreError> {
        self.reach()?;
        let next = move |after: i64| async move {
            loop {
                let woken = self.written.notified();
                if let Some((event, after)) = self.next_event(after) {
                    return Some((Ok(event), after));
                }
                woken.await;
            }
        };
        Ok(Box::pin(stream::unfold(after.0, next)))
    }
}
