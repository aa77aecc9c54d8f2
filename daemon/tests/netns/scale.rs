//! Thousands of hosts: every entry of every lease stands, a burst of changes ends as etcd has it, what another hand
//! flushes comes back as a whole, and entries that the kernel refuses cost the others nothing.

use crate::crowd::{CONFIG, Crowd, PATIENCE, base, key};
use crate::support::*;

/// More than two pages of a list.
const HOSTS: u32 = 2500;

#[test]
fn thousands_of_leases_stand_change_and_come_back() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        let mut model = Crowd::new(0..HOSTS);
        model.write_all(lab)?;
        host.up(FLANNELD, &["-healthz-port=8081"])?;
        model.stands(host)?;
        assert_eq!(sample(host, "flannel_entries")?, u64::from(HOSTS) * 3);
        assert_eq!(sample(host, "flannel_entries_failed")?, 0);

        // A burst: one third goes, one third has another MAC, and some do so twice.
        let (mut rng, numbers) = (fastrand::Rng::new(), || (0..HOSTS).filter(|number| number % 5 != 0));
        for _ in 0..2 {
            for number in numbers() {
                match rng.u8(0..3) {
                    0 => drop(model.lives.remove(&number)),
                    1 => *model.lives.entry(number).or_default() += 1,
                    _ => {}
                }
            }
            model.write(lab, numbers())?;
        }
        model.stands(host)?;

        // Thousands of losses at once are some comparisons, not thousands.
        let before = sample(host, "flannel_comparisons_total")?;
        host.ip("route flush dev flannel.1 proto 70")?;
        model.stands(host)?;
        host.ip("neigh flush dev flannel.1 nud permanent")?;
        model.stands(host)?;
        let more = sample(host, "flannel_comparisons_total")? - before;
        assert!((1..20).contains(&more), "{more} comparisons");
        assert_eq!(sample(host, "flannel_entries")?, model.lives.len() as u64 * 3);
        Ok(())
    });
}

/// Gateways that are not on the link: the kernel refuses their routes and takes all others of the same datagrams.
#[test]
fn what_the_kernel_refuses_is_told_counted_and_tried_again() {
    lab(1, &CONFIG.replace("vxlan", "host-gw")).check(|lab| {
        let host = lab.host(1);
        let bad = [7, 8, 1777];
        let leases: Vec<(String, String)> = (0..HOSTS)
            .map(|number| {
                let last = number % 100 + 110;
                let net = if bad.contains(&number) { "203.0.113" } else { "172.31.77" };
                (key(number), format!(r#"{{"PublicIP":"{net}.{last}","PublicIPv6":null,"BackendType":"host-gw"}}"#))
            })
            .collect();
        for some in leases.chunks(100) {
            let some: Vec<(&str, &str)> = some.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            lab.etcd().put_together(&some)?;
        }
        let daemon = host.flanneld(FLANNELD).args(&["-healthz-port=8081", "-v=0"]).start()?;
        daemon.ready()?;
        let stand = |wanted: usize| {
            eventually(&format!("{wanted} routes"), PATIENCE, || {
                let count = host.routes()?.iter().filter(|r| r.starts_with("10.1") && r.contains(" via ")).count();
                expect(count == wanted, || format!("{count} routes"))
            })
        };
        stand(leases.len() - bad.len())?;
        assert_eq!(sample(host, "flannel_entries_failed")?, 3);
        assert!(sample(host, "flannel_entries_retried_total")? >= 3);
        for number in bad {
            let route = format!("route {}/24 via 203.0.113.{}", base(number), number % 100 + 110);
            let line = daemon.says(&format!("cannot put {route}"))?;
            assert!(line.contains("not on the interface's link"), "{line}");
        }
        // The operator brings the gateways onto the link.
        host.ip("addr add 203.0.113.1/24 dev eth0")?;
        stand(leases.len())?;
        eventually("nothing left to do", PATIENCE, || {
            let failed = sample(host, "flannel_entries_failed")?;
            expect(failed == 0, || failed.to_string())
        })
    });
}
