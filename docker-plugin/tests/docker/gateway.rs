//! `-o flannel.gateway=true`: one interface, the way out and the ports by the plugin.

use flannel_testbed::{Result, Signal};

use crate::site::typed::{check, serves};
use crate::site::{Site, on_site};

#[test]
fn one_interface_leads_everywhere() {
    on_site(&[], |site| {
        site.network("-o flannel.gateway=true net")?;
        site.sleeper("--name a1 --network net")?;
        site.sleeper("--name b1 --network net")?;
        let links = site.exec("a1", "ip -o link")?;
        check("eth0 is the only interface", links.contains("eth0") && !links.contains("eth1"), &links)?;
        let routes = site.exec("a1", "ip route")?;
        check("the way out", routes.contains("default via 10.5.72.1 dev eth0"), &routes)?;
        site.exec("a1", "ping -c 1 -W 2 b1")?;
        // Somebody outside sees the host, not the container: flannel's addresses mean nothing there.
        let outside = site.outside().address();
        site.exec("a1", &format!("ping -c 1 -W 2 {outside}"))?;
        let gwbridge = site.docker("network inspect -f {{range.Containers}}{{.Name}}{{end}} docker_gwbridge")?;
        check("nobody is on docker_gwbridge", gwbridge.is_empty(), gwbridge)?;
        site.docker("rm -f a1 b1")?;
        site.docker("network rm net")?;
        site.leaves_nothing()
    });
}

#[test]
fn ports_answer_from_everywhere_and_only_while_they_are_published() {
    on_site(&[], |site| {
        site.network("-o flannel.gateway=true net")?;
        site.server("web", "--network net -p 8080:80")?;
        site.sleeper("--name a1 --network net")?;
        let here = site.host().address();
        everywhere(site, "8080", "web")?;
        // And it is the container's own address that the other side of a connection within the network sees.
        serves("the container itself", "web", || site.page_in("a1", "10.5.72.2"))?;
        site.exec("a1", "ping -c 1 -W 2 web")?;
        // Killed and started again, the plugin goes on with it; meanwhile what comes from outside is not missed.
        site.end_plugin(Signal::KILL)?;
        serves("outside, without the plugin", "web", || site.page_outside(&format!("{here}:8080")))?;
        site.launch(&[])?;
        everywhere(site, "8080", "web")?;
        let taken = site.refused("run --name second --network net -p 8080:80 busybox true")?;
        check("the port is taken", taken.contains("port 8080/tcp: is in use on this host"), &taken)?;
        let cables = site.machine().exec("ip -o link")?.matches(": flh").count();
        check("nothing is left of it", cables == 2, cables)?;
        let state = site.docker("inspect -f {{.State.Status}} second")?;
        check("Docker has it as created", state == "created", &state)?;
        site.docker("rm second")?;
        site.docker("stop -t 0 web")?;
        let gone = site.page_outside(&format!("{here}:8080"));
        check("a stopped container's port is closed", gone.is_err(), gone)?;
        site.docker("start web")?;
        everywhere(site, "8080", "web")?;
        site.docker("rm -f web a1")?;
        site.docker("network rm net")?;
        site.leaves_nothing()
    });
}

/// From outside, from the host by each of its addresses, from the network's containers and from the container itself.
fn everywhere(site: &Site, port: &str, expected: &str) -> Result<()> {
    let here = site.host().address();
    let at_host = format!("{here}:{port}");
    serves("outside", expected, || site.page_outside(&at_host))?;
    for address in [&at_host, &format!("127.0.0.1:{port}"), &format!("[::1]:{port}"), &format!("10.5.72.1:{port}")] {
        serves(&format!("the host, by {address}"), expected, || site.page(address))?;
    }
    for container in ["a1", expected] {
        serves(&format!("container {container}"), expected, || site.page_in(container, &at_host))?;
    }
    Ok(())
}

#[test]
fn the_gateway_moves_with_connect_and_disconnect_and_so_do_the_ports() {
    on_site(&[], |site| {
        site.network("-o flannel.gateway=true znet")?;
        site.docker("network create alone")?;
        site.server("web", "--network znet -p 8081:80")?;
        let at_host = format!("{}:8081", site.host().address());
        serves("by us", "web", || site.page_outside(&at_host))?;
        // "alone" comes before "znet": Docker moves the way out there, and publishes the port itself.
        site.docker("network connect alone web")?;
        serves("by Docker", "web", || site.page_outside(&at_host))?;
        let rules = site.machine().exec("nft list table inet flannel-docker")?;
        check("our rule is gone", !rules.contains("dport 8081"), &rules)?;
        site.docker("network disconnect alone web")?;
        serves("by us again", "web", || site.page_outside(&at_host))?;
        let rules = site.machine().exec("nft list table inet flannel-docker")?;
        check("our rule is back", rules.contains("dport 8081"), &rules)
    });
}

#[test]
fn mistakes_are_refused_in_one_line() {
    on_site(&[], |site| {
        for (options, part) in [
            ("-o flannel.gateway=maybe", "option flannel.gateway=maybe: must be true or false"),
            ("-o flannel.gatway=true", "option flannel.gatway=true: is none of flannel.gateway"),
            ("--internal -o flannel.gateway=true", "a way out and --internal exclude each other"),
            ("-o flannel.isolation=some", "option flannel.isolation=some: must be true or false"),
        ] {
            let line = format!("network create -d flannel --ipam-driver flannel {options} net");
            let said = site.refused(&line)?;
            check(options, said.contains(part) && said.lines().count() == 1, &said)?;
        }
        // Each left the lease free.
        site.network("net")?;
        site.docker("network rm net")?;
        site.leaves_nothing()
    });
}
