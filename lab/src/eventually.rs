//! Waiting for conditions. Nothing in the lab waits for a time to pass: it looks again until it sees what it needs, and
//! gives up at a deadline with what it saw last.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{Error, Result};

/// The pause between two looks.
const PACE: Duration = Duration::from_millis(100);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is true, and this is what was wanted of it.
    Ready(T),
    /// Not yet; in words, for the error message.
    NotYet(String),
}

/// Looks until the condition is true. An error of `look` ends the wait at once: it is for what waiting cannot heal.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        match look().await? {
            Look::Ready(value) => return Ok(value),
            Look::NotYet(last) if Instant::now() >= deadline => {
                return Err(Error::Timeout { what: what.to_owned(), within, last });
            }
            Look::NotYet(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_until_true() {
        let mut looks = 0;
        let found = eventually("three looks", Duration::from_secs(1), async || {
            looks += 1;
            Ok(if looks == 3 { Look::Ready(looks) } else { Look::NotYet(format!("{looks}")) })
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_with_the_last_look() {
        let begin = Instant::now();
        let failed = eventually::<()>("a miracle", Duration::from_secs(3), async || Ok(Look::NotYet("rain".into())));
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
