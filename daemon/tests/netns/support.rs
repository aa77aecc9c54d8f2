//! Words the tests share.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

pub(crate) use flannel_testbed::*;

/// The binary under test.
pub(crate) const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");

/// Where leases are.
pub(crate) const SUBNETS: &str = "/coreos.com/network/subnets/";

/// Where the config is.
pub(crate) const CONFIG: &str = "/coreos.com/network/config";

/// The config of `backend` with nothing but defaults.
pub(crate) fn plain(backend: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{backend}"}}}}"#)
}

/// A lab of `hosts` hosts whose etcd holds `config`.
pub(crate) fn lab(hosts: usize, config: &str) -> Lab {
    let lab = Lab::flat(hosts).unwrap();
    lab.configure(config).unwrap();
    lab
}

/// `Ok` when `good`, else an error with `text`: a condition for [`eventually`] and [`holds`].
pub(crate) fn expect(good: bool, text: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(Error::new(text())) }
}

/// Waits until `host` has a route that begins with `start` and returns it.
pub(crate) fn route_comes(host: &Host, start: &str) -> Result<String> {
    eventually(&format!("a route {start:?}"), SOON, || {
        let routes = host.routes()?;
        let found = routes.iter().find(|r| r.starts_with(start)).cloned();
        found.ok_or_else(|| Error::new(format!("routes: {routes:#?}")))
    })
}

/// Waits until `host` has no route that begins with `start`.
pub(crate) fn route_goes(host: &Host, start: &str) -> Result<()> {
    eventually(&format!("no route {start:?}"), SOON, || {
        let routes = host.routes()?;
        expect(!routes.iter().any(|r| r.starts_with(start)), || format!("routes: {routes:#?}"))
    })
}

/// Waits until each of two ready daemons' hosts can reach the other's lease: the routes are there.
pub(crate) fn both_know_each_other(one: &Host, two: &Host) -> Result<()> {
    for (host, other) in [(one, two), (two, one)] {
        let base = other.subnet_env()?.subnet().addr();
        eventually(&format!("a way from {} to {}", host.name(), other.name()), SOON, || {
            // What the kernel would do, not what the table says: udp has one route for all leases.
            let way = host.ip(&format!("route get {base}"))?;
            expect(!way.contains("172.31.77.254"), || way)
        })?;
    }
    Ok(())
}

/// The one line of `log` that has all of `pieces`; an error names what is missing.
pub(crate) fn one_line<'a>(log: &'a str, pieces: &[&str]) -> &'a str {
    let found: Vec<&str> = log.lines().filter(|line| pieces.iter().all(|p| line.contains(p))).collect();
    match found.as_slice() {
        [line] => line,
        [] => panic!("no line of the log has all of {pieces:?}; the log is:\n{log}"),
        _ => panic!("{} lines of the log have {pieces:?}, one was expected; the log is:\n{log}", found.len()),
    }
}

/// `GET path` of a server inside `host`: status and body.
pub(crate) fn http_get(host: &Host, address: Ipv4Addr, port: u16, path: &str) -> Result<(u16, String)> {
    let what = || format!("GET http://{address}:{port}{path}");
    let answer = host.run(|_| -> std::io::Result<String> {
        let mut stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer = answer.context(what)?;
    let (head, body) = answer.split_once("\r\n\r\n").context(|| format!("{}: no HTTP: {answer:?}", what()))?;
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    Ok((status.context(|| format!("{}: no status: {head}", what()))?, body.to_owned()))
}

/// A sample of the metrics of a daemon started with `-healthz-port=8081`.
pub(crate) fn sample(host: &Host, name: &str) -> Result<u64> {
    samples(host, [name]).map(|[value]| value)
}

/// Several samples of one moment.
pub(crate) fn samples<const N: usize>(host: &Host, names: [&str; N]) -> Result<[u64; N]> {
    let (_, page) = http_get(host, Ipv4Addr::LOCALHOST, 8081, "/metrics")?;
    let mut values = [0; N];
    for (value, name) in values.iter_mut().zip(names) {
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        *value = found.context(|| format!("no {name} in {page}"))?;
    }
    Ok(values)
}

/// The source address a datagram from `sender` has when it reaches `address` in `receiver`.
pub(crate) fn source_seen(sender: &Namespace, receiver: &Namespace, address: Ipv4Addr) -> Result<Ipv4Addr> {
    let what = |e: std::io::Error| Error::new(format!("datagram to {address}: {e}"));
    let socket = receiver.run(|_| std::net::UdpSocket::bind((address, 0)))?.map_err(what)?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(what)?;
    let target = socket.local_addr().map_err(what)?;
    sender
        .run(|_| std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"who am I", target)))?
        .map_err(what)?;
    let (_, from) = socket.recv_from(&mut [0; 64]).map_err(what)?;
    match from.ip() {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(ip) => Err(Error::new(format!("{ip} is no IPv4 address"))),
    }
}

/// Leases of hosts that are not there, `10.5.<third>.0/24`, as vxlan ones with a MAC of their own.
pub(crate) fn absent_vxlan_hosts(lab: &Lab, thirds: std::ops::Range<u8>) -> Result<()> {
    for third in thirds {
        lab.etcd().put(&format!("{SUBNETS}10.5.{third}.0-24"), &absent_vxlan(third))?;
    }
    Ok(())
}

/// The value of such a lease.
pub(crate) fn absent_vxlan(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{last:02x}"}}}}"#
    )
}
