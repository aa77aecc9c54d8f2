//! Ports of networks with `-o flannel.gateway=true`, in all the ways they are published.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use flannel_testbed::{Context as _, Error, IMAGE, Lab, Result};
use serde_json::Value;

use crate::site::typed::{check, serves};
use crate::site::{Site, on, on_site, two_hosts};

#[test]
fn an_address_of_the_host_narrows_a_port() {
    on_site(&[], |site| {
        let here = site.host().address();
        site.network("-o flannel.gateway=true net")?;
        site.server("near", "--network net -p 127.0.0.1:8082:80")?;
        site.server("far", &format!("--network net -p {here}:8083:80"))?;
        serves("127.0.0.1", "near", || site.page("127.0.0.1:8082"))?;
        serves("the host's address", "far", || site.page(&format!("{here}:8083")))?;
        serves("from outside", "far", || site.page_outside(&format!("{here}:8083")))?;
        let open = site.page_outside(&format!("{here}:8082"));
        check("a port of 127.0.0.1 is closed to others", open.is_err(), open)?;
        let open = site.page("127.0.0.1:8083");
        check("a port of one address is closed on another", open.is_err(), open)?;
        // Another host that sends packets for 127.0.0.1 by way of ours gets nothing either.
        site.outside().exec(&format!("ip route add 127.0.0.2 via {here} dev eth0"))?;
        site.outside().sysctl("net/ipv4/conf/eth0/route_localnet", "1")?;
        let open = site.page_outside("127.0.0.2:8082");
        check("127.0.0.0/8 is not reached from outside", open.is_err(), open)?;
        let wrong = site.refused(&format!("run --rm --network net -p 192.0.2.9:8084:80 {IMAGE} true"))?;
        check("an address of nobody", wrong.contains("192.0.2.9:8084/tcp: is no address of this host"), &wrong)
    });
}

#[test]
fn ranges_and_choices_are_free_ports() {
    on_site(&[], |site| {
        let here = site.host().address();
        site.network("-o flannel.gateway=true net")?;
        // Something else has one of them.
        let other =
            site.host().run(|_| std::net::TcpListener::bind("0.0.0.0:8101"))?.context(|| "port 8101".to_owned())?;
        for (name, port) in [("one", 8100), ("two", 8102)] {
            site.server(name, "--network net -p 8100-8102:80")?;
            serves(name, name, || site.page_outside(&format!("{here}:{port}")))?;
        }
        let full = site.refused(&format!("run --rm --network net -p 8100-8102:80 {IMAGE} true"))?;
        check("all are taken", full.contains("nor any other of 8100-8102"), &full)?;
        drop(other);
        site.docker("rm -f one two")?;

        site.server("each", "--network net -p 8110-8111:80-81 -p 80")?;
        serves("a range to a range", "each", || site.page_outside(&format!("{here}:8110")))?;
        let ports = published(site)?;
        let host = |container: u64, chosen: bool| {
            let of = |p: &&Value| p["container"] == container && (p["host"].as_u64() < Some(8200)) != chosen;
            ports.iter().find(of).and_then(|p| p["host"].as_u64())
        };
        check("81 has its own", host(81, false) == Some(8111), &ports)?;
        let chosen = host(80, true).context(|| format!("a port of our choice: {ports:?}"))?;
        serves("the port we chose", "each", || site.page_outside(&format!("{here}:{chosen}")))?;
        check("and the log says which", site.log().contains(&format!("is {chosen}/tcp of the host")), chosen)?;
        site.docker("rm -f each")?;
        check("given back", published(site)?.is_empty(), published(site)?)
    });
}

/// The ports in the plugin's memory.
fn published(site: &Site) -> Result<Vec<Value>> {
    let state = site.state()?;
    let networks = state["networks"].as_object().context(|| state.to_string())?;
    let endpoints = networks.values().filter_map(|n| n["endpoints"].as_object()).flat_map(|e| e.values());
    Ok(endpoints.filter_map(|e| e["ports"].as_array()).flatten().cloned().collect())
}

