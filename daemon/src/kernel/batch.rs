//! Many requests in few system calls: how thousands of entries get into the kernel, and how its tables are read.
//!
//! The kernel works a datagram off message by message, so the order of the requests is the order of what happens. It
//! answers a request that failed, and of the others only one that asks for it: the last of each datagram does, so its
//! answer says that all before it are done, and what was not complained of went well. Answers that did not fit into the
//! socket's buffer are reported as an overrun; what came of those requests is then unknown.

use std::io;

use flannel_core::entry::Entry;
use rtnetlink::packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

use super::netlink::refusal;
use super::socket::{Socket, is_overrun};
use super::{Failure, Fault, KernelError, Verb, message};
use crate::metrics::METRICS;

/// How many requests go into one datagram, and how many bytes at most: some milliseconds of the kernel's time, after
/// which the daemon's other work has its turn, and well within any send buffer.
const REQUESTS: usize = 256;
const BYTES: usize = 32 << 10;
/// How often a dump that other changes disturbed is repeated. What it then lacks is put again, which does no harm.
const DUMPS: u32 = 3;

/// The requests of one datagram.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The sequence number of the first; the others follow.
    first: u32,
    /// Which entry each is of.
    places: Vec<usize>,
    /// Where the last one begins.
    last: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.places.len() >= REQUESTS || self.bytes.len() >= BYTES
    }

    fn add(&mut self, sequence: u32, place: usize, request: RouteNetlinkMessage, flags: u16) {
        if self.places.is_empty() {
            self.first = sequence;
        }
        self.places.push(place);
        self.last = self.bytes.len();
        append(&mut self.bytes, sequence, request, flags);
    }

    /// Asks for an answer to the last request, whatever comes of it.
    fn close(&mut self) {
        let mut last = NetlinkBuffer::new(&mut self.bytes[self.last..]);
        let flags = last.flags() | NLM_F_ACK;
        last.set_flags(flags);
    }

    /// The entry that an answer is about, and whether it is the last; nothing for an answer to something else.
    fn place_of(&self, sequence: u32) -> Option<(usize, bool)> {
        let offset = usize::try_from(sequence.wrapping_sub(self.first)).ok()?;
        self.places.get(offset).map(|place| (*place, offset + 1 == self.places.len()))
    }
}

fn append(bytes: &mut Vec<u8>, sequence: u32, request: RouteNetlinkMessage, flags: u16) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    request.finalize();
    let start = bytes.len();
    // The next message begins on a boundary of four bytes.
    bytes.resize(start + request.buffer_len().next_multiple_of(4), 0);
    request.serialize(&mut bytes[start..]);
}

/// What the kernel has against a request; nothing if it went well.
fn complaint(message: &NetlinkBuffer<&[u8]>) -> Option<Errno> {
    let error = ErrorBuffer::new_checked(message.payload()).ok()?;
    error.code().map(|code| Errno::from_raw_os_error(code.get().wrapping_neg()))
}

impl Socket {
    /// Does one thing with each entry, in their order. One that fails is tried once more by itself; what fails again
    /// is the result. An error says that it is not known what came of the entries.
    pub(super) async fn carry_out(&mut self, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
        let unknown = |error: io::Error| unknown(verb, entries.len(), &error);
        let places: Vec<usize> = (0..entries.len()).collect();
        let failed = self.requests(verb, entries, &places).await.map_err(unknown)?;
        let mut failures = Vec::new();
        for (place, errno) in failed {
            if is_done(verb, errno) {
                continue;
            }
            METRICS.entries_retried.inc();
            for (place, errno) in self.requests(verb, entries, &[place]).await.map_err(unknown)? {
                if !is_done(verb, errno) {
                    failures.push(Failure { place, error: refusal(format!("{verb} {}", entries[place]), errno) });
                }
            }
        }
        Ok(failures)
    }

