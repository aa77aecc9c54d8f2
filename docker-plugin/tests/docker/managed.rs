//! The managed plugin (`docker plugin create`), made by its script out of the image, on hosts with a Docker of their own;
//! alone, and under a swarm by `--scope swarm --config-from`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flannel_testbed::{Error, IMAGE, Lab, Machine, Result, SOON, eventually, output};

use crate::site::typed::run;

/// A service's task: the image is there, but the swarm agrees on it first.
const TASK: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The plugin's directory, as the script makes it.
fn plugin_directory(place: &Path) -> PathBuf {
    let directory = place.join("managed");
    let build = root().join("docker-plugin/dist/managed/build");
    output(Command::new(build).arg(&directory).arg("flannel")).unwrap();
    directory
}

/// Boots the host with flanneld (host-gw), Docker and the plugin.
fn with_plugin(lab: &Lab, number: usize, plugin: &Path) -> Result<Machine> {
    let host = lab.host(number);
    let machine = host.machine()?;
    let flanneld = root().join("target/bin/flanneld");
    assert!(flanneld.exists(), "{} is missing: run ci/build", flanneld.display());
    let subnet_file = machine.run_directory().join("flannel/subnet.env");
    let daemon = host.flanneld(flanneld).subnet_file(subnet_file).args(&["-ip-masq"]).start()?;
    daemon.ready()?;
    machine.dockerd(&[])?;
    machine.import_image()?;
    machine.exec("mkdir -p /var/lib/flannel-docker")?;
    machine.docker(&["plugin", "create", "flannel", &plugin.display().to_string()])?;
    machine.docker_line("plugin enable flannel")?;
    Ok(machine)
}

