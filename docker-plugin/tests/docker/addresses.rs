//! The ways to give a network its addresses, and the lines that refuse the others.

use std::fs;

use flannel_testbed::Context as _;

use crate::site::on_site;
use crate::site::typed::check;

#[test]
fn a_foreign_pool_is_refused_and_the_line_says_what_to_type() {
    on_site(&[], |site| {
        let said = site.refused("network create -d flannel net")?;
        let expected = "is not inside this host's flannel lease 10.5.72.0/24: type \"docker network create -d flannel \
                        --ipam-driver flannel NAME\", or \"docker network create -d flannel --subnet 10.5.72.0/24 NAME\"";
        check("what to type", said.ends_with(expected), &said)?;
        // The commands, word for word.
        for command in said.split('"').skip(1).step_by(2) {
            let typed = command.replace("NAME", "typed");
            site.docker(typed.trim_start_matches("docker "))?;
            site.docker("network rm typed")?;
        }
        site.leaves_nothing()
    });
}

/// Lets other flannel networks of the host in.
const OPEN: &str = "-o flannel.isolation=false";

#[test]
fn dockers_own_addresses_inside_the_lease() {
    on_site(&[], |site| {
        let options = "--subnet 10.5.72.0/25 --gateway 10.5.72.126 -o com.docker.network.driver.mtu=1400";
        site.docker(&format!("network create -d flannel {options} {OPEN} low"))?;
        site.network(&format!("--subnet 10.5.72.128/25 {OPEN} high"))?;
        site.run("low", "a1", "--ip 10.5.72.50")?;
        site.run("high", "b1", "--ip 10.5.72.200")?;
        let link = site.exec("a1", "ip addr show eth0")?;
        check("as was asked", link.contains("mtu 1400") && link.contains("10.5.72.50/25"), &link)?;
        // Parts of one lease, told to be open, reach each other through the host.
        site.ping("a1", "10.5.72.200")?;
        site.ping("b1", "10.5.72.126")?;
        // A container in both, joined while it runs.
        site.docker("network connect high a1")?;
        site.ping("a1", "b1")?;
        site.docker("network disconnect high a1")?;
        site.ping("a1", "10.5.72.200")?;
        let busy = site.refused("run -d --name c1 --network high --ip 10.5.72.200 busybox sleep 1000")?;
        check("taken", busy.contains("is in use: choose another --ip"), &busy)?;
        site.leaves_nothing()
    });
}

#[test]
fn a_second_network_on_the_lease_is_refused_and_harms_nobody() {
    on_site(&[], |site| {
        let id = site.network("one")?;
        site.run("one", "a1", "")?;
        let said = site.refused("network create -d flannel --ipam-driver flannel two")?;
        check("whose it is", said.contains(&format!("belongs to network {}", &id[..12])), &said)?;
        // The first network's pool is still there.
        site.run("one", "b1", "")?;
        site.ping("a1", "b1")?;
        site.leaves_nothing()
    });
}

// Docker asks for a pool again and again while the answer overlaps a route of the host.
#[test]
fn a_route_over_the_lease_does_not_keep_docker_asking() {
    on_site(&[], |site| {
        // As upstream's udp backend makes it.
        site.machine().exec("ip route add 10.5.0.0/16 dev docker0")?;
        site.network("net")?;
        site.run("net", "a1", "")?;
        site.run("net", "b1", "")?;
        check("addresses as usual", site.address("net", "b1")? == "10.5.72.3", ())?;
        site.ping("a1", "b1")?;
        site.ping("a1", "10.5.72.1")?;
        let asked = site.log().matches("IpamDriver.RequestPool: done").count();
        check("asked once", asked == 1, asked)?;
        site.machine().exec("ip route del 10.5.0.0/16")?;
        site.leaves_nothing()
    });
}

#[test]
fn part_of_the_lease_on_another_bridge_is_left_out() {
    on_site(&[], |site| {
        site.docker("network create --subnet 10.5.72.0/26 other")?;
        site.network("net")?;
        site.run("net", "a1", "")?;
        check("in the other half", site.address("net", "a1")? == "10.5.72.130", ())?;
        site.ping("a1", "10.5.72.129")?;
        site.docker("network rm other")?;
        site.leaves_nothing()
    });
}

#[test]
fn without_a_lease_the_line_names_the_file() {
    on_site(&[], |site| {
        site.network("net")?;
        let file = site.subnet_file();
        fs::remove_file(&file).context(|| file.display().to_string())?;
        let said = site.refused("network create -d flannel --ipam-driver flannel other")?;
        check("why", said.contains("subnet.env is not there: flanneld has not written it"), &said)?;
        let said = site.refused("run -d --name a1 --network net busybox sleep 1000")?;
        check("and for containers", said.contains("subnet.env is not there"), &said)?;
        site.move_lease("10.5.72")?;
        site.docker("start a1")?;
        site.ping("a1", "10.5.72.1")?;
        site.leaves_nothing()
    });
}

#[test]
fn a_changed_lease_is_told_at_the_next_container() {
    on_site(&[], |site| {
        let id = &site.network("net")?[..12];
        site.move_lease("10.5.19")?;
        let said = site.refused("run --rm --network net busybox true")?;
        let expected = format!("network {id} has pool 10.5.72.0/24, but this host's flannel lease is 10.5.19.0/24");
        check("what has changed", said.contains(&expected), &said)?;
        check("what to type", said.contains(&format!("recreate it, with \"docker network rm {id}\"")), &said)
    });
}
