//! What goes wrong only where there are thousands: answers larger than a library expects, notifications that nobody can
//! read in time.

use std::fmt::Write as _;

use crate::crowd::{CONFIG, Crowd, base};
use crate::support::*;

/// The library that speaks to etcd takes answers of 4 MiB unless told otherwise, and an answer that is too large once
/// is too large each time it is asked for.
#[test]
fn answers_of_any_size_are_read() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        // A page of a list, and then what the watch missed, are 8 MiB each.
        let mut crowd = Crowd { padding: 8 << 10, ..Crowd::new(0..1000) };
        crowd.write_all(lab)?;
        let daemon = host.up(FLANNELD, &[])?;
        crowd.stands(host)?;
        lab.connect("h1", false)?;
        crowd.lives.values_mut().for_each(|life| *life += 1);
        crowd.write_all(lab)?;
        lab.connect("h1", true)?;
        crowd.stands(host)?;
        assert!(!daemon.log().contains("no etcd endpoint is reachable"), "{}", daemon.log());
        Ok(())
    });
}

/// More notifications than the kernel keeps for a reader that has no time: what was lost among them is found.
#[test]
fn notifications_that_were_lost_are_made_up_for() {
    lab(1, CONFIG).check(|lab| {
        let host = lab.host(1);
        let crowd = Crowd::new(0..500);
        crowd.write_all(lab)?;
        let daemon = host.up(FLANNELD, &["-healthz-port=8081"])?;
        crowd.stands(host)?;
        host.ip("link add noise type bridge")?;
        host.ip("link set noise up")?;
        let mut lines = String::new();
        for number in 0..60_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            writeln!(lines, "route add 11.{a}.{b}.{c}/32 dev noise").unwrap();
        }
        let batch = host.directory().join("noise");
        std::fs::write(&batch, lines).unwrap();
        assert_eq!(sample(host, "flannel_kernel_notifications_lost_total")?, 0);
        daemon.process().signal(Signal::STOP)?;
        host.exec(&format!("ip -batch {}", batch.display()))?;
        // Nothing tells of these.
        for number in 0..20 {
            host.ip(&format!("route del {}/24", base(number)))?;
        }
        daemon.process().signal(Signal::CONT)?;
        crowd.stands(host)?;
        assert!(sample(host, "flannel_kernel_notifications_lost_total")? >= 1);
        Ok(())
    });
}
