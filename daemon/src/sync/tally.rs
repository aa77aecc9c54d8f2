//! One log line for what a burst of changes did.

use std::time::Duration;

use tokio::time::Instant;

use crate::reconcile::Round;

/// At most one line in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What was installed and removed since the last line.
#[derive(Default)]
pub(super) struct Tally {
    round: Round,
    logged: Option<Instant>,
}

impl Tally {
    pub(super) fn add(&mut self, round: Round) {
        self.round.put += round.put;
        self.round.removed += round.removed;
        self.round.failed = round.failed;
    }

    pub(super) fn log(&mut self, total: usize) {
        let Round { put, removed, failed, .. } = self.round;
        if put + removed > 0 && self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::info!(put, removed, failed, total, "installed");
            *self = Self { round: Round::default(), logged: Some(Instant::now()) };
        }
    }
}
