//! SIGKILL at any moment while leases come, change and go: in the end the kernel has what etcd's content asks for, by
//! a model of the test's own, and nothing else.
//!
//! `FLANNEL_STORM_ROUNDS` sets how often the daemon is killed: 30 unless given, 200 for a long look
//! (`FLANNEL_STORM_ROUNDS=200 ci/netns storm`). `FLANNEL_STORM_SEED` repeats the writer's moves of a failed run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;

const THIRDS: std::ops::Range<u8> = 150..250;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?}")))
}

/// What one of the writer's leases can look like. A MAC is never on two subnets at once, as in life.
fn some_lease(rng: &mut fastrand::Rng, third: u8) -> String {
    let (last, other) = (rng.u8(2..250), rng.u8(0..4));
    let vxlan = format!(
        r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:{other:02x}:{third:02x}"}}}}"#
    );
    match rng.u8(0..10) {
        0 => format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"host-gw"}}"#),
        1 => "not json".to_owned(),
        2 => vxlan.replace("02:00", "zz:00"),
        _ => vxlan,
    }
}

/// Writes until told to stop, counting its moves.
fn write(lab: &Lab, seed: u64, moves: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let third = rng.u8(THIRDS);
        let key = format!("{SUBNETS}10.5.{third}.0-24");
        match rng.u8(0..12) {
            0..3 => drop(lab.etcd().delete(&key)?),
            3 => {
                let next = format!("{SUBNETS}10.5.{}.0-24", THIRDS.start + (third - THIRDS.start + 1) % 100);
                let (one, two) = (some_lease(&mut rng, third), "not json");
                lab.etcd().put_together(&[(&key, &one), (&next, two)])?;
            }
            4 if rng.u8(0..8) == 0 => {
                // Something new first: the same history can't be forgotten twice.
                lab.etcd().put(&key, "not json")?;
                lab.etcd().compact()?;
            }
            _ => lab.etcd().put(&key, &some_lease(&mut rng, third))?,
        }
        moves.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Entries as lines, by kind.
type Model = BTreeMap<&'static str, Vec<String>>;

/// What the keys and values in etcd ask for. Reads them with its own eyes, not with the daemon's code.
fn wanted(lab: &Lab, own: &str) -> Result<Model> {
    let mut model = Model::from([("route", Vec::new()), ("neigh", Vec::new()), ("fdb", Vec::new())]);
    for kv in lab.etcd().list(SUBNETS)?.into_iter().filter(|kv| kv.key != own) {
        let base = kv.key.trim_start_matches(SUBNETS).trim_end_matches("-24").to_owned();
        let field = |name: &str| kv.value.split_once(&format!(r#""{name}":""#))?.1.split('"').next();
        let (Some(public), Some("vxlan"), Some(mac)) = (field("PublicIP"), field("BackendType"), field("VtepMAC"))
        else {
            continue;
        };
        if mac.starts_with("zz") || public == "172.31.77.1" {
            continue;
        }
        let mut put = |kind, line| model.entry(kind).or_default().push(line);
        put("route", format!("{base}/24 via {base} dev flannel.1 onlink"));
        put("neigh", format!("{base} lladdr {mac} PERMANENT"));
        put("fdb", format!("{mac} dst {public} self permanent"));
    }
    model.values_mut().for_each(|lines| lines.sort());
    Ok(model)
}

fn seen(host: &Host) -> Result<Model> {
    let mut model = Model::from([
        ("route", host.routes()?.into_iter().filter(|r| r.contains("dev flannel.1")).collect::<Vec<_>>()),
        ("neigh", host.neighbours("flannel.1")?),
        ("fdb", host.forwarding("flannel.1")?),
    ]);
    model.values_mut().for_each(|lines| lines.sort());
    Ok(model)
}

#[test]
fn kills_at_any_moment_leave_the_kernel_as_etcd_has_it() {
    let rounds = number("FLANNEL_STORM_ROUNDS", 30);
    let seed = number("FLANNEL_STORM_SEED", fastrand::u64(..));
    eprintln!("FLANNEL_STORM_SEED={seed}");
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-ip-masq"])?;
        let own = daemon.ready()?;
        daemon.kill()?;
        let (moves, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let mut rng = fastrand::Rng::with_seed(seed ^ 1);
        let (last, ended_early) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(lab, seed, &moves, &stop));
            let mut storm = || {
                let mut ended_early = 0;
                for round in 0..rounds {
                    let daemon = host.flanneld(FLANNELD).arg("-ip-masq").start()?;
                    let goal = moves.load(Ordering::Relaxed) + rng.usize(0..40);
                    eventually(&format!("the writer's next moves in round {round}"), SOON, || {
                        let done = writer.is_finished() || moves.load(Ordering::Relaxed) >= goal;
                        expect(done, || format!("{moves:?} of {goal}"))
                    })?;
                    ended_early += u32::from(!daemon.has_written());
                    let exited = daemon.process().exited()?;
                    expect(exited.is_none(), || format!("round {round}: ended by itself:\n{}", daemon.log()))?;
                    daemon.kill()?;
                }
                let last = host.up(FLANNELD, &["-ip-masq"])?;
                Ok::<_, Error>((last, ended_early))
            };
            let storm = storm();
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            storm
        })?;
        eprintln!("{rounds} kills, {ended_early} before the subnet file was written; {moves:?} moves of the writer");
        assert_eq!(last.ready()?, own, "another lease");
        let wanted = wanted(lab, &own.key())?;
        assert!(wanted["route"].len() > 10, "the writer left next to nothing: {wanted:#?}");
        let equal = || {
            let seen = seen(host)?;
            expect(seen == wanted, || format!("{seen:#?} instead of {wanted:#?}"))
        };
        eventually("the kernel as the model", Duration::from_secs(5), equal)?;
        holds("the kernel as the model", Duration::from_millis(500), equal)?;
        // One key of ours, and the rules once.
        let ours = lab.etcd().list(SUBNETS)?.into_iter().filter(|kv| kv.value.contains(r#""PublicIP":"172.31.77.1","#));
        assert_eq!(ours.filter(|kv| kv.lease != 0).map(|kv| kv.key).collect::<Vec<_>>(), [own.key()]);
        let jumps = host.rules("nat")?.iter().filter(|l| l.starts_with("-A POSTROUTING")).count();
        assert_eq!(jumps, 1);
        Ok(())
    });
}
