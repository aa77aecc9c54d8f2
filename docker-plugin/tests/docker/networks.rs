//! Networks without thinking, without IPAM, of other daemons, by compose; and kept apart.

use flannel_testbed::{Context as _, Error, IMAGE, Result, Signal, eventually};

use crate::site::typed::check;
use crate::site::{SOON, Site, on_site};

/// Another daemon's lease.
const BLUE: &str = "FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.6.9.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n";

#[test]
fn a_network_is_there_without_being_created() {
    on_site(&["-docker-network=flannel", "-docker-network-options=flannel.gateway=true"], |site| {
        let made = || site.docker("network inspect -f {{.Id}} flannel");
        let id = eventually("the network", SOON, made)?;
        site.sleeper("--name c1 --network flannel")?;
        site.exec("c1", &format!("ping -c 1 -W 2 {}", site.outside().address()))?;
        check("IPv6, too", site.place("c1", "flannel", "GlobalIPv6Address")? == "fd00:5:0:72::2", ())?;
        // Removed, it is made again; there, it is left alone.
        site.docker("rm -f c1")?;
        site.docker("network rm flannel")?;
        let second = eventually("the network again", SOON, made)?;
        check("it is another one", second != id, &second)?;
        site.end_plugin(Signal::TERM)?;
        site.launch(&["-docker-network=flannel"])?;
        site.sleeper("--name c2 --network flannel")?;
        let third = site.docker("network inspect -f {{.Id}} flannel")?;
        check("it is the same one", second == third, (second, third))?;
        // flanneld comes back with another subnet: as soon as nobody is in the network, it follows.
        site.move_lease("10.5.80")?;
        eventually("the reason in the log", SOON, || match site.log() {
            log if log.contains("remove its containers, and it is re-created") => Ok(()),
            log => Err(Error::new(log)),
        })?;
        site.docker("rm -f c2")?;
        eventually("the new range", SOON, || {
            match site.docker("network inspect -f {{range.IPAM.Config}}{{.Subnet}}{{end}} flannel") {
                Ok(subnets) if subnets.contains("10.5.80.0/24") => Ok(()),
                other => Err(Error::new(format!("{other:?}"))),
            }
        })
    });
}

#[test]
fn another_network_of_that_name_is_left_alone() {
    on_site(&[], |site| {
        site.docker("network create mine")?;
        site.end_plugin(Signal::TERM)?;
        site.launch(&["-docker-network=mine"])?;
        eventually("the reason in the log", SOON, || match site.log() {
            log if log.contains("network mine: a network of that name is there, of driver bridge") => Ok(()),
            log => Err(Error::new(log)),
        })?;
        check("it is the user's", site.docker("network inspect -f {{.Driver}} mine")? == "bridge", ())
    });
}

#[test]
fn without_ipam_the_driver_gives_the_addresses() {
    on_site(&[], |site| {
        site.docker("network create -d flannel --ipam-driver null net")?;
        site.sleeper_with_mac("c1", "net", "02:42:00:00:00:07")?;
        site.sleeper("--name c2 --network net")?;
        check("address", site.place("c1", "net", "IPAddress")? == "10.5.72.2", ())?;
        check("the user's MAC", site.place("c1", "net", "MacAddress")? == "02:42:00:00:00:07", ())?;
        check("our MAC", site.place("c2", "net", "MacAddress")? == "02:00:0a:05:48:03", ())?;
        site.exec("c1", "ping -c 1 -W 2 c2")?;
        site.exec("c2", "ping -c 1 -W 2 c1")?;
        // Who has a hardware address comes back to its IP address, even after others came; who has none to another.
        site.docker("stop -t 0 c1 c2")?;
        site.sleeper("--name c3 --network net")?;
        site.docker("start c2 c1")?;
        check("the same", site.place("c1", "net", "IPAddress")? == "10.5.72.2", ())?;
        check("the next", site.place("c3", "net", "IPAddress")? == "10.5.72.4", ())?;
        check("and the next", site.place("c2", "net", "IPAddress")? == "10.5.72.5", ())?;
        let taken = site.refused("network create -d flannel --ipam-driver null other")?;
        check("the lease is taken", taken.contains("belongs to network"), &taken)?;
        site.docker("rm -f c1 c2 c3")?;
        site.docker("network rm net")?;
        site.leaves_nothing()
    });
}