#[test]
fn datagrams_come_and_go() {
    on_site(&[], |site| {
        let here = site.host().address();
        site.network("-o flannel.gateway=true net")?;
        site.sleeper("--name udp --network net -p 5353:53/udp")?;
        let sandbox = site.docker("inspect -f {{.NetworkSettings.SandboxKey}} udp")?;
        let mut echo = site.machine().command("nsenter");
        echo.arg(format!("--net={sandbox}")).args(["perl", "-MSocket", "-e", ECHO]);
        let _echo = site.machine().start("echo", echo)?;
        for (whose, target) in [(site.outside(), here.to_string()), (site.host(), here.to_string())] {
            let target = format!("{target}:5353").parse().map_err(|e| Error::new(format!("{e}")))?;
            answers(&format!("from {}", whose.name()), || whose.run(|_| ask(target))?)?;
        }
        let local = "127.0.0.1:5353".parse().map_err(|e| Error::new(format!("{e}")))?;
        answers("from 127.0.0.1", || site.host().run(|_| ask(local))?)?;
        let taken = site.host().run(|_| UdpSocket::bind("0.0.0.0:5353").is_err())?;
        check("the port is held", taken, ())
    });
}

/// A program that sends back what it gets at port 53.
const ECHO: &str = "socket(S, PF_INET, SOCK_DGRAM, 0) or die; bind(S, sockaddr_in(53, INADDR_ANY)) or die $!; \
                    while (defined($from = recv(S, $said, 100, 0))) { send(S, \"echo $said\", 0, $from) }";

fn ask(target: SocketAddr) -> Result<String> {
    let asked = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(b"hello", target)?;
        let mut answer = [0; 100];
        let (length, from) = socket.recv_from(&mut answer)?;
        Ok::<_, std::io::Error>((String::from_utf8_lossy(&answer[..length]).into_owned(), from))
    };
    let (answer, from) = asked().context(|| target.to_string())?;
    check("the answer comes from who was asked", from == target, from)?;
    Ok(answer)
}

fn answers(what: &str, mut ask: impl FnMut() -> Result<String>) -> Result<()> {
    flannel_testbed::eventually(what, crate::site::SOON, || match ask()?.as_str() {
        "echo hello" => Ok(()),
        other => Err(Error::new(other)),
    })
}

#[test]
fn ipv6_reaches_containers_of_both_families_and_of_one() {
    let with_ipv6 = || {
        let lab = two_hosts()?;
        lab.add_ipv6()?;
        Site::boot_in(lab, &[], &[])
    };
    on(with_ipv6(), |site| {
        let here = Lab::address6(1);
        site.network("--ipv6 --subnet 10.5.72.0/25 --subnet fd00:5:0:72::/65 -o flannel.gateway=true both")?;
        site.network("--subnet 10.5.72.128/25 -o flannel.gateway=true four")?;
        site.server("two-families", "--network both -p 8090:80")?;
        site.server("one-family", "--network four -p 8091:80")?;
        let routes = site.exec("two-families", "ip -6 route")?;
        check("the way out", routes.contains("default via fd00:5:0:72::1 dev eth0"), &routes)?;
        for (name, port) in [("two-families", 8090), ("one-family", 8091)] {
            serves("by IPv6", name, || site.page_outside(&format!("[{here}]:{port}")))?;
            serves("by IPv4", name, || site.page_outside(&format!("{}:{port}", site.host().address())))?;
            serves("by ::1", name, || site.page(&format!("[::1]:{port}")))?;
        }
        // Out by IPv6, too, with the host's address.
        site.exec("two-families", &format!("ping6 -c 1 -W 2 {}", Lab::address6(2)))?;
        site.docker("rm -f two-families one-family")?;
        site.docker("network rm both four")?;
        site.leaves_nothing()
    });
}
