//! A kernel in memory, for tests: tables of entries, and faults on demand.

use std::cell::{Cell, RefCell};

use flannel_core::entry::{Entry, Table};

use super::{Fault, Kernel, KernelError, Scope};

/// Entries, and what was asked in which order.
#[derive(Default)]
pub struct FakeKernel {
    /// What stands.
    pub table: RefCell<Table>,
    /// How many of the next operations fail.
    pub failing: Cell<u32>,
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
    async fn put(&self, entry: &Entry) -> Result<(), KernelError> {
        self.note(format!("put {entry}"))?;
        self.table.borrow_mut().put(*entry);
        Ok(())
    }

    async fn remove(&self, entry: &Entry) -> Result<(), KernelError> {
        self.note(format!("remove {entry}"))?;
        self.table.borrow_mut().remove(entry);
        Ok(())
    }

    async fn list(&self, _: &Scope) -> Result<Table, KernelError> {
        self.note("list".into())?;
        Ok(self.table.borrow().clone())
    }
}
