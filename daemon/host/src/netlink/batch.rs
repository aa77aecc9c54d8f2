//! Many requests in few system calls, and reading the kernel's tables.
//!
//! The kernel processes a datagram message by message, so requests take effect in their order. It answers a request that
//! failed, and of the others only one that asks for an acknowledgement: the last of each datagram does, so its answer
//! says that all before it are done and that those without an answer succeeded. Answers that do not fit into the
//! socket's buffer are reported as an overrun; the outcome of those requests is then unknown.

use std::io;

use rtnetlink::packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

use super::socket::Socket;

/// How many requests go into one datagram, and how many bytes at most: some milliseconds of the kernel's time, after
/// which other tasks run, and well within any send buffer.
const BATCH_REQUESTS: usize = 256;
const BATCH_BYTES: usize = 32 << 10;

/// The requests of one datagram.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The sequence number of the first; the others follow.
    first: u32,
    /// The place of each.
    places: Vec<usize>,
    /// Where the last one starts.
    last: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.places.len() >= BATCH_REQUESTS || self.bytes.len() >= BATCH_BYTES
    }

    fn add(&mut self, sequence: u32, place: usize, request: RouteNetlinkMessage, flags: u16) {
        if self.places.is_empty() {
            self.first = sequence;
        }
        self.places.push(place);
        self.last = self.bytes.len();
        append(&mut self.bytes, sequence, request, flags);
    }

    /// Asks for an acknowledgement of the last request.
    fn close(&mut self) {
        let mut last = NetlinkBuffer::new(&mut self.bytes[self.last..]);
        let flags = last.flags() | NLM_F_ACK;
        last.set_flags(flags);
    }

    /// The place of the request that a message answers, and whether it is the last; none for other messages.
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

/// The error of an answer; none if the request succeeded.
fn error_of(message: &NetlinkBuffer<&[u8]>) -> Option<Errno> {
    let error = ErrorBuffer::new_checked(message.payload()).ok()?;
    error.code().map(|code| Errno::from_raw_os_error(code.get().wrapping_neg()))
}

/// What came of a series of requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The places of the requests the kernel refused, and why.
    pub failed: Vec<(usize, Errno)>,
    /// How many datagrams carried the requests.
    pub datagrams: u64,
}

impl Socket {
    /// Sends requests in their order, each with its place. An error says that their outcome is unknown.
    pub async fn request_all(
        &mut self,
        requests: impl IntoIterator<Item = (usize, RouteNetlinkMessage)>,
        flags: u16,
    ) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut batch = Batch::default();
        let mut requests = requests.into_iter().peekable();
        while let Some((place, request)) = requests.next() {
            batch.add(self.next_sequence(), place, request, flags);
            if batch.is_full() || requests.peek().is_none() {
                batch.close();
                self.send(&batch.bytes)?;
                outcome.datagrams += 1;
                self.answers(&batch, &mut outcome.failed).await?;
                batch.bytes.clear();
                batch.places.clear();
                // The lease, the watch and the health server are served by the same thread.
                tokio::task::yield_now().await;
            }
        }
        Ok(outcome)
    }

    /// Makes queries with one answer each, which is passed on with the place of its query. A query that fails has no
    /// answer. Returns the number of datagrams.
    pub async fn query_all(
        &mut self,
        queries: &[RouteNetlinkMessage],
        mut answer: impl FnMut(usize, RouteNetlinkMessage),
    ) -> io::Result<u64> {
        let mut datagrams = 0;
        for (chunk, queries) in queries.chunks(BATCH_REQUESTS).enumerate() {
            let mut batch = Batch::default();
            for (place, query) in queries.iter().enumerate() {
                batch.add(self.next_sequence(), chunk * BATCH_REQUESTS + place, query.clone(), 0);
            }
            batch.close();
            self.send(&batch.bytes)?;
            datagrams += 1;
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
        Ok(datagrams)
    }

    async fn answers(&mut self, batch: &Batch, failed: &mut Vec<(usize, Errno)>) -> io::Result<()> {
        loop {
            let mut done = false;
            for message in self.receive().await? {
                let of = batch.place_of(message.sequence_number()).filter(|_| message.message_type() == NLMSG_ERROR);
                let Some((place, is_last)) = of else { continue };
                failed.extend(error_of(&message).map(|errno| (place, errno)));
                done |= is_last;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Reads a table of the kernel, message by message. False if the table changed meanwhile, so that entries may be
    /// missing or listed twice: the kernel says so by `NLM_F_DUMP_INTR` in any message, the last included.
    pub async fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        if self.dumping {
            self.drain();
        }
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        append(&mut bytes, sequence, request.clone(), NLM_F_DUMP);
        self.dumping = true;
        self.send(&bytes)?;
        let mut progress = Progress { complete: true, done: false };
        while !progress.done {
            for message in self.receive().await?.filter(|m| m.sequence_number() == sequence) {
                if let Some(entry) = progress.take(&message)? {
                    each(entry);
                }
            }
            tokio::task::yield_now().await;
        }
        self.dumping = false;
        Ok(progress.complete)
    }
}

/// How far a dump is.
struct Progress {
    complete: bool,
    done: bool,
}

impl Progress {
    /// The entry of a message, if it has one that the library can read.
    fn take(&mut self, message: &NetlinkBuffer<&[u8]>) -> io::Result<Option<RouteNetlinkMessage>> {
        self.complete &= message.flags() & NLM_F_DUMP_INTR == 0;
        if !matches!(message.message_type(), NLMSG_DONE | NLMSG_ERROR) {
            return Ok(decode(message));
        }
        self.done = true;
        error_of(message).map_or(Ok(None), |errno| Err(errno.into()))
    }
}

/// A decoded message; none for one that the library cannot read, which is not of a kind we install.
pub fn decode(message: &NetlinkBuffer<&[u8]>) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.message_type();
    RouteNetlinkMessage::deserialize(&header, message.payload()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a dump with nothing in it, as far as its header matters.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = 16 + payload.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes
    }

    fn read(messages: &[Vec<u8>]) -> io::Result<Progress> {
        let mut progress = Progress { complete: true, done: false };
        for bytes in messages {
            assert!(!progress.done);
            progress.take(&NetlinkBuffer::new(bytes.as_slice()))?;
        }
        Ok(progress)
    }

    /// `RTM_NEWROUTE` of linux/rtnetlink.h.
    const ROUTE: u16 = 24;

    #[test]
    fn a_dump_is_complete_only_without_the_interruption_flag() {
        let done = |flags| message(NLMSG_DONE, flags, &[0; 4]);
        let route = |flags| message(ROUTE, flags, &[0; 12]);
        let whole = read(&[route(0), route(0), done(0)]).unwrap();
        assert!(whole.done && whole.complete);
        for interrupted in [[route(NLM_F_DUMP_INTR), route(0), done(0)], [route(0), route(0), done(NLM_F_DUMP_INTR)]] {
            let progress = read(&interrupted).unwrap();
            assert!(progress.done && !progress.complete);
        }
        assert!(!read(&[route(0)]).unwrap().done);
    }

    /// What the kernel answers a dump that comes while another one on the same socket still runs.
    #[test]
    fn a_refused_dump_is_an_error() {
        let busy = message(NLMSG_ERROR, 0, &(-Errno::BUSY.raw_os_error()).to_ne_bytes());
        let error = read(&[busy]).map(|_| ()).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY));
    }
}
