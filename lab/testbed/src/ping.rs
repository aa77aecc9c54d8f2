//! The `ping` program, and what its output says about loss.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Context, Error, Namespace, Process, Result, SOON, Signal, eventually};

/// A running ping.
#[derive(Debug)]
pub struct Ping {
    process: Process,
    out: PathBuf,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reply {
    /// The echo request's number, from 1.
    pub sequence: u32,
    /// The TTL the answer arrived with.
    pub ttl: u8,
    /// When it arrived, in seconds since 1970.
    pub at: f64,
}

/// What a ping saw.
#[derive(Debug, Clone, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// The answers, in the order they came.
    pub replies: Vec<Reply>,
    /// All it printed.
    pub text: String,
}

impl Ping {
    /// Starts `ping` with `arguments`.
    pub fn start(namespace: &Namespace, directory: &Path, arguments: &str) -> Result<Self> {
        let out = directory.join(format!("ping-{}", fastrand::u32(..)));
        let mut command = namespace.command("ping");
        command.args(["-n", "-D"]).args(arguments.split_whitespace());
        let process = Process::start_apart(&format!("ping {arguments}"), command, &out, &out.with_extension("err"))?;
        Ok(Self { process, out })
    }

    /// Runs one that ends by itself.
    pub fn once(namespace: &Namespace, directory: &Path, arguments: &str) -> Result<PingReport> {
        let ping = Self::start(namespace, directory, arguments)?;
        // Exit code 1 is "no answers", which the report says too.
        ping.process.exit_within(Duration::from_secs(30))?;
        ping.report()
    }

    /// Waits until `count` more answers have come.
    pub fn replies_more(&self, count: usize) -> Result<()> {
        let wanted = self.replies()? + count;
        eventually(&format!("{count} more answers"), SOON, || {
            let got = self.replies()?;
            if got >= wanted { Ok(()) } else { Err(Error::new(format!("{got} of {wanted}"))) }
        })
    }

    /// Stops it and says what it saw.
    pub fn stop(self) -> Result<PingReport> {
        self.process.signal(Signal::INT)?;
        self.process.exit_within(SOON)?;
        self.report()
    }

    /// How many answers have come.
    pub fn replies(&self) -> Result<usize> {
        Ok(parse_replies(&self.text()?).len())
    }

    fn report(&self) -> Result<PingReport> {
        let mut text = self.text()?;
        let sent =
            parse_sent(&text).context(|| format!("ping ended without statistics:\n{text}{}", self.process.log()))?;
        text.push_str(&self.process.log());
        Ok(PingReport { sent, replies: parse_replies(&text), text })
    }

    fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.out).context(|| self.out.display().to_string())
    }
}

impl PingReport {
    /// Requests without an answer. The last one of a ping that was interrupted had no time for one and does not count.
    pub fn lost(&self) -> u32 {
        let last = self.replies.iter().map(|r| r.sequence).max().unwrap_or(0);
        let mut seen: Vec<u32> = self.replies.iter().map(|r| r.sequence).collect();
        seen.sort_unstable();
        seen.dedup();
        let in_between = last - u32::try_from(seen.len()).unwrap_or(u32::MAX).min(last);
        let tail = self.sent.saturating_sub(last);
        in_between + if last == 0 { tail } else { tail.saturating_sub(1) }
    }

    /// The longest time between two answers.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.replies.windows(2).map(|pair| pair[1].at - pair[0].at);
        Duration::from_secs_f64(gaps.fold(0.0, f64::max).max(0.0))
    }

    /// An error unless every request was answered, each with `ttl`.
    pub fn all_answered(&self, ttl: u8) -> Result<()> {
        let answered = u32::try_from(self.replies.len()).unwrap_or(u32::MAX);
        if answered == self.sent && self.replies.iter().all(|r| r.ttl == ttl) {
            return Ok(());
        }
        Err(Error::new(format!("not every ping was answered with ttl {ttl}:\n{}", self.text)))
    }

    /// An error unless no request was answered.
    pub fn none_answered(&self) -> Result<()> {
        if self.replies.is_empty() { Ok(()) } else { Err(Error::new(format!("answers came:\n{}", self.text))) }
    }
}

/// `3 packets transmitted, 3 received, 0% packet loss, time 636ms`
fn parse_sent(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.split_once(" packets transmitted")?.0.trim().parse().ok())
}

/// `[1700000000.123456] 64 bytes from 10.5.98.1: icmp_seq=1 ttl=62 time=0.205 ms`
fn parse_replies(text: &str) -> Vec<Reply> {
    let reply = |line: &str| {
        let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
        // Errors of routers have no "bytes from"; an answer that came twice is marked and was counted already.
        if !rest.contains(" bytes from ") || rest.contains("DUP!") {
            return None;
        }
        let field = |name: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(name));
        Some(Reply {
            sequence: field("icmp_seq=")?.parse().ok()?,
            ttl: field("ttl=")?.parse().ok()?,
            at: time.parse().ok()?,
        })
    };
    text.lines().filter_map(reply).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> PingReport {
        PingReport { sent: parse_sent(text).unwrap(), replies: parse_replies(text), text: text.to_owned() }
    }

    const GAP: &str = "PING 10.5.8.2 (10.5.8.2) 56(84) bytes of data.
[1700000000.000000] 64 bytes from 10.5.8.2: icmp_seq=1 ttl=62 time=0.205 ms
[1700000000.010000] 64 bytes from 10.5.8.2: icmp_seq=2 ttl=62 time=0.205 ms
[1700000000.020000] From 10.5.9.1 icmp_seq=3 Destination Host Unreachable
[1700000000.050000] 64 bytes from 10.5.8.2: icmp_seq=5 ttl=62 time=0.2 ms
[1700000000.050001] 64 bytes from 10.5.8.2: icmp_seq=5 ttl=62 time=0.2 ms (DUP!)

--- 10.5.8.2 ping statistics ---
6 packets transmitted, 3 received, +1 duplicates, +1 errors, 50% packet loss, time 50ms
";

    #[test]
    fn counts_what_is_missing_but_not_the_interrupted_last_one() {
        let report = report(GAP);
        assert_eq!((report.sent, report.replies.len(), report.lost()), (6, 3, 2));
        assert_eq!((report.longest_gap().as_secs_f64() * 1000.0).round(), 40.0);
    }

    #[test]
    fn silence_is_all_lost() {
        assert_eq!(report("2 packets transmitted, 0 received, 100% packet loss, time 3ms\n").lost(), 2);
    }
}
