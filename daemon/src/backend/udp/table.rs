//! Which host a packet goes to: the longest prefix of its destination, read on the packet path without a lock.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use flannel_core::ipnet::Ipv4Net;

/// The tunnels in force; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tunnels(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    hosts: ArcSwap<Hosts>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Unknown,
    Known,
    Ended,
}

impl Tunnels {
    /// Puts these tunnels in the place of all earlier ones.
    pub fn replace(&self, tunnels: impl IntoIterator<Item = (Ipv4Net, Ipv4Addr)>) {
        self.0.hosts.store(Arc::new(Hosts::new(tunnels.into_iter().collect())));
    }

    /// From now on the tunnels are those of all leases. Before, packets wait: those of a daemon started again would be
    /// refused otherwise.
    pub fn open(&self) {
        let mut state = self.state();
        if *state == State::Unknown {
            *state = State::Known;
            self.0.changed.notify_all();
        }
    }

    /// Nobody is to wait any more.
    pub fn end(&self) {
        *self.state() = State::Ended;
        self.0.changed.notify_all();
    }

    /// Waits until the leases are known; false if that is not to come.
    pub fn wait(&self) -> bool {
        let waiting = self.0.changed.wait_while(self.state(), |state| *state == State::Unknown);
        *waiting.unwrap_or_else(PoisonError::into_inner) == State::Known
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tunnels as they are now, for the packets of one batch.
    pub fn now(&self) -> impl Deref<Target = Hosts> + use<> {
        // Arcs are counted by one cache line, and a batch is many packets.
        self.0.hosts.load_full()
    }
}

/// The most places of the index.
const PLACES: usize = 8192;

/// The address space as ranges of one host (or none) each, found through an index by the address's leading bits: as
/// quick with 5,000 leases as with five.
#[derive(Debug, Default)]
pub struct Hosts {
    /// The first address of each range, ascending.
    starts: Vec<u32>,
    /// The host of each range.
    hosts: Vec<Option<Ipv4Addr>>,
    /// The range in which each place of the index begins.
    index: Vec<u32>,
    /// How many low bits of an address the index leaves out.
    shift: u32,
    /// All hosts, ascending.
    known: Vec<Ipv4Addr>,
}

impl Hosts {
    fn new(mut tunnels: Vec<(Ipv4Net, Ipv4Addr)>) -> Self {
        // Outer prefixes before the ones inside of them.
        tunnels.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
        let mut known: Vec<Ipv4Addr> = tunnels.iter().map(|(_, host)| *host).collect();
        known.sort_unstable();
        known.dedup();
        let mut hosts = Self { known, ..Self::default() };
        // The prefixes around the current address: where each ends, and its host.
        let mut around: Vec<(u32, Ipv4Addr)> = Vec::new();
        for (net, host) in tunnels {
            let start = net.network().to_bits();
            hosts.leave(&mut around, Some(start));
            hosts.put(start, Some(host));
            around.push((net.broadcast().to_bits(), host));
        }
        hosts.leave(&mut around, None);
        hosts.make_index();
        hosts
    }

    /// Ends the prefixes that end before `next`.
    fn leave(&mut self, around: &mut Vec<(u32, Ipv4Addr)>, next: Option<u32>) {
        while let Some((end, _)) = around.last().copied().filter(|(end, _)| next.is_none_or(|next| *end < next)) {
            around.pop();
            if let Some(behind) = end.checked_add(1) {
                self.put(behind, around.last().map(|(_, host)| *host));
            }
        }
    }

    fn put(&mut self, start: u32, host: Option<Ipv4Addr>) {
        // A range that begins where the last one did takes its place.
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.hosts.pop();
        }
        self.starts.push(start);
        self.hosts.push(host);
    }

    fn make_index(&mut self) {
        let (Some(first), Some(last)) = (self.starts.first(), self.starts.last()) else { return };
        let span = last - first;
        while usize::try_from(span >> self.shift).is_ok_and(|place| place >= PLACES) {
            self.shift += 1;
        }
        let mut range = 0;
        for place in 0..=span >> self.shift {
            let start = first + (place << self.shift);
            while self.starts.get(range + 1).is_some_and(|next| *next <= start) {
                range += 1;
            }
            self.index.push(u32::try_from(range).unwrap_or(u32::MAX));
        }
    }

    /// Whether any tunnel leads to this host.
    pub fn has(&self, host: Ipv4Addr) -> bool {
        self.known.binary_search(&host).is_ok()
    }

