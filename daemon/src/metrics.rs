//! What the daemon counts, for `/metrics` of the health server.

use flannel_host::metrics::{Sample, render};

#[rustfmt::skip]
flannel_host::metrics! {
    ready: Gauge = "flannel_ready", "1 when subnet.env is written.";
    leases: Gauge = "flannel_remote_leases", "Leases of other hosts.";
    leases_unusable: Gauge = "flannel_unusable_leases", "Leases of other hosts that cannot be connected.";
    entries: Gauge = "flannel_entries", "Installed routes, neighbours, FDB entries and tunnels.";
    entries_failed: Gauge = "flannel_entries_failed", "Entries that could not be installed or removed.";
    entries_put: Counter = "flannel_entries_put", "Entries installed or replaced.";
    entries_removed: Counter = "flannel_entries_removed", "Entries removed.";
    entries_retried: Counter = "flannel_entries_retried", "Entries retried one by one after a failed batch.";
    entries_unknown: Counter = "flannel_entries_unknown", "Batches whose result was lost to a socket overrun.";
    entry_requests: Counter = "flannel_kernel_requests" ["what=\"entry\""], "Netlink requests about entries.";
    reach_requests: Counter = "flannel_kernel_requests" ["what=\"reach\""], "Route lookups for other hosts' addresses.";
    dump_requests: Counter = "flannel_kernel_requests" ["what=\"table\""], "Dumps of a kernel table.";
    datagrams: Counter = "flannel_kernel_datagrams", "Netlink datagrams that carried these requests.";
    notifications_lost: Counter = "flannel_kernel_notifications_lost", "Overruns of the notification socket; each is followed by a full comparison.";
    comparisons: Counter = "flannel_comparisons", "Comparisons of all entries with the kernel.";
    device_repairs: Counter = "flannel_repairs" ["what=\"device\""], "Repairs after changes made by other programs.";
    rule_repairs: Counter = "flannel_repairs" ["what=\"rules\""], "Repairs of packet-filter rules.";
    renewals: Counter = "flannel_lease_renewals", "Renewals of the own lease.";
    renewal_failures: Counter = "flannel_lease_renewal_failures", "Renewals that failed.";
    udp_sent_packets: Counter = "flannel_udp_packets" ["direction=\"out\""], "Packets the udp proxy carried.";
    udp_received_packets: Counter = "flannel_udp_packets" ["direction=\"in\""], "Packets the udp proxy received.";
    udp_sent_bytes: Counter = "flannel_udp_bytes" ["direction=\"out\""], "Bytes of those packets, IP header included.";
    udp_received_bytes: Counter = "flannel_udp_bytes" ["direction=\"in\""], "Bytes of packets received.";
    udp_sent_together: Counter = "flannel_udp_offloaded" ["direction=\"out\""], "Packets that shared a system call with others.";
    udp_received_together: Counter = "flannel_udp_offloaded" ["direction=\"in\""], "Packets received together with others.";
    udp_split: Counter = "flannel_udp_split_groups", "Datagram batches the kernel accepted only one by one.";
    udp_not_a_packet: Counter = "flannel_udp_drops" ["reason=\"not_a_packet\""], "Packets the udp proxy dropped.";
    udp_foreign_host: Counter = "flannel_udp_drops" ["reason=\"foreign_host\""], "From a host without a lease.";
    udp_foreign_source: Counter = "flannel_udp_drops" ["reason=\"foreign_source\""], "From a source outside the sender's subnet.";
    udp_no_lease: Counter = "flannel_udp_drops" ["reason=\"no_lease\""], "To a destination without a lease.";
    udp_ttl: Counter = "flannel_udp_drops" ["reason=\"ttl\""], "TTL expired.";
    udp_send_failed: Counter = "flannel_udp_drops" ["reason=\"send_failed\""], "The socket refused the datagram.";
    udp_receive_failed: Counter = "flannel_udp_drops" ["reason=\"receive_failed\""], "The socket failed to receive.";
    udp_device_refused: Counter = "flannel_udp_drops" ["reason=\"device_refused\""], "The TUN device refused the packet.";
}

impl Metrics {
    /// Counts packets the udp proxy sent.
    pub fn udp_sent(&self, packets: usize, bytes: usize) {
        self.udp_sent_packets.add(u64::try_from(packets).unwrap_or(0));
        self.udp_sent_bytes.add(u64::try_from(bytes).unwrap_or(0));
    }

    /// Counts packets the udp proxy received.
    pub fn udp_received(&self, packets: usize, bytes: usize) {
        self.udp_received_packets.add(u64::try_from(packets).unwrap_or(0));
        self.udp_received_bytes.add(u64::try_from(bytes).unwrap_or(0));
    }
}

/// The text of `/metrics`: the version, this table, and the etcd client's.
pub fn page() -> String {
    let build = Sample {
        family: "flannel_build",
        kind: "info",
        labels: concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
        help: "The daemon.",
        value: 1,
    };
    let tables = METRICS.samples().into_iter().chain(flannel_store::metrics::METRICS.samples());
    render([build].into_iter().chain(tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of the format that a scraper trips over: type and help before the samples of a family, each family
    /// once, counters end in `_total`, the last line is `# EOF`.
    #[test]
    fn the_page_is_open_metrics() {
        METRICS.udp_sent(1, 1472);
        let page = page();
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