    /// The places of the entries the kernel refused.
    async fn requests(&mut self, verb: Verb, entries: &[Entry], places: &[usize]) -> io::Result<Vec<(usize, Errno)>> {
        let flags = match verb {
            Verb::Put => NLM_F_CREATE | NLM_F_REPLACE,
            Verb::Remove => 0,
        };
        let mut failed = Vec::new();
        let mut batch = Batch::default();
        let mut left = places.iter().copied().peekable();
        while let Some(place) = left.next() {
            match message::request(verb, &entries[place]) {
                Some(request) => {
                    METRICS.entry_requests.inc();
                    batch.add(self.next_sequence(), place, request, flags);
                }
                None => failed.push((place, Errno::OPNOTSUPP)),
            }
            if !batch.places.is_empty() && (batch.is_full() || left.peek().is_none()) {
                batch.close();
                self.send(&batch.bytes)?;
                self.answers(&batch, &mut failed).await?;
                batch.bytes.clear();
                batch.places.clear();
                // The lease, the watch and the health server are served by the same thread.
                tokio::task::yield_now().await;
            }
        }
        Ok(failed)
    }

    /// Asks for one thing each; an answer comes with the place of its question. A question the kernel has no answer to
    /// is passed over.
    pub(super) async fn ask(
        &mut self,
        questions: &[RouteNetlinkMessage],
        mut answer: impl FnMut(usize, RouteNetlinkMessage),
    ) -> io::Result<()> {
        for (chunk, questions) in questions.chunks(REQUESTS).enumerate() {
            let mut batch = Batch::default();
            for (place, question) in questions.iter().enumerate() {
                METRICS.reach_requests.inc();
                batch.add(self.next_sequence(), chunk * REQUESTS + place, question.clone(), 0);
            }
            batch.close();
            self.send(&batch.bytes)?;
            let mut done = false;
            while !done {
                for message in self.receive().await? {
                    let Some((place, is_last)) = batch.place_of(message.sequence_number()) else { continue };
                    if message.message_type() == NLMSG_ERROR {
                        done |= is_last;
                    } else if let Some(message) = decode(&message) {
                        answer(place, message);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn answers(&mut self, batch: &Batch, failed: &mut Vec<(usize, Errno)>) -> io::Result<()> {
        loop {
            let mut done = false;
            for message in self.receive().await? {
                let of = batch.place_of(message.sequence_number()).filter(|_| message.message_type() == NLMSG_ERROR);
                let Some((place, is_last)) = of else { continue };
                failed.extend(complaint(&message).map(|errno| (place, errno)));
                done |= is_last;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Reads a table of the kernel, message by message.
    pub(super) async fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        for _ in 0..DUMPS {
            let sequence = self.next_sequence();
            let mut bytes = Vec::new();
            append(&mut bytes, sequence, request.clone(), NLM_F_DUMP);
            METRICS.dump_requests.inc();
            self.send(&bytes)?;
            if self.dumped(sequence, &mut each).await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether nothing changed in between.
    async fn dumped(&mut self, sequence: u32, each: &mut impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut undisturbed = true;
        loop {
            for message in self.receive().await?.filter(|m| m.sequence_number() == sequence) {
                undisturbed &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return complaint(&message).map_or(Ok(undisturbed), |errno| Err(errno.into()));
                    }
                    _ => {}
                }
                if let Some(message) = decode(&message) {
                    each(message);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A message; nothing for one that the library can't read, which is none of ours.
pub(super) fn decode(message: &NetlinkBuffer<&[u8]>) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.message_type();
    RouteNetlinkMessage::deserialize(&header, message.payload()).ok()
}

/// What is to be removed and is not there is as it should be.
fn is_done(verb: Verb, errno: Errno) -> bool {
    let fault = refusal(String::new(), errno).fault;
    matches!(verb, Verb::Remove) && matches!(fault, Fault::NotFound | Fault::NoDevice)
}

/// Not known what came of it.
fn unknown(verb: Verb, count: usize, error: &io::Error) -> KernelError {
    let what = format!("{verb} {count} entries");
    if is_overrun(error) {
        let reason = "the kernel had more to say than was read: comparing all entries".into();
        return KernelError { what, reason, fault: Fault::Overrun };
    }
    KernelError { what, reason: error.to_string(), fault: Fault::Other }
}
