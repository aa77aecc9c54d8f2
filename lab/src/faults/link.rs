//! What befalls the underlay.

use super::host::share;
use super::{Fault, Needs, Promise};
use crate::world::limit;
use flannel_testbed::{Context, Error, SOON, eventually};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "host-cut",
        what: "a host's link cut for 3 s, its own end keeps its carrier",
        quick: true,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise::heals("flows 3 s after the link is back; the others lose nothing", 3.0)),
        run: |scene| {
            scene.cause();
            scene.world.connect(scene.victim().name(), false)?;
            scene.last(3.0)?;
            scene.world.connect(scene.victim().name(), true)?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "link-flap",
        what: "a host's interface down and up again: the kernel forgets its routes",
        quick: true,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise::heals("flows 3 s after the link is up", 3.0)),
        run: |scene| {
            scene.cause();
            scene.victim().ip("link set eth0 down")?;
            scene.last(0.5)?;
            scene.victim().ip("link set eth0 up")?;
            scene.world.switch().port_forwards(scene.victim().name())?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "mtu-shrunk",
        what: "the MTU of a host's interface 100 bytes smaller for 2 s",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise { says: "small packets: nothing is lost", ..Promise::NOTHING }),
        run: |scene| {
            scene.cause();
            scene.victim().ip("link set eth0 mtu 1400")?;
            scene.last(2.0)?;
            scene.victim().ip("link set eth0 mtu 1500")?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "packet-loss",
        what: "every tenth packet that reaches a host is dropped by chance for 3 s",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(share("no more is lost than the link loses (at most 25 %), nothing afterwards", 25.0)),
        run: |scene| {
            let rules = scene.world.directory().join("loss.nft");
            let text = "table inet labfault {
                chain in { type filter hook prerouting priority -500; iifname \"eth0\" numgen random mod 10 == 0 drop; }
            }";
            std::fs::write(&rules, text).context(|| rules.display().to_string())?;
            scene.cause();
            scene.victim().exec(&format!("nft -f {}", rules.display()))?;
            scene.last(3.0)?;
            scene.victim().exec("nft delete table inet labfault")?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "slow-link",
        what: "a host's interface sends 4 Mbit/s at most for 2 s (tbf)",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise { says: "packets wait, nothing is lost", ..Promise::NOTHING }),
        run: |scene| {
            scene.cause();
            limit(scene.victim(), "eth0", "4mbit")?;
            scene.last(2.0)?;
            scene.cured();
            // A link that is fast again sends what has waited; a queue taken away would throw it away.
            limit(scene.victim(), "eth0", "10gbit")?;
            eventually("the queue is empty", SOON, || {
                let state = scene.victim().exec("tc -s qdisc show dev eth0")?;
                if state.contains("backlog 0b") { Ok(()) } else { Err(Error::new(state)) }
            })?;
            scene.victim().exec("tc qdisc del dev eth0 root").map(drop)
        },
    },
];
