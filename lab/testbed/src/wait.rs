//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// A deadline long enough for a machine busy with other tests; a condition that holds is seen within milliseconds.
pub const SOON: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(10);

/// Asks `condition` until it is `Ok` and returns its value; after `deadline` the last error, with `what` was waited
/// for.
pub fn eventually<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if start.elapsed() >= deadline {
            return Err(Error::new(format!("{what}: not within {deadline:?}: {last}")));
        }
        pause(POLL);
    }
}

/// Asks `condition` all through `period` and fails at once when it does not hold: for what must *not* happen, where
/// no event says that the danger is over.
pub fn holds(what: &str, period: Duration, mut condition: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < period {
        condition().map_err(|e| Error::new(format!("{what}: no longer after {:?}: {e}", start.elapsed())))?;
        pause(POLL);
    }
    Ok(())
}

/// Pauses this thread: for a length that is part of what is tried, where no condition says that it is over.
#[expect(clippy::disallowed_methods, reason = "the one pause of the test bed; its threads run no async")]
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_as_soon_as_there_is_one() {
        let mut left = 3;
        let value = eventually("three checks", SOON, || {
            left -= 1;
            if left == 0 { Ok("here") } else { Err(Error::new("not yet")) }
        });
        assert_eq!(value.unwrap(), "here");
    }

    #[test]
    fn names_what_was_waited_for_and_the_last_error() {
        let never: Result<()> = eventually("the moon", Duration::ZERO, || Err(Error::new("still made of rock")));
        assert_eq!(never.unwrap_err().to_string(), "the moon: not within 0ns: still made of rock");
    }
}
