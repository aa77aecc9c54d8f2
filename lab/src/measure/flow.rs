//! A flow through a fault: a ping every 10 ms and a TCP connection whose bytes come back, both from one place to another,
//! with the time of each answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ask::connect_echo;
use super::echo::Echo;
use super::now;

/// The pace of pings and of TCP chunks, in seconds.
const PACE: f64 = 0.01;
/// Bytes of a TCP chunk.
const CHUNK: usize = 512;
/// The most that is sent and has not come back: what a socket's buffer always takes.
const AHEAD: usize = 32 * CHUNK;
/// How long is waited at the end for what is under way, in seconds.
const LINGER: f64 = 0.5;
/// The stream's bytes repeat after so many; no multiple of the chunk, so that a lost one shows.
const PERIOD: usize = 251;

/// A ping that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// When, in seconds of [`now`].
    pub at: f64,
    /// When the answer came, if it did.
    pub answered: Option<f64>,
}

/// What the TCP connection saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TcpReport {
    /// Bytes that came back.
    pub bytes: usize,
    /// The longest time in which nothing came back, in seconds.
    pub longest_gap: f64,
    /// Why it ended before it was stopped.
    pub broken: Option<String>,
}

/// What a flow saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowReport {
    /// All pings, in the order they were sent.
    pub pings: Vec<Mark>,
    /// The connection beside them.
    pub tcp: TcpReport,
}

/// A running flow, on threads of the place it was started in.
#[derive(Debug)]
pub struct Flow {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    pings: std::thread::JoinHandle<std::io::Result<Vec<Mark>>>,
    tcp: std::thread::JoinHandle<std::io::Result<TcpReport>>,
}

impl Flow {
    /// Starts one to `target`, where a server must listen.
    pub fn start(target: SocketAddr) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let echo = Echo::new(target.ip())?;
        let stream = connect_echo(target)?;
        let (flag, count) = (Arc::clone(&ended), Arc::clone(&answered));
        let pings = std::thread::spawn(move || ping(&echo, &flag, &count));
        let flag = Arc::clone(&ended);
        let tcp = std::thread::spawn(move || carry(stream, &flag));
        Ok(Self { ended, answered, pings, tcp })
    }

    /// How many pings have been answered so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn stop(self) -> std::io::Result<FlowReport> {
        self.ended.store(true, Ordering::Relaxed);
        let died = |_| std::io::Error::other("a flow's thread panicked");
        let pings = self.pings.join().map_err(died)??;
        let tcp = self.tcp.join().map_err(died)??;
        Ok(FlowReport { pings, tcp })
    }
}

/// The time until `at`, never zero, which sockets take for "for ever".
fn until(at: f64) -> Duration {
    Duration::from_secs_f64((at - now()).max(0.000_1))
}

