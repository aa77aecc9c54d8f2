//! Waiting for conditions. Nothing in the lab waits for a time to pass: it checks again until the condition holds, and
//! gives up at a deadline with what it saw last.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{Error, Result};

/// The pause between two checks.
const PACE: Duration = Duration::from_millis(100);

/// The result of one check of a condition.
#[derive(Debug)]
pub enum Condition<T> {
    /// It is true, and this is what was wanted of it.
    Ready(T),
    /// Not yet; in words, for the error message.
    NotYet(String),
}

/// Checks until the condition is true. An error of `check` ends the wait at once: it is for what waiting cannot heal.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> Result<Condition<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        match check().await? {
            Condition::Ready(value) => return Ok(value),
            Condition::NotYet(last) if Instant::now() >= deadline => {
                return Err(Error::Timeout { what: what.to_owned(), within, last });
            }
            Condition::NotYet(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn checks_until_true() {
        let mut checks = 0;
        let found = eventually("three checks", Duration::from_secs(1), async || {
            checks += 1;
            Ok(if checks == 3 { Condition::Ready(checks) } else { Condition::NotYet(format!("{checks}")) })
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_with_the_last_result() {
        let begin = Instant::now();
        let failed =
            eventually::<()>("a miracle", Duration::from_secs(3), async || Ok(Condition::NotYet("rain".into())));
        assert_eq!(failed.await.unwrap_err().to_string(), "a miracle: not after 3 s: rain");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn an_error_ends_the_wait() {
        let failed =
            eventually::<()>("x", Duration::from_secs(60), async || Err(Error::State("it is gone for good".into())));
        assert_eq!(failed.await.unwrap_err().to_string(), "it is gone for good");
    }
}