#[test]
fn another_daemons_network_and_no_way_between_the_two() {
    on_site(&[], |site| {
        site.lease("blue", BLUE)?;
        site.network("--subnet 10.5.72.0/25 plain")?;
        site.network("--ipam-opt flannel.network=blue blue")?;
        site.server("red", "--network plain")?;
        site.server("sky", "--network blue")?;
        check("an address of it", site.place("sky", "blue", "IPAddress")? == "10.6.9.2", ())?;
        let link = site.exec("sky", "ip link show eth0")?;
        check("the MTU of it", link.contains("mtu 1400"), &link)?;
        let routes = site.exec("sky", "ip route")?;
        check("the way to the other hosts of it", routes.contains("10.6.0.0/16 via 10.6.9.1"), &routes)?;
        apart(site)?;
        site.docker("rm -f red sky")?;
        site.docker("network rm plain blue")?;

        // The range alone tells which daemon's it is; without IPAM the option does.
        site.network("--subnet 10.6.9.0/25 by-range")?;
        site.docker("network create -d flannel --ipam-driver null -o flannel.network=blue by-option")?;
        site.sleeper("--name c1 --network by-option")?;
        let address = site.docker("inspect -f {{range.NetworkSettings.Networks}}{{.IPAddress}}{{end}} c1")?;
        check("the rest of the lease", address == "10.6.9.130", &address)?;
        site.docker("rm -f c1")?;
        site.docker("network rm by-range by-option")?;
        let unknown =
            site.refused("network create -d flannel --ipam-driver flannel --ipam-opt flannel.network=x net")?;
        check("no such file", unknown.contains("/run/flannel/x.env is not there"), &unknown)?;
        let other = site.refused("network create -d flannel -o flannel.network=blue --subnet 10.5.72.0/24 net")?;
        let said = "\"docker network create -d flannel -o flannel.network=blue --subnet 10.6.9.0/24 NAME\"";
        check("the command to type", other.contains(said), &other)?;
        site.leaves_nothing()
    });
}

/// Neither of `red` and `sky` gets to the other, by whichever way.
fn apart(site: &Site) -> Result<()> {
    for (from, to) in [("red", "10.6.9.2"), ("sky", "10.5.72.2")] {
        let got = site.page_in(from, to);
        check(&format!("{from} does not reach {to}"), got.is_err(), got)?;
    }
    Ok(())
}

#[test]
fn networks_are_apart_unless_both_say_otherwise() {
    on_site(&[], |site| {
        site.lease("blue", BLUE)?;
        let both = |one: &str, two: &str| {
            site.network(&format!("-o flannel.gateway=true {one} plain"))?;
            site.network(&format!("-o flannel.gateway=true {two} --ipam-opt flannel.network=blue blue"))?;
            site.server("red", "--network plain -p 8085:80")?;
            site.server("sky", "--network blue")
        };
        let remove = || {
            site.docker("rm -f red sky")?;
            site.docker("network rm plain blue")
        };
        let open = "-o flannel.isolation=false";
        both("", "")?;
        apart(site)?;
        // What is published is for all.
        let got = site.page_in("sky", &format!("{}:8085", site.host().address()))?;
        check("a published port", got.trim() == "red", &got)?;
        remove()?;
        both(open, "")?;
        apart(site)?;
        remove()?;
        both(open, open)?;
        for (from, to, who) in [("red", "10.6.9.2", "sky"), ("sky", "10.5.72.2", "red")] {
            let got = site.page_in(from, to)?;
            check(from, got.trim() == who, &got)?;
        }
        remove().map(drop)
    });
}

#[test]
fn compose_files_name_the_driver() {
    const FILE: &str = "version: '2.4'\nservices:\n  web:\n    image: busybox\n    command: sleep 1000\n    networks:\n      \
                        default:\n        aliases: [site]\n  client:\n    image: busybox\n    command: sleep 1000\n\
                        networks:\n  default:\n    driver: flannel\n    ipam:\n      driver: flannel\n";
    on_site(&[], |site| {
        let file = site.machine().directory().join("compose.yaml");
        std::fs::write(&file, FILE).context(|| file.display().to_string())?;
        let compose = |words: &str| {
            let mut command = site.machine().command("docker-compose");
            command.arg("-f").arg(&file).args(["-p", "app"]).args(words.split(' '));
            site.machine().output(command)
        };
        compose("up -d")?;
        site.exec("app_client_1", "ping -c 1 -W 2 web")?;
        site.exec("app_client_1", "ping -c 1 -W 2 site")?;
        check(
            "an address of the lease",
            site.place("app_web_1", "app_default", "IPAddress")?.starts_with("10.5.72."),
            (),
        )?;
        compose("down -t 0")?;
        site.leaves_nothing()
    });
}

#[test]
fn a_config_only_network_takes_the_pool_of_the_lease() {
    on_site(&[], |site| {
        site.docker("network create --config-only --ipam-driver flannel -o flannel.gateway=true flannel-config")?;
        site.docker("network create -d flannel --config-from flannel-config net")?;
        site.sleeper("--name c1 --network net")?;
        check("an address of the lease", site.place("c1", "net", "IPAddress")? == "10.5.72.2", ())?;
        site.exec("c1", &format!("ping -c 1 -W 2 {}", site.outside().address()))?;
        // The refusal of a pool that Docker chose is the command to type.
        let said = site.refused("network create -d flannel other")?;
        check(
            "one line",
            said.lines().count() == 1 && said.contains("type \"docker network create -d flannel"),
            &said,
        )?;
        let image = site.refused(&format!("run --rm --network other {IMAGE} true"))?;
        check("and no network was made", image.contains("not found"), &image)
    });
}
