//! A kernel in memory, for tests: tables of entries, and faults on demand.

use std::cell::{Cell, RefCell};

use flannel_core::entry::{Entry, Table};

use super::{Failure, Fault, Kernel, KernelError, Scope, Verb};

/// Entries, and what was asked in which order.
#[derive(Default)]
pub struct FakeKernel {
    /// What stands.
    pub table: RefCell<Table>,
    /// How many of the next operations fail.
    pub failing: Cell<u32>,
    /// Whether the next call loses its answers, with nothing done.
    pub overrun: Cell<bool>,
    /// Every operation, as text.
    pub log: RefCell<Vec<String>>,
}

impl FakeKernel {
    fn note(&self, what: String) -> Result<(), KernelError> {
        self.log.borrow_mut().push(what.clone());
        let failing = self.failing.get();
        self.failing.set(failing.saturating_sub(1));
        if failing > 0 {
            return Err(KernelError { what, reason: "told to fail".into(), fault: Fault::Other });
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    async fn carry_out(&self, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
        if self.overrun.take() {
            let what = format!("{verb} {} entries", entries.len());
            return Err(KernelError { what, reason: "told to overrun".into(), fault: Fault::Overrun });
        }
        let mut failures = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match (self.note(format!("{verb} {entry}")), verb) {
                (Err(error), _) => failures.push(Failure { place, error }),
                (Ok(()), Verb::Put) => self.table.borrow_mut().put(entry.clone()),
                (Ok(()), Verb::Remove) => self.table.borrow_mut().remove(entry),
            }
        }
        Ok(failures)
    }

    async fn list(&self, _: &Scope) -> Result<Table, KernelError> {
        self.note("list".into())?;
        Ok(self.table.borrow().clone())
    }
}
