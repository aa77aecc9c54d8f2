//! One line for what a burst of changes did.

use std::time::Duration;

use tokio::time::Instant;

use crate::reconcile::Round;

/// How often a line about what was programmed is written, at most.
const TELL: Duration = Duration::from_secs(1);

/// What was programmed since it was last told.
#[derive(Default)]
pub(super) struct Tally {
    round: Round,
    told: Option<Instant>,
}

impl Tally {
    pub(super) fn add(&mut self, round: Round) {
        self.round.put += round.put;
        self.round.removed += round.removed;
        self.round.failed = round.failed;
    }

    pub(super) fn tell(&mut self, in_force: usize) {
        let Round { put, removed, failed, .. } = self.round;
        if put + removed > 0 && self.told.is_none_or(|told| told.elapsed() >= TELL) {
            tracing::info!(put, removed, failed, in_force, "programmed");
            *self = Self { round: Round::default(), told: Some(Instant::now()) };
        }
    }
}
