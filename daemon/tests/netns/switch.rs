//! The cluster changes its backend: every host restarts with the new one, and pods talk by it alone.
//!
//! ```text
//!   config in etcd: vxlan -> udp -> host-gw -> vxlan with another VNI -> host-gw
//!   h1 pod ---- flanneld ------------------------------- flanneld ---- h2 pod
//! ```

use crate::support::*;

const STEPS: [(&str, u8); 5] = [
    (r#"{"Type":"vxlan"}"#, 62),
    (r#"{"Type":"udp"}"#, 60),
    (r#"{"Type":"host-gw"}"#, 62),
    (r#"{"Type":"vxlan","VNI":7}"#, 62),
    (r#"{"Type":"host-gw"}"#, 62),
];

#[test]
fn nothing_of_the_backend_before_is_left() {
    lab(2, &plain("alloc")).check(|lab| {
        let mut pods = None;
        for (backend, ttl) in STEPS {
            lab.configure(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#))?;
            let daemons = [lab.host(1).up(FLANNELD, &[])?, lab.host(2).up(FLANNELD, &[])?];
            both_know_each_other(lab.host(1), lab.host(2))?;
            if pods.is_none() {
                pods = Some((lab.host(1).pod(1)?, lab.host(2).pod(1)?));
            }
            let Some((one, two)) = &pods else { continue };
            eventually(&format!("{backend} carries with TTL {ttl}"), SOON, || {
                one.ping(two.address(), 2)?.all_answered(ttl)?;
                two.ping(one.address(), 2)?.all_answered(ttl)
            })?;
            eventually(&format!("{backend} alone has devices"), SOON, || {
                let links = lab.host(1).ip("-o link show")?;
                let count = links.lines().filter(|l| l.contains(": flannel")).count();
                let wanted = usize::from(!backend.contains("host-gw"));
                expect(count == wanted, || links)
            })?;
            for daemon in daemons {
                daemon.stop()?;
            }
        }
        Ok(())
    });
}
