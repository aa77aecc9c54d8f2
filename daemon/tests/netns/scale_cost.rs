//! What thousands of hosts cost one of them, counted by work and not by time: requests to the kernel, calls of etcd,
//! memory.

use std::path::Path;
use std::time::Duration;

use crate::crowd::{CONFIG, Crowd, PATIENCE, base};
use crate::support::*;

const HOSTS: u32 = 2500;
/// How many hosts a network's daemon must have room for in [`MOST`].
const MANY: u32 = 5000;
/// In KiB: 20 MiB, as people run it. A debug build takes some more.
const MOST: u64 = 20 * 1024;

/// What a daemon asked so far; without the tables it reads when it compares, which come when they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Work {
    requests: u64,
    datagrams: u64,
    etcd_calls: u64,
}

impl Work {
    fn so_far(host: &Host) -> Result<Self> {
        let [entries, tables, datagrams, etcd_calls] = samples(
            host,
            [
                r#"flannel_kernel_requests_total{what="entry"}"#,
                r#"flannel_kernel_requests_total{what="table"}"#,
                "flannel_kernel_datagrams_total",
                "flannel_etcd_calls_total",
            ],
        )?;
        // A table is asked for by a datagram of its own.
        Ok(Self { requests: entries, datagrams: datagrams - tables, etcd_calls })
    }

    /// What `changes` cost: all of it is done when the crowd stands.
    fn of(host: &Host, changes: impl FnOnce() -> Result<()>) -> Result<Self> {
        let before = Self::so_far(host)?;
        changes()?;
        let after = Self::so_far(host)?;
        Ok(Self {
            requests: after.requests - before.requests,
            datagrams: after.datagrams - before.datagrams,
            etcd_calls: after.etcd_calls - before.etcd_calls,
        })
    }
}

#[test]
fn a_change_costs_what_changed() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        let mut crowd = Crowd::new(0..HOSTS);
        crowd.write_all(lab)?;
        host.up(FLANNELD, &["-healthz-port=8081"])?;
        crowd.stands(host)?;
        let start = Work::so_far(host)?;
        assert_eq!(start.requests, u64::from(HOSTS) * 3);
        assert!(start.datagrams <= u64::from(HOSTS) * 3 / 256 + 1, "{start:?}");
        // The config, three pages of leases, the own lease, the watch.
        assert_eq!(start.etcd_calls, 6);

        let one = Work { requests: 3, datagrams: 1, etcd_calls: 0 };
        let join = Work::of(host, || {
            crowd.lives.insert(HOSTS, 0);
            crowd.write(lab, [HOSTS])?;
            crowd.stands(host)
        })?;
        assert_eq!(join, one);
        let leave = Work::of(host, || {
            crowd.lives.remove(&HOSTS);
            crowd.write(lab, [HOSTS])?;
            crowd.stands(host)
        })?;
        assert_eq!(leave, one);
        // All renew, and one joins so that it is seen when the daemon has read it all.
        let renewals = Work::of(host, || {
            crowd.write_all(lab)?;
            crowd.lives.insert(HOSTS, 7);
            crowd.write(lab, [HOSTS])?;
            crowd.stands(host)
        })?;
        assert_eq!(renewals, one);
        // What the kernel tells of our own changes is no reason to look at everything. After one comparison of so much the
        // next by itself is minutes away.
        host.ip(&format!("route del {}/24", base(HOSTS)))?;
        crowd.stands(host)?;
        let comparisons = || sample(host, "flannel_comparisons_total");
        let before = comparisons()?;
        let gone = 0..20;
        crowd.lives.retain(|number, _| !gone.contains(number));
        crowd.write(lab, gone)?;
        crowd.stands(host)?;
        holds("no comparison", Duration::from_secs(3), || {
            let now = comparisons()?;
            expect(now == before, || format!("{now} comparisons, {before} before the hosts left"))
        })?;
        // A crowd's joins share datagrams.
        let storm = Work::of(host, || {
            crowd.lives.extend((HOSTS + 1..=HOSTS + 100).map(|number| (number, 0)));
            crowd.write(lab, HOSTS + 1..=HOSTS + 100)?;
            crowd.stands(host)
        })?;
        assert_eq!((storm.requests, storm.etcd_calls), (300, 0));
        assert!(storm.datagrams <= 6, "{storm:?}");
        Ok(())
    });
}

