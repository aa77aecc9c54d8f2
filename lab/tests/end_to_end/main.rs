//! Containers on three Docker hosts, end to end: the `flannel` image as on real hosts, real etcd, nested dockerds.
//!
//! ```text
//!   etcd ──┬─────────────┬─────────────┬── underlay (a Docker bridge network)
//!        host1         host2         host3      containers; on each the early Docker runs flannel,
//!          │             │             │        the main one the workload
//!      c1 10.5.a.2   c2 10.5.b.2   c3 10.5.c.2
//! ```
//!
//! Needs Docker and the images of `ci/images`; without them each test fails with a line that says so. What a failed
//! test knew of its hosts is in `target/diagnosis/test-BACKEND`.

mod cli;
mod support;

use std::time::Duration;

use flannel_lab::progress::Progress;
use flannel_lab::topology::Topology;
use flannel_lab::workload::{Ipam, Trial, Workload, ensure_network};
use flannel_lab::{Error, Result};

use support::TestLab;

/// The transfer of the acceptance: 100 MB each way between any two hosts.
const BIG: usize = 100_000_000;
/// For the repetition with another IPAM: enough to fill windows and buffers.
const SMALL: usize = 4_000_000;
/// Between three containers, hosts, lease addresses and published ports.
const PATHS: usize = 60;
/// New hosts must know each other within this time.
const SETTLE: Duration = Duration::from_secs(15);

/// What a backend promises.
struct Promise {
    backend: &'static str,
    /// The underlay has an MTU of 1500.
    mtu: &'static str,
    /// `BackendType` in etcd, as upstream writes it.
    backend_type: Option<&'static str>,
}

#[tokio::test]
async fn vxlan() {
    prove(Promise { backend: "vxlan", mtu: "1450", backend_type: Some("vxlan") }).await;
}

#[tokio::test]
async fn host_gw() {
    prove(Promise { backend: "host-gw", mtu: "1500", backend_type: Some("host-gw") }).await;
}

#[tokio::test]
async fn udp() {
    prove(Promise { backend: "udp", mtu: "1472", backend_type: None }).await;
}

/// Starts a lab and holds the backend to its promise; on failure leaves a diagnosis and says where.
async fn prove(promise: Promise) {
    let lab = TestLab::start(promise.backend, 3).await.unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = story(&lab, &promise).await {
        let diagnosis = lab.diagnose(&format!("test-{}", promise.backend)).await;
        panic!("{error}\n{diagnosis}");
    }
}

async fn story(lab: &TestLab, promise: &Promise) -> Result<()> {
    let progress = Progress::new(Duration::ZERO);
    leases_are_in_order(lab, promise).await?;
    let before = lab.links().await?;

    progress.say("plain networks: Docker's IPAM takes its pool from the lease");
    let workloads = join(lab, "plain", Ipam::Docker).await?;
    addresses_and_mtu(&workloads, promise).await?;
    try_all(&workloads, promise, BIG, &progress).await?;
    progress.say("egress, and a published port");
    reaches_the_underlay(lab, &workloads[0]).await?;
    publishes_a_port(lab, &workloads[0]).await?;
    leave(&workloads).await?;

    progress.say("networks whose addresses the plugin hands out");
    let workloads = join(lab, "own", Ipam::Flannel).await?;
    addresses_and_mtu(&workloads, promise).await?;
    try_all(&workloads, promise, SMALL, &progress).await?;
    leave(&workloads).await?;

    progress.say("nothing is left");
    let after = lab.links().await?;
    expect_eq("links of the hosts before and after their networks", &after, &before)
}

/// A network and a workload on each host.
async fn join(lab: &TestLab, network: &str, ipam: Ipam) -> Result<Vec<Workload>> {
    let all = lab.hosts.iter().enumerate().map(async |(number, host)| {
        ensure_network(host, network, ipam).await?;
        Workload::ensure(host, network, &format!("c{}", number + 1)).await
    });
    futures_util::future::join_all(all).await.into_iter().collect()
}

/// Removes the workloads and their networks.
async fn leave(workloads: &[Workload]) -> Result<()> {
    let all = workloads.iter().map(async |workload| {
        workload.host.docker(&["rm", "-f", &workload.name]).await?;
        workload.host.docker(&["network", "rm", &workload.network]).await.map(drop)
    });
    futures_util::future::join_all(all).await.into_iter().collect()
}

