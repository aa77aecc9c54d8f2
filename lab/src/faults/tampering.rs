//! Kernel state that another program or an administrator changes.

use super::{Fault, Needs, Promise, Scene};
use flannel_testbed::{Context, Error, Result};

/// flanneld checks its state after each deletion that the kernel reports.
const MENDED: Promise = Promise::heals("restored at once, flows within 3 s", 3.0);

fn mended(_: &str) -> Option<Promise> {
    Some(MENDED)
}

fn vxlan_only(backend: &str) -> Option<Promise> {
    (backend == "vxlan").then_some(MENDED)
}

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "route-deleted",
        what: "a host's route to another deleted by hand",
        quick: false,
        needs: Needs::NOTHING,
        promise: mended,
        run: |scene| {
            let routes = scene.victim().routes()?;
            let subnet = scene.other().subnet_env()?.subnet().to_string();
            // udp has few routes for all leases, the others one a lease.
            let ours: Vec<&String> =
                routes.iter().filter(|r| r.starts_with(&subnet) || r.contains("dev flannel0")).collect();
            if ours.is_empty() {
                return Err(Error::new(format!("no route to {subnet}: {routes:#?}")));
            }
            scene.cause();
            for route in ours {
                let net = route.split_whitespace().next().unwrap_or_default();
                let device =
                    route.split(" dev ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
                scene.victim().ip(&format!("route del {net} dev {device}"))?;
            }
            Ok(())
        },
    },
    Fault {
        name: "fdb-deleted",
        what: "the forwarding entry of another host's VTEP deleted by hand",
        quick: false,
        needs: Needs::NOTHING,
        promise: vxlan_only,
        run: |scene| {
            let address = format!("dst {} ", scene.other().address());
            let all = scene.victim().forwarding("flannel.1")?;
            let entry = all.iter().find(|line| format!("{line} ").contains(&address));
            let mac =
                entry.and_then(|line| line.split_whitespace().next()).context(|| format!("{address}: {all:#?}"))?;
            scene.cause();
            scene.victim().bridge(&format!("fdb del {mac} dev flannel.1 {address}")).map(drop)
        },
    },
    Fault {
        name: "neigh-deleted",
        what: "the neighbour entry of another host's VTEP deleted by hand",
        quick: false,
        needs: Needs::NOTHING,
        promise: vxlan_only,
        run: |scene| {
            let base = scene.other().subnet_env()?.subnet().addr();
            scene.cause();
            scene.victim().ip(&format!("neigh del {base} dev flannel.1")).map(drop)
        },
    },
    Fault {
        name: "device-deleted",
        what: "flannel's device deleted by hand",
        quick: true,
        needs: Needs::NOTHING,
        promise: |backend| {
            (backend != "host-gw").then_some(Promise::heals("re-created at once, flows within 3 s", 3.0))
        },
        run: |scene| {
            let device = if scene.world.topology().backend() == "udp" { "flannel0" } else { "flannel.1" };
            scene.cause();
            scene.victim().ip(&format!("link del {device}")).map(drop)
        },
    },
    Fault {
        name: "rules-flushed",
        what: "iptables' FORWARD policy DROP, then all rules flushed by hand",
        quick: true,
        needs: Needs::NOTHING,
        // The deletion of a rule is not reported: rules are compared every 5 s (-iptables-resync).
        promise: |_| Some(Promise::heals("set again, flows within 7 s", 7.0)),
        run: |scene| {
            policy_drop(scene)?;
            scene.flows_on()?;
            scene.cause();
            scene.victim().exec("iptables -F")?;
            scene.victim().exec("iptables -t nat -F").map(drop)
        },
    },
    Fault {
        name: "forward-drop",
        what: "iptables' FORWARD policy set to DROP, as Docker does",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise { says: "flannel's rules let it through: nothing is lost", ..Promise::NOTHING }),
        run: |scene| {
            scene.cause();
            policy_drop(scene)?;
            scene.last(1.0)
        },
    },
];

/// Frames inside one bridge must not meet the policy: it is the rules for flannel's traffic that are tried.
fn policy_drop(scene: &Scene<'_>) -> Result<()> {
    scene.victim().exec("iptables -P FORWARD DROP").map(drop)
}