/// What an earlier daemon left is looked at before anything is put: a restart among thousands is no start.
#[test]
fn a_restart_costs_nothing() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        let crowd = Crowd::new(0..HOSTS);
        crowd.write_all(lab)?;
        let daemon = host.up(FLANNELD, &[])?;
        crowd.stands(host)?;
        daemon.kill()?;
        for _ in 0..5 {
            let daemon = host.up(FLANNELD, &["-healthz-port=8081"])?;
            eventually("all entries known", PATIENCE, || {
                let known = sample(host, "flannel_remote_leases")?;
                expect(known == u64::from(HOSTS), || format!("{known} leases"))
            })?;
            crowd.stands(host)?;
            assert_eq!(Work::so_far(host)?.requests, 0);
            daemon.kill()?;
        }
        Ok(())
    });
}

/// Also with DirectRouting, where the kernel is asked for the way to each host.
#[test]
fn the_way_to_a_host_is_asked_for_once() {
    lab(1, &CONFIG.replace(r#""vxlan""#, r#""vxlan","DirectRouting":true"#)).check(|lab| {
        let host = lab.host(1);
        let mut crowd = Crowd::new(0..500);
        crowd.write_all(lab)?;
        host.up(FLANNELD, &["-healthz-port=8081"])?;
        crowd.stands(host)?;
        let so_far = || samples(host, [r#"flannel_kernel_requests_total{what="reach"}"#, "flannel_comparisons_total"]);
        let [reach, comparisons] = so_far()?;
        crowd.lives.insert(500, 0);
        crowd.write(lab, [500])?;
        crowd.stands(host)?;
        // A comparison asks for all ways again, and may come in between.
        let [asked, more] = so_far().map(|[asked, more]| [asked - reach, more - comparisons])?;
        assert!(asked >= 1 && asked <= 1 + more * 501, "asked {asked} times, with {more} comparisons");
        Ok(())
    });
}

/// Etcd's history is forgotten, so all leases are listed again: what did not change is not touched, and the two lists
/// do not add up.
#[test]
fn five_thousand_hosts_fit() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin/flanneld");
    assert!(program.exists(), "{} is missing: run ci/build", program.display());
    lab(1, CONFIG).check(|lab| {
        let (host, etcd) = (lab.host(1), lab.etcd());
        let mut crowd = Crowd::new(0..MANY);
        crowd.write_all(lab)?;
        let daemon = host.up(&program, &["-healthz-port=8081"])?;
        crowd.stands(host)?;
        let found = daemon.process().rss_kib()?;
        let mut listed = Vec::new();
        for round in 1..=3_u8 {
            let seldom = |number: &u32| number % 50 == u32::from(round);
            let again = Work::of(host, || {
                lab.connect("h1", false)?;
                etcd.stop()?;
                etcd.start()?;
                crowd.lives.iter_mut().filter(|(number, _)| seldom(number)).for_each(|(_, life)| *life = round);
                crowd.write(lab, (0..MANY).filter(seldom))?;
                etcd.compact()?;
                lab.connect("h1", true)?;
                crowd.stands(host)
            })?;
            // A new MAC: the neighbour has another, one forwarding record comes and one goes.
            assert_eq!(again.requests, u64::from(MANY / 50) * 3, "{again:?}");
            listed.push(daemon.process().rss_kib()?);
        }
        let peak = daemon.process().peak_rss_kib()?;
        println!("memory: {found} KiB with {MANY} hosts, {listed:?} after lists, {peak} at the most");
        assert!(listed.iter().chain([&found]).all(|rss| *rss <= MOST), "{found} {listed:?}, wanted {MOST}");
        Ok(())
    });
}
