//! What the daemon counts, for `/metrics` of the health server in the OpenMetrics text format.
//!
//! One table for the process: a counter is a place, not a message, and the packet path must not pay for more than an
//! atomic addition.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Once more; gives the new count.
    pub fn inc(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// A number as it is now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// From now on it is this.
    pub fn set(&self, value: usize) {
        self.0.store(u64::try_from(value).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The table; each line of [`Metrics::render`] says what a field means.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts in `render` are the documentation, for readers of /metrics too")]
pub struct Metrics {
    pub ready: Gauge,
    pub leases: Gauge,
    pub leases_unusable: Gauge,
    pub entries: Gauge,
    pub entries_failed: Gauge,
    pub entries_put: Counter,
    pub entries_removed: Counter,
    pub entries_retried: Counter,
    pub entries_unknown: Counter,
    pub entry_requests: Counter,
    pub reach_requests: Counter,
    pub dump_requests: Counter,
    pub datagrams: Counter,
    pub notifications_lost: Counter,
    pub etcd_calls: Counter,
    pub looks: Counter,
    pub device_repairs: Counter,
    pub rule_repairs: Counter,
    pub renewals: Counter,
    pub renewal_failures: Counter,
    pub watch_restarts: Counter,
    pub undecodable: Counter,
    pub udp_sent: Traffic,
    pub udp_received: Traffic,
    pub udp_sent_together: Counter,
    pub udp_received_together: Counter,
    pub udp_split: Counter,
    pub udp_not_a_packet: Counter,
    pub udp_foreign_host: Counter,
    pub udp_foreign_source: Counter,
    pub udp_no_lease: Counter,
    pub udp_ttl: Counter,
    pub udp_send_failed: Counter,
    pub udp_receive_failed: Counter,
    pub udp_device_refused: Counter,
}

/// Packets and their bytes in one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    packets: Counter,
    bytes: Counter,
}

impl Traffic {
    const fn new() -> Self {
        Self { packets: Counter::new(), bytes: Counter::new() }
    }

    /// So many packets more, of so many bytes together.
    pub fn add(&self, packets: usize, bytes: usize) {
        self.packets.add(u64::try_from(packets).unwrap_or(0));
        self.bytes.add(u64::try_from(bytes).unwrap_or(0));
    }
}

/// The daemon's table.
pub static METRICS: Metrics = Metrics {
    ready: Gauge::new(),
    leases: Gauge::new(),
    leases_unusable: Gauge::new(),
    entries: Gauge::new(),
    entries_failed: Gauge::new(),
    entries_put: Counter::new(),
    entries_removed: Counter::new(),
    entries_retried: Counter::new(),
    entries_unknown: Counter::new(),
    entry_requests: Counter::new(),
    reach_requests: Counter::new(),
    dump_requests: Counter::new(),
    datagrams: Counter::new(),
    notifications_lost: Counter::new(),
    etcd_calls: Counter::new(),
    looks: Counter::new(),
    device_repairs: Counter::new(),
    rule_repairs: Counter::new(),
    renewals: Counter::new(),
    renewal_failures: Counter::new(),
    watch_restarts: Counter::new(),
    undecodable: Counter::new(),
    udp_sent: Traffic::new(),
    udp_received: Traffic::new(),
    udp_sent_together: Counter::new(),
    udp_received_together: Counter::new(),
    udp_split: Counter::new(),
    udp_not_a_packet: Counter::new(),
    udp_foreign_host: Counter::new(),
    udp_foreign_source: Counter::new(),
    udp_no_lease: Counter::new(),
    udp_ttl: Counter::new(),
    udp_send_failed: Counter::new(),
    udp_receive_failed: Counter::new(),
    udp_device_refused: Counter::new(),
};

/// What `/metrics` calls its content.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        let mut page = Page(String::new());
        let version = env!("CARGO_PKG_VERSION");
        page.family("flannel_build", "info", "The daemon.");
        page.line(&format!("flannel_build_info{{version=\"{version}\"}}"), 1);
        page.gauge("flannel_ready", "1 when subnet.env is written.", &self.ready);
        page.gauge("flannel_remote_leases", "Leases of other hosts.", &self.leases);
        page.gauge("flannel_unusable_leases", "Leases of other hosts that can't be connected.", &self.leases_unusable);
        page.gauge("flannel_entries", "Routes, neighbours, FDB records and tunnels in force.", &self.entries);
        page.gauge("flannel_entries_failed", "Entries that could not be put or removed.", &self.entries_failed);
        page.counter("flannel_entries_put", "Entries put or replaced.", &[("", &self.entries_put)]);
        page.counter("flannel_entries_removed", "Entries removed.", &[("", &self.entries_removed)]);
        page.counter(
            "flannel_entries_retried",
            "Entries tried once more by themselves.",
            &[("", &self.entries_retried)],
        );
        let unknown = [("", &self.entries_unknown)];
        page.counter("flannel_entries_unknown", "Times the kernel's answers were lost to an overrun.", &unknown);
        let requests = [
            ("what=\"entry\"", &self.entry_requests),
            ("what=\"reach\"", &self.reach_requests),
            ("what=\"table\"", &self.dump_requests),
        ];
        page.counter("flannel_kernel_requests", "Requests about entries to the kernel.", &requests);
        let datagrams = [("", &self.datagrams)];
        page.counter("flannel_kernel_datagrams", "Datagrams that brought the kernel these requests.", &datagrams);
        page.counter(
            "flannel_kernel_notifications_lost",
            "Times the kernel told more than was read: all entries are compared.",
            &[("", &self.notifications_lost)],
        );
        page.counter("flannel_etcd_calls", "Calls of etcd; a watch is one.", &[("", &self.etcd_calls)]);
        page.counter("flannel_comparisons", "Comparisons of all entries with the kernel.", &[("", &self.looks)]);
        let repairs = [("what=\"device\"", &self.device_repairs), ("what=\"rules\"", &self.rule_repairs)];
        page.counter("flannel_repairs", "Changes by other programs that were put right.", &repairs);
        page.counter("flannel_lease_renewals", "Renewals of the own lease.", &[("", &self.renewals)]);
        page.counter("flannel_lease_renewal_failures", "Renewals that failed.", &[("", &self.renewal_failures)]);
        page.counter("flannel_watch_restarts", "Times the watch of etcd broke.", &[("", &self.watch_restarts)]);
        let undecodable = [("", &self.undecodable)];
        page.counter("flannel_undecodable", "Keys and values in etcd that are no lease.", &undecodable);
        let packets = [("direction=\"out\"", &self.udp_sent.packets), ("direction=\"in\"", &self.udp_received.packets)];
        page.counter("flannel_udp_packets", "Packets the udp proxy carried.", &packets);
        let bytes = [("direction=\"out\"", &self.udp_sent.bytes), ("direction=\"in\"", &self.udp_received.bytes)];
        page.counter("flannel_udp_bytes", "Bytes of those packets, IP header included.", &bytes);
        let together =
            [("direction=\"out\"", &self.udp_sent_together), ("direction=\"in\"", &self.udp_received_together)];
        page.counter("flannel_udp_offloaded", "Packets that shared a system call with others.", &together);
        let split = [("", &self.udp_split)];
        page.counter("flannel_udp_split_groups", "Groups of datagrams the kernel sent only apart.", &split);
        let drops = [
            ("reason=\"not_a_packet\"", &self.udp_not_a_packet),
            ("reason=\"foreign_host\"", &self.udp_foreign_host),
            ("reason=\"foreign_source\"", &self.udp_foreign_source),
            ("reason=\"no_lease\"", &self.udp_no_lease),
            ("reason=\"ttl\"", &self.udp_ttl),
            ("reason=\"send_failed\"", &self.udp_send_failed),
            ("reason=\"receive_failed\"", &self.udp_receive_failed),
            ("reason=\"device_refused\"", &self.udp_device_refused),
        ];
        page.counter("flannel_udp_drops", "Packets the udp proxy could not pass on.", &drops);
        page.0.push_str("# EOF\n");
        page.0
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}\n").expect("a String takes every write");
    }

    fn line(&mut self, sample: &str, value: u64) {
        writeln!(self.0, "{sample} {value}").expect("a String takes every write");
    }

    fn gauge(&mut self, name: &str, help: &str, gauge: &Gauge) {
        self.family(name, "gauge", help);
        self.line(name, gauge.0.load(Ordering::Relaxed));
    }

    fn counter(&mut self, name: &str, help: &str, counters: &[(&str, &Counter)]) {
        self.family(name, "counter", help);
        for (labels, counter) in counters {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            self.line(&format!("{name}_total{labels}"), counter.0.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of the format that a scraper trips over: type and help before the samples of a family, each family
    /// once, counters end in `_total`, the last line is `# EOF`.
    #[test]
    fn the_page_is_open_metrics() {
        METRICS.udp_sent.add(1, 1472);
        let page = METRICS.render();
        assert!(page.ends_with("# EOF\n"));
        let mut family = (String::new(), String::new());
        let mut seen = std::collections::BTreeSet::new();
        for line in page.lines().filter(|l| *l != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(seen.insert(name.to_owned()), "{name} twice");
                family = (name.to_owned(), kind.to_owned());
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.starts_with(&family.0), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                value.parse::<u64>().unwrap();
                let name = sample.split('{').next().unwrap();
                let suffix = match family.1.as_str() {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                assert_eq!(name, format!("{}{suffix}", family.0), "{line}");
            }
        }
        assert!(page.contains("flannel_udp_bytes_total{direction=\"out\"} 1472\n"));
    }
}
