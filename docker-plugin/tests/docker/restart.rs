//! Each row of the restart matrix in docs/reference/docker.md: something dies under running containers, and comes back.

use std::path::Path;
use std::time::Duration;

use flannel_testbed::{Error, Lab, Result, Signal, eventually};

use crate::site::{PATIENCE, Site};

const LIVE: &[&str] = &["--live-restore"];

/// Two containers that talk, one of them with a restart policy.
fn two(site: &Site) -> Result<()> {
    site.network("net")?;
    site.run("net", "c1", "--restart always")?;
    site.run("net", "c2", "--restart always")?;
    site.ping("c1", "c2")
}

/// Afterwards they talk, a new one has its place among them, nothing is off, and all of it can go.
fn all_is_as_before(site: &Site) -> Result<()> {
    site.talks("c1", "c2")?;
    site.run("net", "c3", "")?;
    site.talks("c3", "c1")?;
    site.talks("c2", "c3")?;
    site.is_well()?;
    site.leaves_nothing()
}

#[test]
fn plugin_killed() {
    survives(&[], |site| {
        site.end_plugin(Signal::KILL)?;
        assert!(site.socket().exists(), "SIGKILL leaves the socket");
        site.ping("c1", "c2")?;
        site.launch(&[])?;
        site.ping("c1", "c2")
    });
}

#[test]
fn plugin_stopped() {
    survives(&[], |site| {
        let status = site.end_plugin(Signal::TERM)?;
        assert!(status.success() && !site.socket().exists(), "{status}, or the socket is left");
        site.ping("c1", "c2")?;
        site.launch(&[])?;
        site.docker("restart c2").map(drop)
    });
}

// The program is another file by the time it starts again, as a package manager leaves it.
#[test]
fn plugin_upgraded() {
    survives(&[], |site| {
        let program = site.machine().lib_directory().join("flannel-docker.new");
        let installed = site.machine().lib_directory().join("flannel-docker.bin");
        std::fs::copy(env!("CARGO_BIN_EXE_flannel-docker"), &program).unwrap();
        std::fs::rename(&program, &installed).unwrap();
        site.end_plugin(Signal::TERM)?;
        site.launch_program(Path::new("/var/lib/flannel-docker.bin"), &[])?;
        site.run("net", "c4", "")?;
        std::fs::copy(env!("CARGO_BIN_EXE_flannel-docker"), &program).unwrap();
        // Over a running program: the old one goes on until it is told to stop.
        std::fs::rename(&program, &installed).unwrap();
        site.ping("c4", "c1")?;
        site.end_plugin(Signal::TERM)?;
        site.launch_program(Path::new("/var/lib/flannel-docker.bin"), &[])?;
        site.ping("c4", "c2")
    });
}

// Docker gives up on the plugin after a minute and tells nobody.
#[test]
fn container_removed_while_the_plugin_is_down() {
    survives(&[], |site| {
        site.run("net", "c4", "")?;
        let address = site.address("net", "c4")?;
        site.end_plugin(Signal::KILL)?;
        site.docker("rm -f c4")?;
        site.launch(&[])?;
        eventually("the address is free", PATIENCE, || {
            let there = site.state()?.to_string().matches(&format!("\"{address}\"")).count();
            // Once as the last that was given.
            if there <= 1 { Ok(()) } else { Err(Error::new(site.state()?.to_string())) }
        })
    });
}

#[test]
fn network_removed_while_the_plugin_is_down() {
    survives(&[], |site| {
        site.docker("network create -d flannel --ipam-driver flannel --internal --subnet 10.5.72.0/25 x")
            .expect_err("the lease is taken");
        site.leaves_nothing()?;
        let id = site.network("net")?;
        site.end_plugin(Signal::KILL)?;
        // It knows nothing and says yes to all, which spares a minute.
        site.launch_program(
            Path::new(env!("CARGO_BIN_EXE_flannel-docker")),
            &["-docker-socket=", "-state-dir=/var/lib/ignorant"],
        )?;
        site.docker("network rm net")?;
        site.end_plugin(Signal::TERM)?;
        assert!(site.state()?["networks"].get(&id).is_some(), "it is forgotten already");
        site.launch(&[])?;
        two(site)
    });
}

#[test]
fn dockerd_stopped() {
    survives(&[], |site| {
        site.end_docker(Signal::TERM)?;
        site.start_docker()
    });
}

