//! Labs of namespaces through and through: the matrix of every ready topology, the quick faults with every backend, the
//! command line, and the report in a browser. Needs root and the daemon's binary beside the lab's.

mod cli;
mod faults;
mod report;

use std::path::{Path, PathBuf};

use flannel_lab::topology::Topology;
use flannel_lab::world::{Node, World};
use flannel_testbed::{Error, Result};

/// The daemon of the same build.
fn flanneld() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_flannel-lab")).with_file_name("flanneld")
}

/// A lab with everything in it; one that does not come up leaves the state of every host, and says where.
fn world(topology: &Topology) -> Result<World> {
    let world = World::build(topology, &flanneld())?;
    let nodes: Vec<&Node> = world.nodes().iter().collect();
    let made = world.start(&nodes).and_then(|()| world.populate(&nodes)).and_then(|()| world.settle(&nodes));
    if let Err(error) = made {
        let directory = diagnoses().join(format!("lab-{}-{}", topology.name, topology.backend()));
        world.write_diagnosis(&directory)?;
        return Err(Error::new(format!("{error}\nlogs and state of every host: {}", directory.display())));
    }
    Ok(world)
}

/// Tries every path of a ready topology; on failure leaves the state of every host, and says where.
fn matrix(name: &str, backend: Option<&str>) {
    let topology = Topology::load(name).unwrap().with_backend(backend);
    let world = world(&topology).unwrap();
    let matrix = flannel_lab::holder::try_all(&world, std::time::Instant::now()).unwrap();
    let wrong = matrix.wrong();
    if !wrong.is_empty() {
        let directory = diagnoses().join(format!("matrix-{name}-{}", topology.backend()));
        world.write_diagnosis(&directory).unwrap();
        panic!("{wrong:#?}\n{}\nlogs and state of every host: {}", matrix.render(), directory.display());
    }
    assert!(matrix.paths() >= 60, "{}", matrix.render());
}

/// Where evidence of failed tests goes.
fn diagnoses() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/diagnosis")
}

#[test]
fn three_hosts_by_vxlan() {
    matrix("three-hosts", Some("vxlan"));
}

#[test]
fn three_hosts_by_host_gw() {
    matrix("three-hosts", Some("host-gw"));
}

#[test]
fn three_hosts_by_udp() {
    matrix("three-hosts", Some("udp"));
}

#[test]
fn two_segments() {
    matrix("two-segments", None);
}

#[test]
fn host_gw_refused() {
    matrix("host-gw-refused", None);
}

#[test]
fn dual_stack() {
    matrix("dual-stack", None);
}

#[test]
fn several_networks() {
    matrix("several-networks", None);
}

#[test]
fn slow_link() {
    matrix("slow-link", None);
}

/// The lab can tell a broken network from a whole one: nothing here passes because nothing is looked at.
#[test]
fn a_cut_path_a_small_mtu_and_a_lost_server_are_seen() {
    let topology = Topology::load("three-hosts").unwrap();
    let world = world(&topology).unwrap();
    let places = world.places().unwrap();
    let wrong = |world: &World| -> Vec<String> {
        let cells = world.try_all(&places).unwrap();
        cells
            .into_iter()
            .filter(|cell| cell.wrong.is_some())
            .map(|cell| format!("{:?} {} {}", cell.check, places[cell.from].name, places[cell.to].name))
            .collect()
    };
    assert_eq!(wrong(&world), Vec::<String>::new());
    let h2 = world.node("h2").unwrap();
    // Too small by a little: pings pass, full packets do not.
    h2.ip("link set eth0 mtu 1480").unwrap();
    let seen = wrong(&world);
    assert!(!seen.iter().any(|line| line.starts_with("Ping")), "{seen:#?}");
    assert!(seen.contains(&"ExactMtu c1 c2".to_owned()), "{seen:#?}");
    h2.ip("link set eth0 mtu 1500").unwrap();
    h2.exec("iptables -I FORWARD -p icmp -j DROP").unwrap();
    let seen = wrong(&world);
    assert!(seen.contains(&"Ping c1 c2".to_owned()) && !seen.contains(&"Ping c1 c3".to_owned()), "{seen:#?}");
    assert!(!seen.contains(&"Tcp c1 c2".to_owned()), "{seen:#?}");
}

/// Any implementation can run on any host: here a copy under another name.
#[test]
fn a_host_runs_the_program_that_the_topology_names() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("another-flanneld");
    std::fs::copy(flanneld(), &other).unwrap();
    let mut topology = Topology::load("three-hosts").unwrap();
    topology.host[1].flanneld = Some(other.clone());
    let world = world(&topology).unwrap();
    for (node, wanted) in world.nodes().iter().zip([flanneld(), other, flanneld()]) {
        let program = format!("/proc/{}/exe", node.daemon().unwrap().process().pid());
        assert_eq!(std::fs::read_link(program).unwrap(), wanted.canonicalize().unwrap(), "{}", node.name());
    }
}

#[test]
fn two_labs_at_once_do_not_meet() {
    std::thread::scope(|scope| {
        for backend in ["vxlan", "udp"] {
            scope.spawn(move || matrix("three-hosts", Some(backend)));
        }
    });
}
