//! etcd is away for longer than leases live. Leases of a day can't be waited for, so here they live some seconds.

use std::time::Duration;

use crate::support::*;

const TTL: &str = "4";

fn up(host: &Host) -> Result<Daemon> {
    let daemon = host.flanneld(FLANNELD).env("FLANNEL_TEST_LEASE_TTL", TTL).start()?;
    daemon.ready()?;
    Ok(daemon)
}

#[test]
fn containers_go_on_talking_and_every_host_keeps_its_subnet() {
    lab(2, &plain("vxlan")).check(|lab| {
        let daemons = [up(lab.host(1))?, up(lab.host(2))?];
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let before = [lab.host(1).subnet_env()?.text, lab.host(2).subnet_env()?.text];
        let keys = || -> Result<Vec<String>> { Ok(lab.etcd().list(SUBNETS)?.into_iter().map(|kv| kv.key).collect()) };
        let held = keys()?;
        assert_eq!(held.len(), 2);
        let ping = one.ping_on(two.address())?;
        ping.replies_more(20)?;
        // Renewed more than once by now and still there.
        holds("both leases stay while etcd is there", Duration::from_secs(6), || {
            let now = keys()?;
            expect(now == held, || format!("{now:?} instead of {held:?}"))
        })?;
        lab.etcd().stop()?;
        // Twice as long as the leases live.
        holds("the hosts reach each other without etcd", Duration::from_secs(8), || {
            expect(lab.host(1).routes()?.iter().any(|r| r.contains("flannel.1")), || "no route".into())
        })?;
        lab.etcd().start()?;
        holds("both leases stay when etcd is back", Duration::from_secs(6), || {
            let now = eventually("etcd answers", SOON, keys)?;
            expect(now == held, || format!("{now:?} instead of {held:?}"))
        })?;
        let report = ping.stop()?;
        assert_eq!(report.lost(), 0, "{}", report.text);
        assert_eq!([lab.host(1).subnet_env()?.text, lab.host(2).subnet_env()?.text], before);
        daemons.into_iter().try_for_each(|daemon| daemon.stop().map(drop))
    });
}