#[test]
fn dockerd_killed() {
    survives(&[], |site| {
        site.end_docker(Signal::KILL)?;
        site.start_docker()
    });
}

#[test]
fn dockerd_stopped_live_restore() {
    survives(LIVE, |site| {
        let started = site.docker("inspect -f {{.State.StartedAt}} c1")?;
        site.end_docker(Signal::TERM)?;
        site.start_docker()?;
        assert_eq!(site.docker("inspect -f {{.State.StartedAt}} c1")?, started, "the container was started again");
        site.ping("c1", "c2")
    });
}

#[test]
fn dockerd_killed_live_restore() {
    survives(LIVE, |site| {
        let started = site.docker("inspect -f {{.State.StartedAt}} c1")?;
        site.end_docker(Signal::KILL)?;
        site.start_docker()?;
        assert_eq!(site.docker("inspect -f {{.State.StartedAt}} c1")?, started, "the container was started again");
        site.ping("c1", "c2")
    });
}

#[test]
fn both_killed() {
    survives(&[], |site| {
        site.end_plugin(Signal::KILL)?;
        site.end_docker(Signal::KILL)?;
        site.launch(&[])?;
        site.start_docker()
    });
}

#[test]
fn both_killed_live_restore() {
    survives(LIVE, |site| {
        site.end_docker(Signal::KILL)?;
        site.end_plugin(Signal::KILL)?;
        site.launch(&[])?;
        site.start_docker()?;
        site.ping("c1", "c2")
    });
}

#[test]
fn state_damaged() {
    survives(&[], |site| {
        let address = site.address("net", "c2")?;
        site.end_plugin(Signal::KILL)?;
        std::fs::write(site.state_file(), "{ \"version\": 1, \"sa").unwrap();
        site.launch(&[])?;
        assert!(site.state_file().with_extension("json.damaged-1").exists(), "it was not set aside");
        // Docker's next calls are about pools and endpoints that were in the lost file.
        site.docker("restart c2")?;
        assert_ne!(site.address("net", "c1")?, address);
        site.ping("c2", "c1")
    });
}

// Nobody is there to ask, and the containers run on: what is not known is spared.
#[test]
fn state_damaged_while_dockerd_is_down() {
    survives(LIVE, |site| {
        site.end_docker(Signal::KILL)?;
        site.end_plugin(Signal::KILL)?;
        std::fs::write(site.state_file(), "").unwrap();
        site.launch(&[])?;
        site.start_docker()?;
        site.ping("c1", "c2")?;
        site.is_well()?;
        site.docker("restart c2").map(drop)
    });
}

#[test]
fn host_rebooted() {
    survives(&[], |site| {
        site.reboot()?;
        // In the order of the units: flanneld, the plugin, Docker.
        site.move_lease("10.5.72")?;
        site.launch(&[])?;
        site.start_docker()
    });
}

// Docker waits 15 s for each network and for each container, gives up, and does not try again.
#[test]
fn dockerd_started_before_the_plugin() {
    survives(&[], |site| {
        site.end_docker(Signal::TERM)?;
        site.end_plugin(Signal::KILL)?;
        site.start_docker()?;
        site.launch(&[])?;
        site.docker("start c1 c2").map(drop)
    });
}

// The plugin asks, and nobody answers; Docker's calls are answered all the same.
#[test]
fn docker_does_not_answer_questions() {
    survives(&[], |site| {
        let silent = site.machine().run_directory().join("silent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(silent).unwrap();
        site.end_plugin(Signal::TERM)?;
        let program = Path::new(env!("CARGO_BIN_EXE_flannel-docker"));
        site.launch_program(program, &["-docker-socket=/run/silent.sock"])?;
        site.run("net", "c4", "")?;
        site.ping("c4", "c1")?;
        site.docker("restart c2")?;
        site.docker("rm -f c4")?;
        let taken = site.refused("network create -d flannel --ipam-driver flannel more")?;
        assert!(taken.contains("is taken"), "{taken}");
        // It asks for 10 s; on an idle host a call takes some milliseconds.
        let slowest = site.slowest_call();
        assert!(slowest < Duration::from_secs(5), "a call took {slowest:?}: it has waited for Docker");
        site.end_plugin(Signal::TERM)?;
        site.launch(&[])
    });
}

// flanneld waits for etcd, and Docker does not wait for flanneld.
#[test]
fn host_rebooted_before_the_lease_is_known() {
    survives(&[], |site| {
        site.reboot()?;
        site.launch(&[])?;
        site.start_docker()?;
        let refused = site.refused("start c1")?;
        assert!(refused.contains("subnet.env is not there"), "{refused}");
        site.move_lease("10.5.72")?;
        site.docker("start c1 c2").map(drop)
    });
}

/// Runs `event` under two containers that talk.
fn survives(dockerd_args: &[&str], event: impl FnOnce(&mut Site) -> Result<()>) {
    let mut site = Site::boot(dockerd_args, &[]).unwrap();
    two(&site).unwrap();
    event(&mut site).unwrap();
    all_is_as_before(&site).unwrap();
}

/// The daemon beside the plugin, as `cargo build` and the whole workspace's tests leave it.
fn flanneld() -> std::path::PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_flannel-docker")).with_file_name("flanneld");
    assert!(program.exists(), "{} is missing: cargo build -p flanneld", program.display());
    program
}

