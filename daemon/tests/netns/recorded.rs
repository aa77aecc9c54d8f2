//! Two hosts of each backend beside the recordings of upstream in `tests/vectors`: the file, the key and its etcd
//! lease, device, routes, neighbours, forwarding entries, rules.

use std::collections::BTreeMap;
use std::time::Instant;

use ipnet::Ipv4Net;

use crate::support::*;

/// The sections of a recording, by title.
struct Recording(BTreeMap<String, Vec<String>>);

/// What stands for what: a placeholder of the recording and its value here.
type Facts = Vec<(&'static str, String)>;

impl Recording {
    fn parse(text: &str) -> Self {
        let mut sections = BTreeMap::<String, Vec<String>>::new();
        let mut title = String::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            if let Some(t) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                title = t.to_owned();
            } else {
                sections.entry(title.clone()).or_default().push(line.to_owned());
            }
        }
        Self(sections)
    }

    fn config(&self) -> &str {
        &self.0["config"][0]
    }

    fn titles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The lines of a section with the facts filled in.
    fn expected(&self, title: &str, facts: &Facts) -> Vec<String> {
        let fill = |line: &String| facts.iter().fold(line.clone(), |l, (name, value)| l.replace(name, value));
        self.0[title].iter().map(fill).collect()
    }
}

/// The device a section is about, from its title.
fn device(title: &str) -> Option<&str> {
    title.split_once(' ').map(|(_, device)| device).filter(|d| d.starts_with("flannel"))
}

/// Compares every section of the recording with host 1 of a lab where two hosts are up.
fn as_recorded(text: &str) {
    let recording = Recording::parse(text);
    lab(2, recording.config()).check(|lab| {
        let daemons = [lab.host(1).up(FLANNELD, &[])?, lab.host(2).up(FLANNELD, &[])?];
        let (own, other) = (daemons[0].ready()?, daemons[1].ready()?);
        let host = lab.host(1);
        let mut facts: Facts = vec![
            ("<own+1>", own.address(1).to_string()),
            ("<own>", own.subnet().addr().to_string()),
            ("<other>", other.subnet().addr().to_string()),
        ];
        if let Some(link) = recording.titles().filter(|t| t.starts_with("link")).find_map(device)
            && !link.starts_with("flannel0")
        {
            facts.push(("<own mac>", host.mac_of(link)?));
            facts.push(("<other mac>", lab.host(2).mac_of(link)?));
        } else if text.contains("<own mac>") {
            facts.push(("<own mac>", host.mac_of("flannel.1")?));
        }
        for title in recording.titles().filter(|t| *t != "config") {
            let expected = recording.expected(title, &facts);
            eventually(&format!("[{title}] as recorded"), SOON, || compare(lab, title, &expected, &own))?;
        }
        Ok(())
    });
}

fn compare(lab: &Lab, title: &str, expected: &[String], own: &SubnetEnv) -> Result<()> {
    let host = lab.host(1);
    let equal = |seen: Vec<String>| expect(seen == expected, || format!("expected {expected:#?}, seen {seen:#?}"));
    let contains = |seen: String| {
        let missing: Vec<_> = expected.iter().filter(|piece| !seen.contains(piece.as_str())).collect();
        expect(missing.is_empty(), || format!("{missing:#?} not in {seen}"))
    };
    match (title.split(' ').next().unwrap_or_default(), device(title)) {
        // Byte by byte, the closing newline too.
        ("subnet.env", _) => {
            let text = std::fs::read_to_string(host.subnet_file()).context(|| "subnet.env".to_owned())?;
            assert_eq!(text, expected.iter().map(|l| format!("{l}\n")).collect::<String>());
            Ok(())
        }
        ("etcd", _) => {
            let stored = lab.etcd().get(&own.key())?.context(|| format!("no key {}", own.key()))?;
            equal(vec![stored.key, stored.value])?;
            let (granted, left) = lab.etcd().time_to_live(stored.lease)?;
            expect(granted == 86400 && left > 86300, || format!("its etcd lease has {left} of {granted} s"))
        }
        ("route", _) => equal(host.routes()?),
        ("neigh", Some(device)) => equal(host.neighbours(device)?),
        ("fdb", Some(device)) => equal(host.forwarding(device)?),
        ("addr", Some(device)) => contains(host.ip(&format!("addr show dev {device}"))?),
        ("link", Some(device)) => {
            let seen = host.ip(&format!("-d link show dev {device}"))?;
            // A recording without one of these means that it is not there.
            for word in ["nolearning", "qlen ", " gbp"] {
                let recorded = expected.iter().any(|l| l.contains(word));
                expect(recorded == seen.contains(word), || format!("{word:?}: {seen}"))?;
            }
            contains(seen)
        }
        ("rules", _) => equal(host.rules("filter")?),
        _ => panic!("a recording has a section [{title}] nobody compares"),
    }
}

