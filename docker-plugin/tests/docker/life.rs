//! What a user does on an ordinary day.

use std::collections::BTreeSet;

use flannel_testbed::Error;

use crate::site::on_site;
use crate::site::typed::{check, serves};

#[test]
fn containers_talk_and_leave_nothing() {
    on_site(&[], |site| {
        let id = site.network("net")?;
        site.run("net", "a1", "")?;
        site.run("net", "b1", "")?;
        // By name, by address, and the gateway; FORWARD's policy is DROP where Docker switched forwarding on.
        site.ping("a1", "b1")?;
        site.ping("b1", "10.5.72.2")?;
        site.ping("a1", "10.5.72.1")?;
        site.machine().exec("ping -c 1 -W 2 10.5.72.3")?;

        let link = site.exec("a1", "ip link show eth0")?;
        check("flannel's MTU", link.contains("mtu 1450"), &link)?;
        let routes = site.exec("a1", "ip route")?;
        check("the way to other hosts", routes.contains("10.5.0.0/16 via 10.5.72.1 dev eth0"), &routes)?;
        let default = routes.lines().find(|l| l.starts_with("default")).unwrap_or_default();
        check("the way out is docker_gwbridge's", default.contains("dev eth1"), &routes)?;
        let mac = "02:00:0a:05:48:02";
        check("the MAC Docker shows", site.place("a1", "net", "MacAddress")? == mac, ())?;
        check("and the one there is", link.contains(mac), &link)?;
        let bridge = site.machine().exec(&format!("ip link show fl-{}", &id[..12]))?;
        check("the bridge", bridge.contains("mtu 1450") && bridge.contains("UP"), &bridge)?;
        let subnet = site.docker("network inspect -f {{range.IPAM.Config}}{{.Subnet}}{{end}} net")?;
        check("the lease", subnet == "10.5.72.0/24", &subnet)?;

        let busy = site.refused("network rm net")?;
        check("in use", busy.contains("active endpoints"), &busy)?;
        site.docker("rm -f a1")?;
        // An address is not used again at once.
        site.run("net", "c1", "")?;
        check("the next address", site.address("net", "c1")? == "10.5.72.4", ())?;
        site.leaves_nothing()
    });
}

#[test]
fn published_ports_are_reached() {
    on_site(&[], |site| {
        site.network("net")?;
        site.server("web", "--network net -p 80")?;
        let shown = site.docker("port web 80/tcp")?;
        let port = shown.lines().next().and_then(|l| l.rsplit(':').next()).unwrap_or_default();
        serves("the host", "web", || site.page(&format!("127.0.0.1:{port}")))?;
        serves("outside", "web", || site.page_outside(&format!("{}:{port}", site.host().address())))?;
        // And without publishing, from the next container.
        site.run("net", "client", "")?;
        let got = site.exec("client", "wget -q -O - http://web/index.html")?;
        check("from within", got == "web", &got)?;
        site.leaves_nothing()
    });
}

#[test]
fn internal_networks_stay_inside_flannel() {
    on_site(&[], |site| {
        site.network("--internal --subnet 10.5.72.0/25 in")?;
        site.network("--subnet 10.5.72.128/25 out")?;
        site.run("in", "a1", "")?;
        site.run("in", "b1", "")?;
        site.run("out", "c1", "")?;
        site.run("bridge", "stranger", "")?;
        site.ping("a1", "b1")?;
        let routes = site.exec("a1", "ip route")?;
        check("no way out", !routes.contains("default") && !routes.contains("eth1"), &routes)?;
        let (inside, outside) = (site.address("in", "a1")?, site.address("out", "c1")?);
        // A container of another host, as host-gw would have it.
        let (here, there) = (site.host().address(), site.outside().address());
        site.outside().exec("ip addr add 10.5.91.2/32 dev lo")?;
        site.outside().exec(&format!("ip route add 10.5.72.0/24 via {here} src 10.5.91.2"))?;
        site.machine().exec(&format!("ip route add 10.5.91.0/24 via {there}"))?;
        for target in [&inside, &outside] {
            site.outside().exec(&format!("ping -c 1 -W 2 {target}"))?;
        }
        site.ping("a1", "10.5.91.2")?;
        site.ping("c1", "10.5.91.2")?;
        // Docker's own bridge is let out to anywhere by Docker's rules; here too, but for the internal network.
        site.ping("stranger", &outside)?;
        check("a stranger is kept out", site.ping("stranger", &inside).is_err(), ())?;
        site.machine().exec("ip route del 10.5.91.0/24")?;
        site.leaves_nothing()
    });
}

#[test]
fn both_families_work() {
    on_site(&[], |site| {
        site.network("--ipv6 net")?;
        site.run("net", "a1", "")?;
        site.run("net", "b1", "")?;
        let address = site.place("a1", "net", "GlobalIPv6Address")?;
        check("the first address", address == "fd00:5:0:72::2", &address)?;
        for target in [address.as_str(), "fd00:5:0:72::1"] {
            site.exec("b1", &format!("ping6 -c 1 -W 2 {target}"))?;
        }
        let routes = site.exec("a1", "ip -6 route")?;
        check("the way to other hosts", routes.contains("fd00:5::/48 via fd00:5:0:72::1 dev eth0"), &routes)?;
        site.ping("a1", "b1")?;
        site.leaves_nothing()
    });
}

#[test]
fn many_start_at_once() {
    on_site(&[], |site| {
        site.network("net")?;
        let names: Vec<_> = (0..8).map(|n| format!("n{n}")).collect();
        let started = std::thread::scope(|scope| {
            let threads: Vec<_> = names.iter().map(|name| scope.spawn(|| site.run("net", name, ""))).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)).map(drop))
        });
        started?;
        let addresses: Result<BTreeSet<_>, Error> = names.iter().map(|name| site.address("net", name)).collect();
        let addresses = addresses?;
        check("an address each", addresses.len() == names.len(), &addresses)?;
        for target in &addresses {
            site.ping("n0", target)?;
        }
        site.docker(&format!("rm -f {}", names.join(" ")))?;
        site.remove_crowded_network("net")?;
        site.leaves_nothing()
    });
}
