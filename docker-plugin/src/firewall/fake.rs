//! [`Firewall`] in memory, with faults on demand, for tests.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{BridgeRules, Firewall, Rules};

/// Remembers what was applied; clones share their memory.
#[derive(Debug, Clone, Default)]
pub struct FakeFirewall<R = BridgeRules>(Arc<Mutex<Inner<R>>>);

#[derive(Debug, Default)]
struct Inner<R> {
    applied: Vec<R>,
    hangs: bool,
    fails: bool,
}

impl<R: Clone> FakeFirewall<R> {
    /// Everything that was applied, in order.
    pub fn applied(&self) -> Vec<R> {
        self.inner().applied.clone()
    }

    /// Whether calls hang.
    pub fn hang(&self, hangs: bool) {
        self.inner().hangs = hangs;
    }

    /// Whether calls fail.
    pub fn fail(&self, fails: bool) {
        self.inner().fails = fails;
    }

    fn inner(&self) -> MutexGuard<'_, Inner<R>> {
        self.0.lock().unwrap()
    }
}

impl<R: Rules> Firewall<R> for FakeFirewall<R> {
    async fn apply(&self, rules: &R) -> Result<bool, String> {
        let mut step = tokio::time::interval(Duration::from_millis(100));
        while self.inner().hangs {
            step.tick().await;
        }
        if self.inner().fails {
            return Err("made to fail".to_owned());
        }
        self.inner().applied.push(rules.clone());
        Ok(false)
    }
}
