//! From the user's side of the command line.

use std::collections::BTreeSet;

use flannel_testbed::{Context as _, Error, IMAGE, Result, eventually};

use crate::site::typed::check;
use crate::site::{SOON, on_site};

#[test]
fn names_and_aliases_are_answered_and_follow_connect_and_disconnect() {
    on_site(&[], |site| {
        site.network("--subnet 10.5.72.0/25 front")?;
        site.network("--subnet 10.5.72.128/25 back")?;
        site.sleeper("--name web --network front --network-alias site --network-alias www")?;
        site.sleeper("--name client --network front --link web:linked")?;
        for name in ["web", "site", "www", "linked"] {
            site.exec("client", &format!("ping -c 1 -W 2 {name}"))?;
        }
        let id = site.docker("ps -q -f name=web")?;
        site.exec("client", &format!("ping -c 1 -W 2 {id}"))?;
        site.sleeper("--name db --network back")?;
        check("not on the same network", site.exec("web", "ping -c 1 -W 2 db").is_err(), ())?;
        site.docker("network connect --alias app back web")?;
        site.exec("web", "ping -c 1 -W 2 db")?;
        site.exec("db", "ping -c 1 -W 2 app")?;
        site.exec("client", "ping -c 1 -W 2 web")?;
        site.docker("network disconnect back web")?;
        check("gone from there", site.exec("db", "ping -c 1 -W 2 app").is_err(), ())?;
        check("no second interface is left", !site.exec("web", "ip -o link")?.contains("eth2"), ())?;
        site.exec("client", "ping -c 1 -W 2 web")?;
        // With an address of the user's choice, and again after a stop: Docker asks for it then.
        site.docker("network connect --ip 10.5.72.200 back web")?;
        site.docker("restart -t 0 web")?;
        check("the address of choice", site.place("web", "back", "IPAddress")? == "10.5.72.200", ())?;
        site.exec("db", "ping -c 1 -W 2 web")?;
        // A container that does not run hears of its networks when it starts.
        site.docker("stop -t 0 client")?;
        site.docker("network connect back client")?;
        site.docker("start client")?;
        site.exec("client", "ping -c 1 -W 2 db")?;
        site.docker("rm -f web client db")?;
        site.docker("network rm front back")?;
        site.leaves_nothing()
    });
}

#[test]
fn addresses_hardware_and_mtu_are_what_was_asked_for() {
    on_site(&[], |site| {
        site.network(
            "--subnet 10.5.72.0/24 --ip-range 10.5.72.240/29 --gateway 10.5.72.254 --aux-address printer=10.5.72.241 \
             -o com.docker.network.driver.mtu=1300 net",
        )?;
        site.sleeper_with_mac("c1", "net", "02:42:00:00:00:09")?;
        let link = site.exec("c1", "ip addr show eth0")?;
        // 240 is the first of the range, 241 the printer's.
        for part in ["mtu 1300", "02:42:00:00:00:09", "inet 10.5.72.240/24"] {
            check(part, link.contains(part), &link)?;
        }
        site.sleeper("--name c2 --network net")?;
        check("the next", site.place("c2", "net", "IPAddress")? == "10.5.72.242", ())?;
        site.sleeper("--name c3 --network net --ip 10.5.72.7")?;
        check("outside the range, by choice", site.place("c3", "net", "IPAddress")? == "10.5.72.7", ())?;
        site.exec("c3", "ping -c 1 -W 2 c1")?;
        site.exec("c3", "ping -c 1 -W 2 10.5.72.254")?;
        let busy = site.refused(&format!("run --rm --network net --ip 10.5.72.241 {IMAGE} true"))?;
        check("the printer's is taken", busy.contains("address 10.5.72.241 of pool 10.5.72.0/24 is in use"), &busy)?;
        site.docker("rm -f c1 c2 c3")?;
        // What was given back is not the next to be given.
        site.sleeper("--name c4 --network net")?;
        check("not used again at once", site.place("c4", "net", "IPAddress")? == "10.5.72.243", ())?;
        site.docker("rm -f c4")?;
        site.docker("network rm net")?;
        site.network("--subnet 10.5.72.0/24 net")?;
        site.sleeper("--name c5 --network net --ip 10.5.72.241")?;
        check("the printer's is free", site.place("c5", "net", "IPAddress")? == "10.5.72.241", ())
    });
}