#[test]
fn udp() {
    as_recorded(include_str!("../vectors/udp.txt"));
}

#[test]
fn udp_with_another_port() {
    as_recorded(include_str!("../vectors/udp-port.txt"));
}

#[test]
fn vxlan() {
    as_recorded(include_str!("../vectors/vxlan.txt"));
}

#[test]
fn vxlan_with_options() {
    as_recorded(include_str!("../vectors/vxlan-options.txt"));
}

#[test]
fn vxlan_with_small_subnets_of_a_narrow_range() {
    as_recorded(include_str!("../vectors/custom-subnet.txt"));
}

#[test]
fn host_gw() {
    as_recorded(include_str!("../vectors/host-gw.txt"));
}

#[test]
fn alloc() {
    as_recorded(include_str!("../vectors/alloc.txt"));
}

/// Differs from upstream's `10.5.0.0/16 dev flannel0` on purpose: a route that covers the own subnet makes Docker
/// refuse a network on it. Together the routes must cover all of the network but the own subnet, and nothing twice.
#[test]
fn udp_routes_the_network_without_the_own_subnet() {
    lab(1, &plain("udp")).check(|lab| {
        // Each time anew, and looked at in the moment the file is there: a host called ready must have its routes.
        for _ in 0..5 {
            let daemon = lab.host(1).flanneld(FLANNELD).start()?;
            let deadline = Instant::now() + SOON;
            while !daemon.has_written() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let routes = lab.host(1).routes()?;
            let own = daemon.ready()?;
            let to_tun = |r: &String| {
                let (net, rest) = r.split_once(' ')?;
                (rest.contains("dev flannel0")).then(|| net.parse::<Ipv4Net>().unwrap())
            };
            let mut nets: Vec<Ipv4Net> = routes.iter().filter_map(to_tun).collect();
            assert!(nets.iter().all(|n| !n.contains(&own.subnet()) && !own.subnet().contains(n)), "{routes:#?}");
            let size: u64 = nets.iter().map(|n| 1 << (32 - n.prefix_len())).sum();
            assert_eq!(size, 65536 - 256, "{routes:#?}");
            assert!(nets.iter().all(|n| own.network.contains(n)), "{routes:#?}");
            nets.push(own.subnet());
            assert_eq!(Ipv4Net::aggregate(&nets), [own.network]);
            daemon.stop()?;
            lab.etcd().delete(&own.key())?;
        }
        Ok(())
    });
}

/// ```text
/// h1, h2 on one L2: plain routes        h3 behind the router: vxlan
/// ```
// parity: daemon/tests/vectors/recorded/vxlan-directrouting
#[test]
fn vxlan_with_direct_routing_tunnels_only_to_the_far_host() {
    let lab = Lab::new(&[Segment::Near, Segment::Near, Segment::Far]).unwrap();
    lab.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#).unwrap();
    lab.check(|lab| {
        let bases: Vec<_> =
            lab.hosts().iter().map(|h| Ok(h.up(FLANNELD, &[])?.ready()?.subnet().addr())).collect::<Result<_>>()?;
        let tunnel = |to: usize| format!("{0}/24 via {0} dev flannel.1 onlink", bases[to - 1]);
        let plain = |to: usize| format!("{}/24 via 172.31.77.{to} dev eth0", bases[to - 1]);
        for (host, expected) in
            [(1, vec![plain(2), tunnel(3)]), (2, vec![plain(1), tunnel(3)]), (3, vec![tunnel(1), tunnel(2)])]
        {
            for route in expected {
                assert_eq!(route_comes(lab.host(host), &route)?, route, "on h{host}");
            }
        }
        let near = lab.host(2).forwarding("flannel.1")?;
        assert!(!near.iter().any(|f| f.contains("172.31.77.1")), "{near:#?}");
        let (one, three) = (lab.host(1).pod(1)?, lab.host(3).pod(1)?);
        let two = lab.host(2).pod(1)?;
        one.ping(two.address(), 3)?.all_answered(62)?;
        one.ping(three.address(), 3)?.all_answered(62)
    });
}
