//! Entries in batches to the kernel: how thousands of them are installed or removed in few system calls.

use std::io;

use flannel_core::entry::Entry;
use flannel_host::netlink::socket::{Socket, is_overrun};
use flannel_host::netlink::{io_error, refusal};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rustix::io::Errno;

use super::{Failure, Fault, KernelError, Verb, message};
use crate::metrics::METRICS;

/// Installs or removes entries, in their order. One that fails is tried once more by itself; what fails again is the
/// result. An error says that the outcome is unknown.
pub(super) async fn install(socket: &mut Socket, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
    let unknown = |error: io::Error| unknown(verb, entries.len(), &error);
    let places: Vec<usize> = (0..entries.len()).collect();
    let failed = request(socket, verb, entries, &places).await.map_err(unknown)?;
    let mut failures = Vec::new();
    for (place, errno) in failed {
        if is_done(verb, errno) {
            continue;
        }
        METRICS.entries_retried.inc();
        for (place, errno) in request(socket, verb, entries, &[place]).await.map_err(unknown)? {
            if !is_done(verb, errno) {
                failures.push(Failure { place, error: refusal(format!("{verb} {}", entries[place]), errno) });
            }
        }
    }
    Ok(failures)
}

/// The places of the entries the kernel refused.
async fn request(
    socket: &mut Socket,
    verb: Verb,
    entries: &[Entry],
    places: &[usize],
) -> io::Result<Vec<(usize, Errno)>> {
    let flags = match verb {
        Verb::Put => NLM_F_CREATE | NLM_F_REPLACE,
        Verb::Remove => 0,
    };
    let mut unsupported = Vec::new();
    let requests = places.iter().filter_map(|place| {
        let request = message::request(verb, &entries[*place]);
        match &request {
            Some(_) => _ = METRICS.entry_requests.inc(),
            None => unsupported.push((*place, Errno::OPNOTSUPP)),
        }
        Some((*place, request?))
    });
    let outcome = socket.request_all(requests, flags).await?;
    METRICS.datagrams.add(outcome.datagrams);
    unsupported.extend(outcome.failed);
    Ok(unsupported)
}

/// Removing what does not exist is a success.
fn is_done(verb: Verb, errno: Errno) -> bool {
    let fault = refusal(String::new(), errno).fault;
    matches!(verb, Verb::Remove) && matches!(fault, Fault::NotFound | Fault::NoDevice)
}

/// The outcome of these requests is not known.
fn unknown(verb: Verb, count: usize, error: &io::Error) -> KernelError {
    let what = format!("{verb} {count} entries");
    if is_overrun(error) {
        let reason = "the kernel dropped answers: comparing all entries".into();
        return KernelError { what, reason, fault: Fault::Overrun };
    }
    io_error(what, error)
}