    /// The host that has the subnet of this address.
    pub fn host_of(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let address = address.to_bits();
        let offset = address.checked_sub(*self.starts.first()?)?;
        let place = usize::try_from(offset >> self.shift).ok()?;
        let at = |place: usize| self.index.get(place).and_then(|range| usize::try_from(*range).ok());
        let last = self.starts.len() - 1;
        let (from, to) = (at(place).unwrap_or(last), at(place + 1).unwrap_or(last));
        // The last range that begins at or before the address.
        let behind = self.starts[from..=to].partition_point(|start| *start <= address);
        self.hosts.get((from + behind).checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_replacing_forgets() {
        let tunnels = Tunnels::default();
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 1, 1)), None);
        let host = |n| Ipv4Addr::new(192, 0, 2, n);
        tunnels.replace([(net("10.5.0.0/16"), host(1)), (net("10.5.1.0/24"), host(2)), (net("0.0.0.0/0"), host(3))]);
        let now = tunnels.now();
        assert_eq!(now.host_of(Ipv4Addr::new(10, 5, 1, 255)), Some(host(2)));
        assert_eq!(now.host_of(Ipv4Addr::new(10, 5, 2, 0)), Some(host(1)));
        assert_eq!(now.host_of(Ipv4Addr::new(10, 6, 0, 0)), Some(host(3)));
        assert_eq!(now.host_of(Ipv4Addr::BROADCAST), Some(host(3)));
        tunnels.replace([(net("10.5.3.0/24"), host(4))]);
        // Who has begun a batch ends it with what it began with.
        assert_eq!(now.host_of(Ipv4Addr::new(10, 5, 1, 1)), Some(host(2)));
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 1, 1)), None);
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 3, 1)), Some(host(4)));
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 4, 0)), None);
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 2, 255)), None);
    }

    #[test]
    fn who_waits_goes_on_when_the_leases_are_known_or_never_will_be() {
        for (known, tunnels) in [(true, Tunnels::default()), (false, Tunnels::default())] {
            let waiting = tunnels.clone();
            let thread = std::thread::spawn(move || waiting.wait());
            if known {
                tunnels.open();
            } else {
                tunnels.end();
            }
            assert_eq!(thread.join().unwrap(), known);
            tunnels.open();
            assert_eq!(tunnels.wait(), known);
        }
    }

    /// The longest prefix that contains the address, by looking at all of them.
    fn naive(tunnels: &[(Ipv4Net, Ipv4Addr)], address: Ipv4Addr) -> Option<Ipv4Addr> {
        let fitting = tunnels.iter().filter(|(net, _)| net.contains(&address));
        fitting.max_by_key(|(net, _)| net.prefix_len()).map(|(_, host)| *host)
    }

    #[test]
    fn whatever_the_prefixes_it_finds_what_a_search_of_all_finds() {
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..300 {
            let (shortest, spread) = [(0, u32::MAX), (8, u32::MAX), (16, 0x00ff_ffff), (20, 0xffff)][round % 4];
            let base = 0x0a05_0000;
            let mut tunnels: Vec<(Ipv4Net, Ipv4Addr)> = (0..random.usize(0..60))
                .map(|_| {
                    let address = Ipv4Addr::from_bits(base ^ (random.u32(..) & spread));
                    let net = Ipv4Net::new(address, random.u8(shortest..=32)).unwrap().trunc();
                    (net, Ipv4Addr::from_bits(random.u32(..)))
                })
                .collect();
            tunnels.sort_by_key(|(net, _)| *net);
            tunnels.dedup_by_key(|(net, _)| *net);
            let hosts = Hosts::new(tunnels.clone());
            let edges = tunnels.iter().flat_map(|(net, _)| {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            let some: Vec<u32> = (0..100).map(|_| base ^ (random.u32(..) & spread)).collect();
            for bits in edges.chain(some).chain([0, u32::MAX]) {
                let address = Ipv4Addr::from_bits(bits);
                assert_eq!(hosts.host_of(address), naive(&tunnels, address), "{address} of {tunnels:?}");
            }
        }
    }

    #[test]
    fn five_thousand_leases_are_told_apart() {
        let leases: Vec<_> = (0..5000_u32)
            .map(|n| (Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 + (n << 8)), 24).unwrap(), Ipv4Addr::from_bits(n)))
            .collect();
        let hosts = Hosts::new(leases.clone());
        for (net, host) in leases {
            assert_eq!(hosts.host_of(net.broadcast()), Some(host));
        }
        assert!(hosts.index.len() <= PLACES);
    }
}