/// A site with a flanneld of its own, and a container of another host.
fn with_flanneld(body: impl FnOnce(&mut Site, &flannel_testbed::Pod) -> Result<()>) {
    let lab = Lab::flat(2).unwrap();
    lab.configure(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#).unwrap();
    lab.host(2).up(flanneld(), &[]).unwrap();
    let pod = lab.host(2).pod(1).unwrap();
    let mut site = Site::in_lab(lab, &[]).unwrap();
    body(&mut site, &pod).unwrap();
}

fn start_flanneld(site: &Site) -> Result<flannel_testbed::Daemon> {
    let daemon = site.lab.host(1).flanneld(flanneld()).subnet_file(site.subnet_file()).start()?;
    daemon.ready()?;
    Ok(daemon)
}

fn reaches_the_other_host(site: &Site, pod: &flannel_testbed::Pod) -> Result<()> {
    eventually("c1 reaches the other host", PATIENCE, || site.ping("c1", &pod.address().to_string()))?;
    let address = site.address("net", "c1")?;
    let report = pod.ping(address.parse::<std::net::Ipv4Addr>().unwrap(), 3)?;
    assert!(report.replies.len() == 3, "{report:?}");
    Ok(())
}

#[test]
fn flanneld_restarted_with_the_same_lease() {
    with_flanneld(|site, pod| {
        let daemon = start_flanneld(site)?;
        site.launch(&[])?;
        two(site)?;
        reaches_the_other_host(site, pod)?;
        daemon.kill()?;
        reaches_the_other_host(site, pod)?;
        let again = start_flanneld(site)?;
        reaches_the_other_host(site, pod)?;
        site.is_well()?;
        again.stop()?;
        site.run("net", "c3", "")?;
        site.ping("c3", "c1")
    });
}

// Another host may have the old range by now: the old network gives no more places, and says what to do.
#[test]
fn flanneld_restarted_with_another_lease() {
    with_flanneld(|site, pod| {
        let daemon = start_flanneld(site)?;
        site.launch(&[])?;
        two(site)?;
        let old = site.address("net", "c1")?;
        daemon.stop()?;
        let key = flannel_testbed::SubnetEnv::read(&site.subnet_file())?.key();
        site.lab.etcd().delete(&key)?;
        // The daemon would ask for the subnet of its file again.
        std::fs::remove_file(site.subnet_file()).unwrap();
        std::fs::remove_dir_all(site.lab.host(1).directory().join("state")).unwrap();
        site.lab.etcd().put(&key, &site.lab.etcd().list("/coreos.com/network/subnets/")?[0].value)?;
        let _other = start_flanneld(site)?;
        let refused = site.refused("run -d --name c3 --network net busybox sleep 1000")?;
        assert!(refused.contains("flannel lease is") && refused.contains("docker network rm"), "{refused}");
        let report = site.doctor(&[]).expect_err("the doctor finds nothing off").to_string();
        assert!(report.contains("the host's lease is"), "{report}");
        // As the line says.
        site.docker("rm -f c1 c2 c3")?;
        site.docker("network rm net")?;
        two(site)?;
        assert_ne!(old.rsplit_once('.'), site.address("net", "c1")?.rsplit_once('.'));
        reaches_the_other_host(site, pod)?;
        site.is_well()
    });
}
