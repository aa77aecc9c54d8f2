//! Whether what was measured keeps a promise.

use super::{Limit, Measured, Promise};

/// What breaks the promise, a line each.
#[must_use]
pub fn judge(promise: &Promise, measured: &Measured) -> Vec<String> {
    let mut broken = Vec::new();
    match promise.victim {
        Limit::Nothing if measured.lost > 0 => {
            broken.push(format!("{} of {} pings lost, none was to be", measured.lost, measured.sent));
        }
        Limit::Nothing => {}
        Limit::Heals(within) => match measured.heal {
            None => broken.push("it never flowed again".to_owned()),
            Some(heal) if heal > within => broken.push(format!("healed after {heal:.1} s, promised are {within} s")),
            Some(_) => {}
        },
        Limit::Share(most) => {
            if measured.share > most {
                broken.push(format!("{:.0} % lost, at most {most} % were to be", measured.share));
            }
            if measured.lost_outside > 0 {
                broken.push(format!("{} pings lost before the cause or after its end", measured.lost_outside));
            }
        }
    }
    if promise.bystander == Limit::Nothing && measured.bystander_lost > 0 {
        broken.push(format!("{} pings lost between hosts that were not hit", measured.bystander_lost));
    }
    if let Some(why) = measured.tcp_broken.as_ref().filter(|_| promise.connections) {
        broken.push(format!("the TCP connection broke: {why}"));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured {
            cause: 1.0,
            cured: Some(2.0),
            length: 4.0,
            lost: 0,
            sent: 400,
            bystander_lost: 0,
            gap: 0.02,
            heal: Some(0.0),
            share: 0.0,
            lost_outside: 0,
            tcp_gap: 0.02,
            tcp_broken: None,
            new_container: None,
            new_host: None,
            timeline: Vec::new(),
        }
    }

    #[test]
    fn each_limit_is_broken_by_what_it_limits() {
        let heals = Promise::heals("heals", 3.0);
        let share = Promise { says: "some", victim: Limit::Share(30.0), ..Promise::NOTHING };
        for promise in [Promise::NOTHING, heals, share] {
            assert_eq!(judge(&promise, &measured()), Vec::<String>::new());
        }
        let lost = Measured { lost: 1, heal: Some(2.9), share: 29.0, ..measured() };
        assert_eq!(judge(&Promise::NOTHING, &lost), ["1 of 400 pings lost, none was to be"]);
        assert_eq!(judge(&heals, &lost), Vec::<String>::new());
        assert_eq!(judge(&share, &lost), Vec::<String>::new());
        let more = Measured { lost: 100, heal: Some(3.1), share: 31.0, lost_outside: 1, ..measured() };
        assert_eq!(judge(&heals, &more), ["healed after 3.1 s, promised are 3 s"]);
        assert_eq!(judge(&share, &more).len(), 2);
        assert_eq!(judge(&heals, &Measured { heal: None, ..measured() }), ["it never flowed again"]);
    }

    #[test]
    fn bystanders_and_connections_count_for_every_promise() {
        let hit = Measured { bystander_lost: 2, tcp_broken: Some("reset".to_owned()), ..measured() };
        let broken = judge(&Promise::heals("heals", 3.0), &hit);
        assert_eq!(broken.len(), 2, "{broken:?}");
        // But where the container at the other end was restarted.
        let restarts = Promise { connections: false, ..Promise::heals("heals", 3.0) };
        assert_eq!(judge(&restarts, &hit).len(), 1);
    }
}