fn lab(hosts: usize) -> Lab {
    let lab = Lab::flat(hosts).unwrap();
    lab.etcd().put("/coreos.com/network/config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    lab
}

/// Whether `container` of `machine` reaches `address`.
fn reaches(machine: &Machine, container: &str, address: &str) -> Result<()> {
    let line = format!("exec {container} ping -c 1 -W 2 {address}");
    eventually(&format!("{container} reaches {address}"), SOON, || machine.docker_line(&line).map(drop))
}

/// The address of a container's interface on the flannel network.
fn address(machine: &Machine, container: &str, network: &str) -> Result<String> {
    machine.docker_line(&format!("inspect -f {{{{.NetworkSettings.Networks.{network}.IPAddress}}}} {container}"))
}

/// One test for both, because making and enabling the plugin is most of the work.
#[test]
fn a_managed_plugin_serves_a_host_and_a_swarm() {
    let place = tempfile::tempdir().unwrap();
    let plugin = plugin_directory(place.path());
    lab(2).check(|lab| {
        let machines = [with_plugin(lab, 1, &plugin)?, with_plugin(lab, 2, &plugin)?];
        on_each_host(&machines)?;
        let [one, two] = &machines;
        let manager = lab.host(1).address();
        one.docker_line(&format!("swarm init --advertise-addr {manager}"))?;
        let token = one.docker_line("swarm join-token -q worker")?;
        two.docker_line(&format!("swarm join --token {token} {manager}:2377"))?;
        in_a_swarm(&machines)
    });
}

/// Networks of scope local: typed on each host, talking to each other, and there again with the plugin.
fn on_each_host(machines: &[Machine; 2]) -> Result<()> {
    for machine in machines {
        machine.docker_line("network create -d flannel:latest --ipam-driver flannel:latest local")?;
        machine.docker_line(&format!("run -d --name c1 --network local {IMAGE} sleep 1000"))?;
    }
    let [one, two] = machines;
    reaches(one, "c1", &address(two, "c1", "local")?)?;
    // A wrong command is answered with one that can be typed here.
    let foreign = one.docker_line("network create -d flannel:latest other").unwrap_err().to_string();
    assert!(foreign.contains("-d flannel:latest --ipam-driver flannel:latest"), "{foreign}");

    two.docker_line("plugin disable -f flannel")?;
    two.docker_line("plugin enable flannel")?;
    reaches(one, "c1", &address(two, "c1", "local")?)?;
    two.docker_line(&format!("run -d --name c2 --network local {IMAGE} sleep 1000"))?;
    assert_ne!(address(two, "c1", "local")?, address(two, "c2", "local")?);
    reaches(one, "c1", &address(two, "c2", "local")?)?;
    one.docker_line("rm -f c1")?;
    two.docker_line("rm -f c1 c2")?;
    for machine in machines {
        machine.docker_line("network rm local")?;
    }
    Ok(())
}

/// One network for the whole swarm, in which each host's tasks have addresses of that host's lease.
fn in_a_swarm(machines: &[Machine; 2]) -> Result<()> {
    let [one, two] = machines;
    for machine in machines {
        machine.docker_line("network create --config-only --ipam-driver flannel:latest flannel-config")?;
    }
    let create = "network create -d flannel:latest --scope swarm --config-from flannel-config --attachable fl";
    one.docker_line(create)?;
    let service = "service create -d --name web --mode global --endpoint-mode dnsrr --network fl";
    one.docker_line(&format!("{service} {IMAGE} httpd -f -p 80 -h /"))?;
    let task = |machine: &Machine| {
        eventually("a task of web", TASK, || match machine.docker_line("ps -q --filter name=web")? {
            none if none.is_empty() => Err(Error::new(one.docker_line("service ps --no-trunc web")?)),
            id => Ok(id),
        })
    };
    let tasks = [task(one)?, task(two)?];
    let addresses = [address(one, &tasks[0], "fl")?, address(two, &tasks[1], "fl")?];
    for (machine, address) in machines.iter().zip(&addresses) {
        let text = machine.exec("cat /run/flannel/subnet.env")?;
        let subnet = text.lines().find_map(|l| l.strip_prefix("FLANNEL_SUBNET=")).unwrap_or_default();
        let lease = subnet.rsplit_once('.').map_or("no lease", |(net, _)| net);
        assert!(address.starts_with(&format!("{lease}.")), "{address} is not of {subnet}");
    }
    reaches(one, &tasks[0], &addresses[1])?;
    reaches(two, &tasks[1], &addresses[0])?;
    // Names of the other host's tasks, which no network of one host has, from a container of one's own.
    eventually("both tasks by name", SOON, || {
        let found = two.docker_line(&format!("run --rm --network fl {IMAGE} nslookup web 127.0.0.11"))?;
        if addresses.iter().all(|a| found.contains(a.as_str())) { Ok(()) } else { Err(Error::new(found)) }
    })?;
    one.docker_line("service rm web")?;
    for machine in machines {
        eventually("the tasks are gone", TASK, || match machine.docker_line("ps -q --filter name=web")? {
            none if none.is_empty() => Ok(()),
            left => Err(Error::new(left)),
        })?;
    }
    eventually("the network is free", SOON, || one.docker_line("network rm fl").map(drop))?;
    eventually("no bridge of it is left", SOON, || {
        let links = two.exec("ip -o link")?;
        if links.contains(": fl-") { Err(Error::new(links)) } else { Ok(()) }
    })
}

/// What Docker is to be told is in the file, and the file names flags that there are.
#[test]
fn the_config_names_flags_that_there_are() {
    let text = std::fs::read_to_string(root().join("docker-plugin/dist/managed/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let said = run(Command::new(env!("CARGO_BIN_EXE_flannel-docker")).arg("-help")).unwrap();
    let help = said.stdout + &said.stderr;
    for variable in config["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let flag = name.strip_prefix("FLANNEL_DOCKER_").unwrap().to_lowercase().replace('_', "-");
        assert!(help.contains(&format!("-{flag}")), "{name}: {help}");
    }
}
