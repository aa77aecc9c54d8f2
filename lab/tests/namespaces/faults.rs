//! The quick faults, each with every backend that has something to break; `ci/e2e --all` carries the others out.

use flannel_lab::faults::{Fault, Options, all, render, run_all};
use flannel_lab::topology::Topology;

use super::{diagnoses, flanneld};

fn keep_their_promise(wanted: impl Fn(&Fault) -> bool, backend: &str, jobs: usize) {
    let faults: Vec<(Fault, String)> = all()
        .into_iter()
        .filter(|fault| wanted(fault) && (fault.promise)(backend).is_some())
        .map(|fault| (fault, backend.to_owned()))
        .collect();
    assert!(!faults.is_empty());
    let options = Options {
        flanneld: flanneld(),
        plugin: flanneld().with_file_name("flannel-docker"),
        upgrade_to: None,
        topology: Topology::load("three-hosts").unwrap(),
        jobs,
        evidence: diagnoses(),
    };
    let outcomes = run_all(&faults, &options, &|_| {});
    assert_eq!(outcomes.len(), faults.len());
    println!("{}", render(&outcomes));
    let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome.broken.is_empty()).collect();
    assert!(broken.is_empty(), "{} promises broken:\n{}", broken.len(), render(&outcomes));
}

#[test]
fn the_quick_ones_with_vxlan() {
    keep_their_promise(|fault| fault.quick, "vxlan", 3);
}

#[test]
fn the_quick_ones_with_host_gw() {
    keep_their_promise(|fault| fault.quick, "host-gw", 3);
}

#[test]
fn the_quick_ones_with_udp() {
    keep_their_promise(|fault| fault.quick, "udp", 3);
}

#[test]
fn there_are_ten_quick_ones_and_no_name_twice() {
    let faults = all();
    assert_eq!(faults.iter().filter(|fault| fault.quick).count(), 10);
    for (number, fault) in faults.iter().enumerate() {
        assert!(faults[..number].iter().all(|other| other.name != fault.name), "{fault:?} twice");
    }
}

/// A promise that cannot be kept is reported as broken, with the evidence in one place.
#[test]
fn a_broken_promise_is_seen_and_leaves_evidence() {
    let kill = all().into_iter().find(|fault| fault.name == "flanneld-kill").unwrap();
    // What vxlan keeps, udp cannot: its daemon carries the packets.
    let strict = Fault { promise: |_| kill_promise("vxlan"), ..kill };
    let directory = diagnoses().join("deliberate");
    let options = Options {
        flanneld: flanneld(),
        plugin: flanneld().with_file_name("flannel-docker"),
        upgrade_to: None,
        topology: Topology::load("three-hosts").unwrap(),
        jobs: 1,
        evidence: directory.clone(),
    };
    let outcome = run_all(&[(strict, "udp".to_owned())], &options, &|_| {}).remove(0);
    assert!(outcome.broken.iter().any(|line| line.contains("pings lost, none was to be")), "{outcome:#?}");
    let evidence = directory.join("fault-flanneld-kill-udp");
    assert_eq!(outcome.evidence.as_deref(), Some(evidence.display().to_string().as_str()));
    for file in ["h1.txt", "h2.txt", "h3.txt", "etcd.txt", "underlay.pcap", "outcome.json"] {
        assert!(std::fs::metadata(evidence.join(file)).unwrap().len() > 0, "{file}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

fn kill_promise(backend: &str) -> Option<flannel_lab::faults::Promise> {
    let kill = all().into_iter().find(|fault| fault.name == "flanneld-kill")?;
    (kill.promise)(backend)
}
