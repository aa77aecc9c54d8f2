//! `/metrics` of a running daemon: a scraper can read it, and it counts what happened.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::support::*;

const PORT: u16 = 8081;

/// The samples by name and labels. Fails on what a scraper would stumble over.
fn scrape(host: &Host) -> Result<BTreeMap<String, f64>> {
    let (status, page) = http_get(host, Ipv4Addr::LOCALHOST, PORT, "/metrics")?;
    expect(status == 200, || format!("{status}: {page}"))?;
    let body = page.strip_suffix("# EOF\n").context(|| format!("no # EOF at the end: {page}"))?;
    let mut samples = BTreeMap::new();
    let mut families = BTreeMap::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context(|| line.to_owned())?;
            let before = families.insert(name.to_owned(), kind.to_owned());
            expect(before.is_none(), || format!("{name} has two types"))?;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').context(|| line.to_owned())?;
        let name = sample.split('{').next().unwrap_or_default();
        let known = |suffix: &str| name.strip_suffix(suffix).is_some_and(|n| families.contains_key(n));
        expect(known("") || known("_total") || known("_info"), || format!("no TYPE before {line}"))?;
        let value: f64 = value.parse().context(|| line.to_owned())?;
        expect(samples.insert(sample.to_owned(), value).is_none(), || format!("{sample} twice"))?;
    }
    Ok(samples)
}

fn becomes(host: &Host, sample: &str, good: impl Fn(f64) -> bool) -> Result<f64> {
    eventually(&format!("{sample} as wanted"), SOON, || {
        let all = scrape(host)?;
        let value = *all.get(sample).context(|| format!("no {sample} in {all:#?}"))?;
        expect(good(value), || format!("{sample} is {value}"))?;
        Ok(value)
    })
}

#[test]
fn leases_entries_and_repairs_are_counted() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-healthz-port=8081", "-iptables-resync=1", "-ip-masq"])?;
        becomes(host, "flannel_ready", |n| n == 1.0)?;
        becomes(host, "flannel_remote_leases", |n| n == 0.0)?;
        absent_vxlan_hosts(lab, 200..205)?;
        becomes(host, "flannel_remote_leases", |n| n == 5.0)?;
        becomes(host, "flannel_entries", |n| n == 15.0)?;
        becomes(host, "flannel_entries_put_total", |n| n >= 15.0)?;
        // One that can't be used, one that can't be read.
        lab.etcd().put(&format!("{SUBNETS}10.5.210.0-24"), r#"{"PublicIP":"172.31.77.9","BackendType":"vxlan"}"#)?;
        becomes(host, "flannel_unusable_leases", |n| n == 1.0)?;
        let undecodable = becomes(host, "flannel_undecodable_total", |_| true)?;
        lab.etcd().put(&format!("{SUBNETS}nonsense"), "nonsense")?;
        becomes(host, "flannel_undecodable_total", |n| n > undecodable)?;
        lab.etcd().delete(&format!("{SUBNETS}10.5.200.0-24"))?;
        becomes(host, "flannel_entries", |n| n == 12.0)?;
        becomes(host, "flannel_entries_removed_total", |n| n >= 3.0)?;
        // Repairs by kind.
        let device = r#"flannel_repairs_total{what="device"}"#;
        let rules = r#"flannel_repairs_total{what="rules"}"#;
        let (devices, rule_repairs) = (becomes(host, device, |_| true)?, becomes(host, rules, |_| true)?);
        host.ip("link del flannel.1")?;
        becomes(host, device, |n| n > devices)?;
        host.exec("iptables -w -F FLANNEL-FWD")?;
        becomes(host, rules, |n| n > rule_repairs)?;
        // A renewal: the own key was removed.
        let renewals = becomes(host, "flannel_lease_renewals_total", |_| true)?;
        lab.etcd().delete(&daemon.ready()?.key())?;
        becomes(host, "flannel_lease_renewals_total", |n| n > renewals)?;
        let restarts = becomes(host, "flannel_watch_restarts_total", |_| true)?;
        lab.etcd().stop()?;
        becomes(host, "flannel_watch_restarts_total", |n| n > restarts).map(drop)
    });
}

#[test]
fn packets_of_udp_are_counted_by_direction_and_reason() {
    lab(2, &plain("udp")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-healthz-port=8081"])?;
        lab.host(2).up(FLANNELD, &[])?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(60))?;
        let before = scrape(host)?;
        one.ping(two.address(), 20)?.all_answered(60)?;
        let after = scrape(host)?;
        let more = |sample: &str| after.get(sample).unwrap_or(&0.0) - before.get(sample).unwrap_or(&0.0);
        for direction in ["in", "out"] {
            assert_eq!(more(&format!(r#"flannel_udp_packets_total{{direction="{direction}"}}"#)), 20.0, "{after:#?}");
            // 56 bytes of payload with ICMP and IP headers.
            assert_eq!(more(&format!(r#"flannel_udp_bytes_total{{direction="{direction}"}}"#)), 20.0 * 84.0);
        }
        // For a subnet nobody has.
        let nobody = if two.address().octets()[2] == 250 { "10.5.251.9" } else { "10.5.250.9" };
        let report = Ping::once(&one, one.directory(), &format!("-i 0.02 -c 3 -W 0.2 {nobody}"))?;
        report.none_answered()?;
        becomes(host, r#"flannel_udp_drops_total{reason="no_lease"}"#, |n| n >= 3.0)?;
        let report = Ping::once(&one, one.directory(), &format!("-t 2 -c 2 -i 0.02 -W 0.2 {}", two.address()))?;
        report.none_answered()?;
        becomes(host, r#"flannel_udp_drops_total{reason="ttl"}"#, |n| n >= 1.0).map(drop)
    });
}
