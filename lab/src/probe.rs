//! Trying one path from inside a workload: pings, and a file by TCP.

use std::time::Duration;

use crate::eventually::{Look, eventually};
use crate::workload::{Blob, Workload};
use crate::{Error, Result};

/// What a few pings found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// The fastest answer, in milliseconds; `None` without one.
    pub best_ms: Option<f64>,
}

/// Pings an address so many times, a fifth of a second apart.
pub async fn ping(from: &Workload, address: &str, count: u32) -> Result<Pings> {
    let output = from.sh(&format!("ping -c {count} -i 0.2 -W 2 {address}")).await?;
    parse(&output.stdout)
        .ok_or_else(|| Error::State(format!("{}: ping {address} cannot be read: {}", from.label(), output.said())))
}

/// Waits until an address answers pings.
pub async fn answers(from: &Workload, address: &str, within: Duration) -> Result<()> {
    eventually(&format!("{} reaches {address}", from.label()), within, async || {
        let output = from.sh(&format!("ping -c 1 -W 1 {address}")).await?;
        Ok(if output.code == 0 { Look::Ready(()) } else { Look::NotYet("no answer to ping".to_owned()) })
    })
    .await
}

/// Fetches what the workload at `address` serves and compares it with `blob`; the seconds it took.
pub async fn fetch(from: &Workload, address: &str, blob: &Blob) -> Result<f64> {
    // A lost path must not hang: a transfer that is slower than 2 MB/s counts as down.
    let limit = 10 + blob.bytes / 2_000_000;
    let command = format!(
        "time -p sh -c 'timeout {limit} wget -q -O - http://{address}/blob | tee /tmp/got | sha256sum'; wc -c < /tmp/got"
    );
    let output = from.sh(&command).await?;
    let mut words = output.stdout.split_whitespace();
    let sha256 = words.next().unwrap_or_default();
    let bytes = words.last().unwrap_or_default();
    if sha256 != blob.sha256 {
        return Err(Error::State(format!(
            "{}: http://{address}/blob: {bytes} of {} bytes came, SHA-256 {sha256} instead of {}: {}",
            from.label(),
            blob.bytes,
            blob.sha256,
            output.stderr.lines().next().unwrap_or_default()
        )));
    }
    let seconds =
        output.stderr.lines().find_map(|line| line.strip_prefix("real ")).and_then(|text| text.trim().parse().ok());
    seconds.ok_or_else(|| Error::State(format!("{}: no duration in {:?}", from.label(), output.stderr)))
}

/// Reads the output of busybox's or iputils' ping.
fn parse(output: &str) -> Option<Pings> {
    let summary = output.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers = summary.split(", ").filter_map(|part| part.split(' ').next()?.parse::<u32>().ok());
    let (sent, received) = (numbers.next()?, numbers.next()?);
    let times = output.lines().filter_map(|line| line.split_once(" time=")?.1.split(' ').next()?.parse::<f64>().ok());
    Some(Pings { sent, received, best_ms: times.reduce(f64::min) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_busybox() {
        let output = "PING 10.5.2.2 (10.5.2.2): 56 data bytes\n\
                      64 bytes from 10.5.2.2: seq=0 ttl=62 time=0.255 ms\n\
                      64 bytes from 10.5.2.2: seq=2 ttl=62 time=0.074 ms\n\n\
                      --- 10.5.2.2 ping statistics ---\n\
                      3 packets transmitted, 2 packets received, 33% packet loss\n\
                      round-trip min/avg/max = 0.074/0.134/0.255 ms\n";
        assert_eq!(parse(output), Some(Pings { sent: 3, received: 2, best_ms: Some(0.074) }));
    }

    #[test]
    fn reads_iputils() {
        let output = "PING 10.5.2.2 (10.5.2.2) 56(84) bytes of data.\n\
                      64 bytes from 10.5.2.2: icmp_seq=1 ttl=64 time=1.02 ms\n\n\
                      --- 10.5.2.2 ping statistics ---\n\
                      1 packets transmitted, 1 received, 0% packet loss, time 0ms\n";
        assert_eq!(parse(output), Some(Pings { sent: 1, received: 1, best_ms: Some(1.02) }));
    }

    #[test]
    fn silence_is_no_answer_and_noise_is_no_result() {
        let silent = "PING x (10.5.2.2): 56 data bytes\n\n--- x ping statistics ---\n\
                      2 packets transmitted, 0 packets received, 100% packet loss\n";
        assert_eq!(parse(silent), Some(Pings { sent: 2, received: 0, best_ms: None }));
        assert_eq!(parse("ping: bad address 'x'\n"), None);
    }
}
