//! IPv6 beside IPv4: FLANNEL_IPV6_SUBNET.

use flannel_testbed::IMAGE;

use crate::site::typed::check;
use crate::site::{ENV, on_site};

#[test]
fn both_families_have_pools_of_the_lease() {
    on_site(&[], |site| {
        site.network("--ipv6 --subnet 10.5.72.0/25 --subnet fd00:5:0:72:8000::/66 front")?;
        site.network("--ipv6 --subnet 10.5.72.128/25 --subnet fd00:5:0:72:c000::/66 back")?;
        site.sleeper("--name c1 --network front --network-alias six")?;
        site.sleeper("--name c2 --network front --ip 10.5.72.9 --ip6 fd00:5:0:72:8000::9")?;
        check("chosen by us", site.place("c1", "front", "GlobalIPv6Address")? == "fd00:5:0:72:8000::2", ())?;
        check("chosen by the user", site.place("c2", "front", "GlobalIPv6Address")? == "fd00:5:0:72:8000::9", ())?;
        for target in ["six", "fd00:5:0:72:8000::2", "fd00:5:0:72:8000::1"] {
            site.exec("c2", &format!("ping6 -c 1 -W 2 {target}"))?;
        }
        site.exec("c2", "ping -c 1 -W 2 c1")?;
        let routes = site.exec("c1", "ip -6 route")?;
        check("the way to the other hosts", routes.contains("via fd00:5:0:72:8000::1 dev eth0"), &routes)?;
        site.docker("network connect back c1")?;
        site.sleeper("--name c3 --network back")?;
        site.exec("c3", "ping6 -c 1 -W 2 c1")?;
        site.docker("rm -f c1 c2 c3")?;
        site.docker("network rm front back")?;
        site.leaves_nothing()?;

        // A range of somebody else's, and a lease without IPv6.
        let foreign = site.refused("network create -d flannel --ipam-driver flannel --ipv6 --subnet fd77::/64 net")?;
        check(
            "foreign",
            foreign.contains("fd77::/64 is not inside this host's flannel lease fd00:5:0:72::/64"),
            &foreign,
        )?;
        let four: String = ENV.lines().filter(|l| !l.contains("IPV6")).map(|l| format!("{l}\n")).collect();
        site.lease("subnet", &four)?;
        let none = site.refused("network create -d flannel --ipam-driver flannel --ipv6 net")?;
        check("no IPv6", none.contains("has no IPv6 part: leave out --ipv6"), &none)?;
        site.network("net")?;
        site.docker(&format!("run --rm --network net {IMAGE} ping -c 1 -W 2 10.5.72.1")).map(drop)
    });
}

#[test]
fn isolation_holds_in_ipv6_too() {
    on_site(&[], |site| {
        for (part, name) in [("0/25", "front"), ("128/25", "back")] {
            let six = if name == "front" { "8000" } else { "c000" };
            site.network(&format!(
                "-o flannel.gateway=true --ipv6 --subnet 10.5.72.{part} --subnet fd00:5:0:72:{six}::/66 {name}"
            ))?;
        }
        site.sleeper("--name c1 --network front")?;
        site.sleeper("--name c2 --network back")?;
        site.exec("c1", "ping6 -c 1 -W 2 fd00:5:0:72:c000::1")?;
        let got = site.exec("c1", "ping6 -c 1 -W 2 fd00:5:0:72:c000::2");
        check("apart", got.is_err(), got)?;
        let got = site.exec("c1", "ping -c 1 -W 2 10.5.72.130");
        check("apart in IPv4", got.is_err(), got)
    });
}