/// The matrix of `flannel-lab`, then so many bytes between any two hosts.
async fn try_all(workloads: &[Workload], promise: &Promise, bytes: usize, progress: &Progress) -> Result<()> {
    let topology = Topology::load("three-hosts")?.with_backend(Some(promise.backend));
    let trial = Trial::new(workloads, &topology).await?;
    trial.settle(SETTLE).await?;
    let matrix = trial.run(promise.backend, std::time::Instant::now(), progress).await?;
    print!("{}", matrix.render());
    if !matrix.wrong().is_empty() {
        trial.capture_failed(&matrix).await?;
    }
    expect_eq("paths", &matrix.paths(), &PATHS)?;
    expect_eq("failed checks", &matrix.wrong(), &Vec::new())?;
    progress.say(format_args!("{bytes} bytes between any two hosts"));
    trial.carry(bytes).await
}

/// Each host has a lease of its own; subnet.env and etcd say the same of it.
async fn leases_are_in_order(lab: &TestLab, promise: &Promise) -> Result<()> {
    let keys = lab.etcd_keys("/coreos.com/network/subnets/").await?;
    expect_eq("leases in etcd", &keys.len(), &lab.hosts.len())?;
    for (number, host) in lab.hosts.iter().enumerate() {
        let env = host.subnet_env().await?;
        expect_eq("FLANNEL_NETWORK", &env["FLANNEL_NETWORK"].as_str(), &"10.5.0.0/16")?;
        expect_eq("FLANNEL_MTU", &env["FLANNEL_MTU"].as_str(), &promise.mtu)?;
        expect_eq("FLANNEL_IPMASQ", &env["FLANNEL_IPMASQ"].as_str(), &"true")?;
        let (address, length) = env["FLANNEL_SUBNET"].split_once('/').unwrap_or_default();
        let base = address.strip_suffix(".1").unwrap_or_default();
        let key = format!("/coreos.com/network/subnets/{base}.0-{length}");
        let value = keys.get(&key).ok_or_else(|| Error::State(format!("{}: no key {key} in {keys:?}", host.name)))?;
        expect_eq("PublicIP", &value["PublicIP"].as_str(), &Some(lab.addresses[number].as_str()))?;
        expect_eq("BackendType", &value["BackendType"].as_str(), &promise.backend_type)?;
    }
    Ok(())
}

/// Addresses lie in the host's lease; the container's interface has the lease's MTU.
async fn addresses_and_mtu(workloads: &[Workload], promise: &Promise) -> Result<()> {
    for workload in workloads {
        let lease = workload.host.lease().await?;
        let prefix = lease.rsplit_once('.').map(|(prefix, _)| format!("{prefix}.")).unwrap_or_default();
        if !workload.address.starts_with(&prefix) || !workload.gateway.starts_with(&prefix) {
            return Err(Error::State(format!(
                "{}: address {} and gateway {} do not lie in the lease {lease}",
                workload.label(),
                workload.address,
                workload.gateway
            )));
        }
        let mtu = workload.sh(&format!("cat /sys/class/net/$({})/mtu", own_interface(workload))).await?;
        expect_eq("MTU in the container", &mtu.stdout.trim(), &promise.mtu)?;
    }
    Ok(())
}

/// A shell command that prints the name of the interface with the workload's flannel address.
fn own_interface(workload: &Workload) -> String {
    format!("ip -o -4 addr | grep 'inet {}/' | tr -s ' ' | cut -d' ' -f2", workload.address)
}

/// A container reaches what is outside of flannel's network.
async fn reaches_the_underlay(lab: &TestLab, workload: &Workload) -> Result<()> {
    let answer = workload.sh(&format!("wget -q -O - http://{}:2379/health", lab.etcd_address)).await?;
    if answer.stdout.contains("true") {
        return Ok(());
    }
    Err(Error::State(format!("{} does not reach etcd on the underlay: {}", workload.label(), answer.said())))
}

/// `docker run -p` on a flannel network answers on the host's address, asked from another host.
async fn publishes_a_port(lab: &TestLab, workload: &Workload) -> Result<()> {
    let (host, other) = (&lab.hosts[0], &lab.hosts[1]);
    let run = ["run", "-d", "--name", "web", "--network", &workload.network, "-p", "8080:80", "busybox"];
    host.docker(&run).await?;
    host.docker(&["exec", "web", "sh", "-c", "echo hello > /srv/index.html"]).await?;
    let url = format!("http://{}:8080/", lab.addresses[0]);
    let page = other.run(&["curl", "-sS", "--max-time", "5", "--retry", "3", "--retry-connrefused", &url]).await?;
    host.docker(&["rm", "-f", "web"]).await?;
    expect_eq("the page behind the published port", &page.as_str(), &"hello")
}

/// An error that shows both values unless they are equal.
fn expect_eq<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::State(format!("{what}: found {found:?}, wanted {wanted:?}")))
}