// RequestAddress fails: Docker has undone what there was, and the container may be started when there is room.
#[test]
fn a_full_pool_says_who_has_it_and_harms_nobody() {
    on_site(&[], |site| {
        site.network("--subnet 10.5.72.0/29 net")?;
        let names = ["c1", "c2", "c3", "c4", "c5"];
        for name in names {
            site.sleeper(&format!("--name {name} --network net"))?;
        }
        let full = site.refused(&format!("run -d --name late --network net {IMAGE} sleep 1000"))?;
        check("how many", full.contains("no free address in 10.5.72.0/29 of network"), &full)?;
        check("how many are used", full.contains(": 6 in use, by "), &full)?;
        let state = site.docker("inspect -f {{.State.Status}} late")?;
        check("Docker has it as created", state == "created", &state)?;
        // By name, as soon as Docker has said who is where.
        eventually("the names", SOON, || match site.refused("start late")? {
            said if said.contains("by c1, c2, c3, c4, c5; remove containers") => Ok(()),
            said => Err(Error::new(said)),
        })?;
        site.docker("rm -f c3")?;
        site.docker("start late")?;
        check("the only free one", site.place("late", "net", "IPAddress")? == "10.5.72.4", ())?;
        site.exec("late", "ping -c 1 -W 2 c1")?;
        let small = site.refused("network create -d flannel --ipam-driver flannel --subnet 10.5.72.64/31 small")?;
        check("too small", small.contains("pool 10.5.72.64/31 is too small"), &small)?;
        let second = site.refused("network create -d flannel --ipam-driver flannel --subnet 10.5.72.0/28 second")?;
        check("overlaps", second.contains("is taken: 10.5.72.0/29 belongs to network"), &second)?;
        let only = site.docker("network ls -q -f driver=flannel")?;
        check("no network of a refusal is left", only.lines().count() == 1, &only)
    });
}

#[test]
fn fifty_containers_start_at_once() {
    const COUNT: usize = 50;
    on_site(&[], |site| {
        site.network("-o flannel.gateway=true net")?;
        site.sleeper("--name first --network net")?;
        let names: Vec<_> = (0..COUNT).map(|n| format!("n{n}")).collect();
        let started: Result<Vec<_>> = std::thread::scope(|scope| {
            let start = |name: &String| {
                let options = format!("--name {name} --network net -p 80");
                scope.spawn(move || site.sleeper(&options))
            };
            let threads: Vec<_> = names.iter().map(start).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        });
        started?;
        let shown = site.docker(&format!(
            "inspect -f {{{{range.NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}} {}",
            names.join(" ")
        ))?;
        let addresses: BTreeSet<_> = shown.lines().collect();
        check("an address each", addresses.len() == COUNT, &shown)?;
        for address in &addresses {
            site.exec("first", &format!("ping -c 1 -W 2 {address}"))?;
        }
        let rules = site.machine().exec("nft list chain inet flannel-docker ports")?;
        check("a port each", rules.matches("dnat ip to").count() == COUNT, &rules)?;
        site.docker(&format!("rm -f first {}", names.join(" ")))?;
        site.remove_crowded_network("net")?;
        site.leaves_nothing()
    });
}

// The answer without a lease is a refusal; what Docker asks once in its life is answered all the same.
#[test]
fn without_a_lease_at_first_all_is_well_as_soon_as_there_is_one() {
    on_site(&[], |site| {
        let file = site.subnet_file();
        std::fs::remove_file(&file).context(|| file.display().to_string())?;
        let said = site.refused("network create -d flannel --ipam-driver flannel net")?;
        check("the file is named", said.contains("/run/flannel/subnet.env is not there"), &said)?;
        site.lease("subnet", crate::site::ENV)?;
        site.network("net")?;
        site.sleeper("--name c1 --network net")?;
        site.exec("c1", "ping -c 1 -W 2 10.5.72.1").map(drop)
    });
}