fn ping(echo: &Echo, ended: &AtomicBool, answered: &AtomicUsize) -> std::io::Result<Vec<Mark>> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut next = now();
    let mut deadline = None;
    loop {
        let time = now();
        if deadline.is_none() && ended.load(Ordering::Relaxed) {
            deadline = Some(time + LINGER);
        }
        match deadline {
            Some(last) if time >= last || marks.iter().rev().take(64).all(|mark| mark.answered.is_some()) => {
                return Ok(marks);
            }
            None if time >= next => {
                marks.push(Mark { at: time, answered: None });
                // One that cannot be sent is lost, as one that no router takes.
                drop(echo.send(sequence(marks.len() - 1)));
                // After a pause of the whole machine no burst.
                next = (next + PACE).max(time);
            }
            _ => {}
        }
        echo.socket().set_read_timeout(Some(until(deadline.unwrap_or(next))))?;
        // An error is a timeout, or what a router says of a lost packet; both show by the answer's absence.
        if let Ok(Some(number)) = echo.receive() {
            let recent = marks.len().saturating_sub(usize::from(u16::MAX) / 2);
            let place = (recent..marks.len()).find(|place| sequence(*place) == number);
            if let Some(mark) = place.map(|place| &mut marks[place]).filter(|mark| mark.answered.is_none()) {
                mark.answered = Some(now());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The number on the wire of the ping at this place; it comes round after 65536.
fn sequence(place: usize) -> u16 {
    u16::try_from(place & usize::from(u16::MAX)).unwrap_or(0)
}

/// The stream's byte at this offset.
fn byte(offset: usize) -> u8 {
    u8::try_from(offset % PERIOD).unwrap_or(0)
}

fn carry(mut stream: std::net::TcpStream, ended: &AtomicBool) -> std::io::Result<TcpReport> {
    stream.set_nodelay(true)?;
    let (mut sent, mut got) = (0_usize, 0_usize);
    let mut report = TcpReport { bytes: 0, longest_gap: 0.0, broken: None };
    let mut last = now();
    let mut next = last;
    let mut buffer = vec![0; AHEAD];
    while !ended.load(Ordering::Relaxed) {
        let time = now();
        if time >= next {
            if sent - got < AHEAD {
                let chunk: Vec<u8> = (sent..sent + CHUNK).map(byte).collect();
                if let Err(error) = stream.write_all(&chunk) {
                    report.broken = Some(error.to_string());
                    break;
                }
                sent += CHUNK;
            }
            next = (next + PACE).max(time);
        }
        stream.set_read_timeout(Some(until(next)))?;
        match stream.read(&mut buffer) {
            Ok(0) => report.broken = Some("the other end closed it".to_owned()),
            Ok(length) => {
                if (0..length).any(|place| buffer[place] != byte(got + place)) {
                    report.broken = Some(format!("bytes after {got} came back changed"));
                }
                got += length;
                let time = now();
                report.longest_gap = report.longest_gap.max(time - last);
                last = time;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => report.broken = Some(error.to_string()),
        }
        if report.broken.is_some() {
            break;
        }
    }
    report.longest_gap = report.longest_gap.max(now() - last);
    report.bytes = got;
    Ok(report)
}

impl FlowReport {
    /// Pings sent from `from` to `to` without an answer.
    #[must_use]
    pub fn lost(&self, from: f64, to: f64) -> usize {
        self.pings.iter().filter(|mark| mark.answered.is_none() && (from..to).contains(&mark.at)).count()
    }

    /// All pings without an answer.
    #[must_use]
    pub fn lost_ever(&self) -> usize {
        self.lost(f64::MIN, f64::MAX)
    }

    /// The longest time between two answers, in seconds.
    #[must_use]
    pub fn longest_gap(&self) -> f64 {
        let mut answers: Vec<f64> = self.pings.iter().filter_map(|mark| mark.answered).collect();
        answers.sort_by(f64::total_cmp);
        let inside = answers.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        // Silence at the end counts; the pings there have no answer.
        let end = self.pings.last().map_or(0.0, |mark| mark.at) - answers.last().copied().unwrap_or(0.0);
        if answers.is_empty() { self.pings.last().map_or(0.0, |m| m.at - self.pings[0].at) } else { inside.max(end) }
    }

    /// Seconds from `cause` to the first answer after the last ping that was lost; 0 when none was lost since, `None`
    /// when no answer came any more.
    #[must_use]
    pub fn healed_after(&self, cause: f64) -> Option<f64> {
        let Some(last) = self.pings.iter().rposition(|mark| mark.answered.is_none() && mark.at >= cause) else {
            return Some(0.0);
        };
        let answer = self.pings[last + 1..].iter().filter_map(|mark| mark.answered).reduce(f64::min)?;
        Some((answer - cause).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings at 0.00, 0.01, ... of which those in `lost` have no answer.
    fn report(count: usize, lost: std::ops::Range<usize>) -> FlowReport {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let at = |place: usize| place as f64 / 100.0;
        let pings = (0..count)
            .map(|place| Mark { at: at(place), answered: (!lost.contains(&place)).then(|| at(place) + 0.001) })
            .collect();
        FlowReport { pings, tcp: TcpReport { bytes: 0, longest_gap: 0.0, broken: None } }
    }

    #[test]
    fn a_hole_is_loss_gap_and_time_to_heal() {
        let report = report(100, 20..50);
        assert_eq!((report.lost_ever(), report.lost(0.3, 0.4)), (30, 10));
        assert!((report.longest_gap() - 0.31).abs() < 1e-9, "{}", report.longest_gap());
        assert!((report.healed_after(0.2).unwrap() - 0.301).abs() < 1e-9);
        assert_eq!(report.healed_after(0.6), Some(0.0));
    }

    #[test]
    fn silence_to_the_end_never_heals() {
        let report = report(100, 60..100);
        assert_eq!(report.healed_after(0.6), None);
        assert!(report.longest_gap() > 0.39, "{}", report.longest_gap());
        assert_eq!(self::report(10, 0..10).healed_after(0.0), None);
    }
}
