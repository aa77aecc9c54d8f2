//! Somebody lays hands on the VTEP or on all entries at once: within a second everything is as before, to the other
//! hosts too, which are told nothing new.
//!
//! ```text
//! pod1 -- cbr0 h1 ==== underlay ==== h2 cbr0 -- pod1        the hand works on h1
//!                          |
//!                          + ten more leases, of hosts that are not there
//! ```

use std::time::Duration;

use crate::support::*;

/// How soon what was removed has to be back.
const BACK: Duration = Duration::from_secs(1);
const LEASES: std::ops::Range<u8> = 200..210;

/// What others rely on, and what they don't see but pods need.
#[derive(Debug, Clone, PartialEq)]
struct State {
    mac: String,
    device: Vec<String>,
    routes: Vec<String>,
    neighbours: Vec<String>,
    forwarding: Vec<String>,
}

fn state(host: &Host) -> Result<State> {
    let details = host.ip("-d link show dev flannel.1")?;
    let flags = details.lines().next().unwrap_or_default();
    // The first line begins with the device's number, another one after it was made anew.
    let mut device = vec![flags.split_once(": ").unwrap_or_default().1.to_owned()];
    device.extend(details.lines().filter(|l| l.contains("vxlan id")).map(|l| l.trim().to_owned()));
    let addresses = host.ip("addr show dev flannel.1 scope global")?;
    device.extend(addresses.lines().filter(|l| l.contains("inet ")).map(|l| l.trim().to_owned()));
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    Ok(State {
        mac: host.mac_of("flannel.1")?,
        device,
        routes: sorted(host.routes()?),
        neighbours: sorted(host.neighbours("flannel.1")?),
        forwarding: sorted(host.forwarding("flannel.1")?),
    })
}

/// What a foreign hand does to a host.
type Damage<'a> = &'a dyn Fn(&Host) -> Result<()>;

/// Two hosts whose pods talk; each of `damage` is done on h1, and each time all must be back within a second, the
/// lease in etcd untouched.
fn comes_back(damage: &[Damage<'_>], said: &[&str]) {
    lab(2, &plain("vxlan")).check(|lab| {
        absent_vxlan_hosts(lab, LEASES)?;
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        lab.host(2).up(FLANNELD, &[])?;
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let host = lab.host(1);
        let before = eventually("all entries", SOON, || {
            let seen = state(host)?;
            let wanted = LEASES.len() + 1;
            let counts = (seen.neighbours.len(), seen.forwarding.len());
            expect(counts == (wanted, wanted), || format!("{seen:#?}"))?;
            Ok(seen)
        })?;
        let stored = lab.etcd().get(&daemon.ready()?.key())?;
        let ping = one.ping_on(two.address())?;
        ping.replies_more(5)?;
        for (number, hand) in damage.iter().enumerate() {
            hand(host)?;
            eventually(&format!("everything after damage {number}"), BACK, || {
                let seen = state(host)?;
                expect(seen == before, || format!("{seen:#?} instead of {before:#?}"))
            })?;
            ping.replies_more(10)?;
        }
        let report = ping.stop()?;
        eprintln!("longest gap {:?}", report.longest_gap());
        assert_eq!(lab.etcd().get(&daemon.ready()?.key())?, stored, "the other hosts were told something");
        for text in said {
            daemon.says(text)?;
        }
        Ok(())
    });
}

#[test]
fn a_deleted_device_is_back_with_its_mac_and_all_entries() {
    comes_back(&[&|h| h.ip("link del flannel.1").map(drop), &|h| h.ip("link del flannel.1").map(drop)], &[]);
}

#[test]
fn a_device_set_down_is_up_again() {
    comes_back(&[&|h| h.ip("link set flannel.1 down").map(drop)], &[]);
}

#[test]
fn all_routes_of_the_device_flushed() {
    comes_back(&[&|h| h.ip("route flush dev flannel.1").map(drop)], &[]);
}

#[test]
fn all_neighbours_flushed() {
    comes_back(&[&|h| h.ip("neigh flush dev flannel.1 nud permanent").map(drop)], &[]);
}

#[test]
fn all_forwarding_entries_removed() {
    comes_back(
        &[&|h| {
            for line in h.forwarding("flannel.1")? {
                let mac = line.split(' ').next().unwrap_or_default();
                h.bridge(&format!("fdb del {mac} dev flannel.1 self"))?;
            }
            Ok(())
        }],
        &[],
    );
}

#[test]
fn its_address_removed() {
    comes_back(&[&|h| h.ip("addr flush dev flannel.1 scope global").map(drop)], &[]);
}

#[test]
fn its_mtu_changed() {
    comes_back(&[&|h| h.ip("link set flannel.1 mtu 1300").map(drop)], &[]);
}

/// What systemd-networkd and udev do to devices they think are theirs.
#[test]
fn a_mac_given_by_another_program_is_taken_back_with_a_warning() {
    comes_back(
        &[&|h| h.ip("link set flannel.1 address 02:11:22:33:44:55").map(drop)],
        &["gave device flannel.1 the MAC 02:11:22:33:44:55"],
    );
}

#[test]
fn values_that_were_replaced() {
    comes_back(
        &[
            &|h| h.ip("route replace 10.5.200.0/24 via 172.31.77.254").map(drop),
            &|h| h.ip("neigh replace 10.5.201.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent").map(drop),
            &|h| h.bridge("fdb replace 02:00:00:00:00:ca dev flannel.1 dst 172.31.77.99 self permanent").map(drop),
        ],
        &[],
    );
}
