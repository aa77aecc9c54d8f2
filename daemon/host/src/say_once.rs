//! Logging a lasting fault once: a message per key is passed on when it is new or has changed.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// What is wrong at the moment, by key (a lease, a table, a device; `()` where there is but one thing).
#[derive(Debug, Clone)]
pub struct SayOnce<K>(BTreeMap<K, String>);

impl<K> Default for SayOnce<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> SayOnce<K> {
    /// Remembers the message; true if it is to be logged, because this key had none or another one.
    pub fn is_news(&mut self, key: K, message: &str) -> bool {
        match self.0.get_mut(&key) {
            Some(known) if known == message => false,
            Some(known) => {
                message.clone_into(known);
                true
            }
            None => {
                self.0.insert(key, message.to_owned());
                true
            }
        }
    }

    /// The fault is over; true if there was one, so that its end can be logged.
    pub fn clear<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).is_some()
    }

    /// Forgets the keys that are no longer there.
    pub fn retain(&mut self, mut is_there: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| is_there(key));
    }

    /// The message of a key that has one.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&str>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(String::as_str)
    }

    /// How many keys have a message.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_it_comes_changes_and_comes_again() {
        let mut faults = SayOnce::default();
        assert!(faults.is_news("10.5.1.0-24", "no VtepMAC"));
        assert!(!faults.is_news("10.5.1.0-24", "no VtepMAC"));
        assert!(faults.is_news("10.5.2.0-24", "no VtepMAC"));
        assert!(faults.is_news("10.5.1.0-24", "PublicIP is ours"));
        assert_eq!(faults.get("10.5.1.0-24"), Some("PublicIP is ours"));
        assert!(faults.clear("10.5.1.0-24"));
        assert!(!faults.clear("10.5.1.0-24"));
        assert!(faults.is_news("10.5.1.0-24", "no VtepMAC"));
        faults.retain(|key| *key == "10.5.2.0-24");
        assert_eq!(faults.len(), 1);
        assert!(!faults.is_empty());
    }
}
