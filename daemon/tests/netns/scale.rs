//! Thousands of hosts: every entry of every lease stands, a burst of changes ends as etcd has it, what another hand
//! flushes comes back as a whole, and an entry that the kernel refuses costs the others nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::*;

/// More than two pages of a list.
const HOSTS: u32 = 2500;
const PATIENCE: Duration = Duration::from_secs(30);
const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"vxlan"}}"#;

/// Hosts that are not there: number, and how often each changed.
type Model = BTreeMap<u32, u8>;

fn base(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) + (100 << 16) + (number << 8))
}

fn mac(number: u32, life: u8) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("02:00:{life:02x}:{a:02x}:{b:02x}:{c:02x}")
}

fn public(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((192 << 24) + (168 << 16) + number)
}

fn value(number: u32, life: u8) -> String {
    format!(
        r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        public(number),
        mac(number, life)
    )
}

/// Writes the hosts of the model and deletes the others of `numbers`, a hundred to a transaction.
fn write(lab: &Lab, model: &Model, numbers: impl Iterator<Item = u32>) -> Result<()> {
    let change = |number| (format!("{SUBNETS}{}-24", base(number)), model.get(&number).map(|life| value(number, *life)));
    let changes: Vec<(String, Option<String>)> = numbers.map(change).collect();
    for some in changes.chunks(100) {
        let some: Vec<(&str, Option<&str>)> = some.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        lab.etcd().change_together(&some)?;
    }
    Ok(())
}

fn wanted(model: &Model) -> BTreeSet<String> {
    let lines = |(number, life): (&u32, &u8)| {
        let (base, mac) = (base(*number), mac(*number, *life));
        [
            format!("{base}/24 via {base} dev flannel.1 onlink"),
            format!("{base} lladdr {mac} PERMANENT"),
            format!("{mac} dst {} self permanent", public(*number)),
        ]
    };
    model.iter().flat_map(lines).collect()
}

fn stands(host: &Host, model: &Model) -> Result<()> {
    let wanted = wanted(model);
    eventually("the kernel as the model", PATIENCE, || {
        let routes = host.routes()?.into_iter().filter(|r| r.contains("dev flannel.1"));
        let all = routes.chain(host.neighbours("flannel.1")?).chain(host.forwarding("flannel.1")?);
        let seen: BTreeSet<String> = all.collect();
        let (less, more) = (wanted.difference(&seen).count(), seen.difference(&wanted).count());
        expect(less + more == 0, || {
            let examples: Vec<_> = wanted.symmetric_difference(&seen).take(4).collect();
            format!("{less} entries are missing, {more} too many, as {examples:?}")
        })
    })
}

fn metric(host: &Host, name: &str) -> Result<u64> {
    let (_, page) = http_get(host, Ipv4Addr::LOCALHOST, 8081, "/metrics")?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.context(|| format!("no {name} in {page}"))
}

#[test]
fn thousands_of_leases_stand_change_and_come_back() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        let mut model: Model = (0..HOSTS).map(|number| (number, 0)).collect();
        write(lab, &model, 0..HOSTS)?;
        host.up(FLANNELD, &["-healthz-port=8081"])?;
        stands(host, &model)?;
        assert_eq!(metric(host, "flannel_entries")?, u64::from(HOSTS) * 3);
        assert_eq!(metric(host, "flannel_entries_failed")?, 0);

        // A burst: one third goes, one third has another MAC, and some do so twice.
        let (mut rng, numbers) = (fastrand::Rng::new(), || (0..HOSTS).filter(|number| number % 5 != 0));
        for _ in 0..2 {
            for number in numbers() {
                match rng.u8(0..3) {
                    0 => drop(model.remove(&number)),
                    1 => *model.entry(number).or_default() += 1,
                    _ => {}
                }
            }
            write(lab, &model, numbers())?;
        }
        stands(host, &model)?;

        // Thousands of losses at once are some comparisons, not thousands.
        let before = metric(host, "flannel_comparisons_total")?;
        host.ip("route flush dev flannel.1 proto 70")?;
        stands(host, &model)?;
        host.ip("neigh flush dev flannel.1 nud permanent")?;
        stands(host, &model)?;
        let more = metric(host, "flannel_comparisons_total")? - before;
        assert!((1..20).contains(&more), "{more} comparisons");
        assert_eq!(metric(host, "flannel_entries")?, model.len() as u64 * 3);
        Ok(())
    });
}

/// A gateway that is not on the link: the kernel refuses its route and takes all others of the same datagram.
#[test]
fn what_the_kernel_refuses_is_told_counted_and_tried_again() {
    lab(1, &plain("host-gw")).check(|lab| {
        let host = lab.host(1);
        let bad = [7_u8, 8, 77];
        for third in 1..=120_u8 {
            let ip = if bad.contains(&third) { format!("203.0.113.{third}") } else { format!("172.31.77.{}", third + 100) };
            let value = format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
            lab.etcd().put(&format!("{SUBNETS}10.5.{}.0-24", 100 + u32::from(third)), &value)?;
        }
        let daemon = host.flanneld(FLANNELD).args(&["-healthz-port=8081", "-v=0"]).start()?;
        let own = daemon.ready()?;
        let ours = || {
            let routes = host.routes()?;
            Ok::<_, Error>(routes.iter().filter(|r| r.starts_with("10.5.") && r.contains(" via ")).count())
        };
        eventually("all routes but three", PATIENCE, || {
            let count = ours()?;
            expect(count == 117, || format!("{count} routes"))
        })?;
        assert!(!own.text.is_empty());
        assert_eq!(metric(host, "flannel_entries_failed")?, 3);
        assert!(metric(host, "flannel_entries_retried_total")? >= 3);
        for third in bad {
            let route = format!("route 10.5.{}.0/24 via 203.0.113.{third}", 100 + u32::from(third));
            let line = daemon.says(&format!("can't put {route}"))?;
            assert!(line.contains("not on the interface's link"), "{line}");
        }
        // The operator brings the gateways onto the link.
        host.ip("addr add 203.0.113.1/24 dev eth0")?;
        eventually("all routes", PATIENCE, || {
            let count = ours()?;
            expect(count == 120, || format!("{count} routes"))
        })?;
        eventually("nothing left to do", PATIENCE, || {
            let failed = metric(host, "flannel_entries_failed")?;
            expect(failed == 0, || failed.to_string())
        })
    });
}
