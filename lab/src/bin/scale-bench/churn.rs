//! Hosts that come, change and go, a thousand a second for half a minute, with a model beside them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use flannel_testbed::{Error, Lab, Result};

use crate::lease::{self, Absent};
use crate::start;

const HOSTS: usize = 5000;
const PER_SECOND: usize = 1000;
const SECONDS: usize = 30;
/// How many changes one transaction has; all of them in one answer of the watch.
const TOGETHER: usize = 20;

pub(crate) fn table(program: &Path) -> Result<()> {
    println!("\nchurn, vxlan, {HOSTS} hosts, {PER_SECOND} changes a second for {SECONDS} s");
    let lab = lease::lab("vxlan", HOSTS)?;
    let daemon = start::ready(&lab, program, "vxlan", HOSTS)?;
    let mut model: BTreeMap<usize, Absent> = (0..HOSTS).map(|n| (n, Absent::new(n))).collect();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let busy = start::processor(&daemon)?;
    let looks = start::metric(lab.host(1), "flannel_comparisons_total ")?.unwrap_or(0);
    let begun = Instant::now();
    let total = PER_SECOND * SECONDS;
    for done in (0..total).step_by(TOGETHER) {
        change(&lab, &mut model, &mut rng)?;
        let pace = Duration::from_secs(1) * u32::try_from(done + TOGETHER).unwrap_or(u32::MAX)
            / u32::try_from(PER_SECOND).unwrap_or(1);
        while begun.elapsed() < pace {
            std::thread::park_timeout(pace.saturating_sub(begun.elapsed()));
        }
    }
    let took = begun.elapsed();
    let wanted = lines(&model);
    let seen_at = start::until(|| Ok(seen(&lab)? == wanted)).map_err(|e| {
        let seen = seen(&lab)
            .map(|seen| wanted.iter().filter(|line| !seen.contains(*line)).take(5).cloned().collect::<Vec<_>>());
        Error::new(format!("the kernel is not as the model: {e}; missing for example {seen:?}"))
    })?;
    let written = seen_at.duration_since(begun).saturating_sub(took);
    println!("changes a second              {:>8.0}", total as f64 / took.as_secs_f64());
    println!(
        "kernel equal to the model     {:>8} entries, seen {:.1} s after the last change",
        wanted.len(),
        written.as_secs_f64()
    );
    println!(
        "processor's time              {:>8.1} %",
        (start::processor(&daemon)? - busy) / took.as_secs_f64() * 100.0
    );
    let more = start::metric(lab.host(1), "flannel_comparisons_total ")?.unwrap_or(0) - looks;
    println!("comparisons with the kernel   {more:>8}");
    println!("RSS, MiB                      {:>8.1}", daemon.process().rss_kib()? as f64 / 1024.0);
    daemon.kill()
}

/// Some hosts go, some come back as others, some change in place.
fn change(lab: &Lab, model: &mut BTreeMap<usize, Absent>, rng: &mut fastrand::Rng) -> Result<()> {
    let mut changes: BTreeMap<usize, Option<Absent>> = BTreeMap::new();
    while changes.len() < TOGETHER {
        let number = rng.usize(0..HOSTS);
        let change = match (model.get(&number), rng.u8(0..3)) {
            (Some(_), 0) => None,
            (Some(host), _) => Some(Absent { life: host.life.wrapping_add(1), ..*host }),
            (None, _) => Some(Absent { life: rng.u8(..), ..Absent::new(number) }),
        };
        changes.insert(number, change);
    }
    let texts: Vec<(String, Option<String>)> = changes
        .iter()
        .map(|(number, host)| (Absent::new(*number).key(), host.map(|host| host.value("vxlan"))))
        .collect();
    let texts: Vec<(&str, Option<&str>)> = texts.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    lab.etcd().change_together(&texts)?;
    for (number, host) in changes {
        match host {
            Some(host) => model.insert(number, host),
            None => model.remove(&number),
        };
    }
    Ok(())
}

/// What iproute2 would say, sorted.
fn lines(model: &BTreeMap<usize, Absent>) -> Vec<String> {
    let mut lines: Vec<String> = model
        .values()
        .flat_map(|host| {
            let (base, mac) = (host.base(), host.mac());
            [
                format!("{base}/24 via {base} dev flannel.1 onlink"),
                format!("{base} lladdr {mac} PERMANENT"),
                format!("{mac} dst {} self permanent", host.public("vxlan")),
            ]
        })
        .collect();
    lines.sort_unstable();
    lines
}

fn seen(lab: &Lab) -> Result<Vec<String>> {
    let host = lab.host(1);
    let mut lines: Vec<String> = host.routes()?.into_iter().filter(|r| r.contains("dev flannel.1")).collect();
    lines.extend(host.neighbours("flannel.1")?);
    lines.extend(host.forwarding("flannel.1")?);
    lines.sort_unstable();
    Ok(lines)
}
