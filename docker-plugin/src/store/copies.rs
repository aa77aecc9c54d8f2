//! The state in memory while it is being written: what is on disk, and what calls have made of it since.
//!
//! ```text
//!   change ----> pending ----begin_write----> writing ----written----> committed
//!                   ^                            |                        |
//!                   +---------- failed: pending is committed again -------+
//! ```
//!
//! Calls read and change `pending`. Changes that arrive while a write is in progress form the next [`Batch`], which is
//! written as a whole. A failed write throws `pending` away: every call whose change was in it, or was made on top of
//! it, fails. A removal is applied to all copies, so that no failed write brings back what is gone in the kernel.

use std::sync::{Arc, OnceLock};

use super::state::State;
use crate::error::Error;

/// Changes that are written together, and share one outcome.
#[derive(Debug, Default)]
pub(super) struct Batch(OnceLock<Result<(), Error>>);

impl Batch {
    /// The outcome, once it is decided.
    pub(super) fn outcome(&self) -> Option<Result<(), Error>> {
        self.0.get().cloned()
    }

    /// The first outcome counts.
    fn settle(&self, outcome: Result<(), Error>) {
        self.0.get_or_init(|| outcome);
    }
}

/// The copies of the state.
#[derive(Debug)]
pub(super) struct Copies {
    committed: Arc<State>,
    /// While a write is in progress: what it writes, and for whom.
    writing: Option<(Arc<State>, Arc<Batch>)>,
    pending: Arc<State>,
    /// The changes in `pending` that no write has begun for.
    batch: Arc<Batch>,
}

impl Copies {
    pub(super) fn new(state: State) -> Self {
        let state = Arc::new(state);
        Self { committed: Arc::clone(&state), writing: None, pending: state, batch: Arc::default() }
    }

    /// The state as all calls so far have left it.
    pub(super) fn pending(&self) -> &State {
        &self.pending
    }

    /// Applies a change, which counts once its batch is written. One that refuses changes nothing.
    pub(super) fn change<T>(
        &mut self,
        apply: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<(T, Arc<Batch>), Error> {
        let mut changed = State::clone(&self.pending);
        let value = apply(&mut changed)?;
        self.pending = Arc::new(changed);
        Ok((value, Arc::clone(&self.batch)))
    }

    /// Takes something out of all copies. Without a batch, there was nothing to take out.
    pub(super) fn remove<T>(&mut self, apply: impl Fn(&mut State) -> T) -> (T, Option<Arc<Batch>>) {
        let mut changed = State::clone(&self.pending);
        let value = apply(&mut changed);
        if changed == *self.pending {
            return (value, None);
        }
        self.pending = Arc::new(changed);
        apply(Arc::make_mut(&mut self.committed));
        if let Some((state, _)) = &mut self.writing {
            apply(Arc::make_mut(state));
        }
        (value, Some(Arc::clone(&self.batch)))
    }

    /// What is to be written now. Only one write may be in progress.
    pub(super) fn begin_write(&mut self) -> Arc<State> {
        let batch = std::mem::take(&mut self.batch);
        self.writing = Some((Arc::clone(&self.pending), batch));
        Arc::clone(&self.pending)
    }

    /// Ends the write that [`Copies::begin_write`] began.
    pub(super) fn end_write(&mut self, outcome: Result<(), Error>) {
        let Some((state, batch)) = self.writing.take() else { return };
        if outcome.is_ok() {
            self.committed = state;
        } else {
            self.pending = Arc::clone(&self.committed);
            // Changes made meanwhile were made on top of those that failed.
            std::mem::take(&mut self.batch).settle(outcome.clone());
        }
        batch.settle(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::*;

    fn copies() -> Copies {
        Copies::new(State::default())
    }

    fn add(copies: &mut Copies, id: &str) -> Arc<Batch> {
        let net = "10.5.72.0/24".parse().unwrap();
        let add = |s: &mut State| {
            s.pools.insert(id.to_owned(), Pool::new(net, net)?);
            Ok(())
        };
        copies.change(add).unwrap().1
    }

    fn ids(state: &State) -> Vec<&str> {
        state.pools.keys().map(String::as_str).collect()
    }

    fn full() -> Result<(), Error> {
        Err(Error::State("disk full".to_owned()))
    }

    #[test]
    fn changes_made_during_a_write_share_the_next_one() {
        let mut copies = copies();
        let first = add(&mut copies, "a");
        assert_eq!(ids(&copies.begin_write()), ["a"]);
        let (second, third) = (add(&mut copies, "b"), add(&mut copies, "c"));
        copies.end_write(Ok(()));
        assert_eq!((first.outcome(), second.outcome(), third.outcome()), (Some(Ok(())), None, None));
        assert_eq!(ids(&copies.begin_write()), ["a", "b", "c"]);
        copies.end_write(Ok(()));
        assert_eq!((second.outcome(), third.outcome()), (Some(Ok(())), Some(Ok(()))));
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_fails_all_that_waited() {
        let mut copies = copies();
        let committed = add(&mut copies, "a");
        copies.begin_write();
        copies.end_write(Ok(()));
        let failed = add(&mut copies, "b");
        copies.begin_write();
        let on_top = add(&mut copies, "c");
        copies.end_write(full());
        assert_eq!(ids(copies.pending()), ["a"]);
        let outcomes = [&committed, &failed, &on_top].map(|b| b.outcome());
        assert_eq!(outcomes, [Some(Ok(())), Some(full()), Some(full())]);
        let next = add(&mut copies, "d");
        assert_eq!(ids(&copies.begin_write()), ["a", "d"]);
        copies.end_write(Ok(()));
        assert_eq!((failed.outcome(), next.outcome()), (Some(full()), Some(Ok(()))));
    }

    #[test]
    fn a_change_that_refuses_half_way_changes_nothing() {
        let mut copies = copies();
        let refused = copies.change(|s| {
            s.new_pool_id("10.5.72.0/24".parse().unwrap());
            full()
        });
        assert!(refused.is_err());
        assert_eq!(copies.pending(), &*copies.committed);
    }

    #[test]
    fn no_failed_write_brings_back_what_was_removed() {
        let mut copies = copies();
        add(&mut copies, "a");
        add(&mut copies, "b");
        copies.begin_write();
        let (had, batch) = copies.remove(|s| s.pools.remove("a").is_some());
        assert!(had && batch.is_some());
        copies.end_write(Ok(()));
        copies.begin_write();
        copies.end_write(full());
        assert_eq!(ids(copies.pending()), ["b"]);
        assert!(copies.remove(|s| s.pools.remove("a").is_some()).1.is_none());
    }
}
