//! The harness itself: hosts with a Docker of their own.

use std::path::Path;

use flannel_testbed::{Error, IMAGE, Lab, Machine, Result, SOON, Signal, eventually};

fn with_docker(lab: &Lab, number: usize) -> Result<(Machine, flannel_testbed::Dockerd)> {
    let machine = lab.host(number).machine()?;
    let dockerd = machine.dockerd(&[])?;
    machine.import_image()?;
    Ok((machine, dockerd))
}

fn sleeper(machine: &Machine, words: &str) -> Result<String> {
    machine.docker_line(&format!("run -d {words} {IMAGE} sleep 1000"))
}

#[test]
fn two_hosts_have_a_docker_each_and_leave_nothing() {
    let (mut directory, mut cgroup) = (String::new(), String::new());
    Lab::flat(2).unwrap().check(|lab| {
        let (one, _first) = with_docker(lab, 1)?;
        let (two, _second) = with_docker(lab, 2)?;
        sleeper(&one, "--name a1")?;
        assert!(two.docker_line("ps -aq")?.is_empty(), "the second sees the first one's container");
        assert_eq!(one.docker_line("info -f {{.Driver}}")?, "overlay2");
        // Docker's own bridge leads out to the underlay, and FORWARD drops what no rule lets through.
        one.docker_line(&format!("exec a1 ping -c 1 -W 2 {}", lab.host(2).address()))?;
        assert_eq!(one.exec("iptables -S FORWARD")?.lines().next(), Some("-P FORWARD DROP"));
        assert_eq!(one.exec("hostname")?.trim(), "h1");
        directory = one.directory().display().to_string();
        one.cgroup().clone_into(&mut cgroup);
        assert!(cgroups(&cgroup) > 0, "no cgroup of that name was made");
        Ok(())
    });
    assert!(!Path::new(&directory).exists(), "{directory} is left");
    assert_eq!(cgroups(&cgroup), 0, "cgroups are left");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&directory), "{mounts}");
}

fn cgroups(name: &str) -> usize {
    let places = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path().join(name));
    places.filter(|p| p.exists()).count()
}

#[test]
fn live_restore_keeps_containers_over_a_kill_and_a_reboot_does_not() {
    let mut lab = Lab::flat(1).unwrap();
    let (machine, dockerd) = with_docker(&lab, 1).unwrap();
    dockerd.end(Signal::TERM).unwrap();
    let dockerd = machine.dockerd(&["--live-restore"]).unwrap();
    sleeper(&machine, "--name a1").unwrap();
    let pid = || machine.docker_line("inspect -f {{.State.Pid}} a1").unwrap();
    let before = pid();
    dockerd.end(Signal::KILL).unwrap();
    let _again = machine.dockerd(&["--live-restore"]).unwrap();
    assert_eq!(pid(), before);
    sleeper(&machine, "--name b1 --restart always").unwrap();
    machine.power_off();
    lab.reboot(1).unwrap();
    let machine = lab.host(1).machine().unwrap();
    let _booted = machine.dockerd(&[]).unwrap();
    let running = || machine.docker_line("ps --format {{.Names}}");
    eventually("the container with a policy", SOON, || match running()?.as_str() {
        "b1" => Ok(()),
        other => Err(Error::new(other)),
    })
    .unwrap();
}

#[test]
fn a_snapshot_sees_what_comes_and_goes() {
    Lab::flat(1).unwrap().check(|lab| {
        let machine = lab.host(1).machine()?;
        let before = machine.snapshot()?;
        machine.exec("ip link add x0 mtu 1400 type bridge")?;
        machine.exec("ip addr add 10.9.9.1/24 dev x0")?;
        machine.exec("iptables -t nat -A POSTROUTING -s 10.9.9.0/24 -j ACCEPT")?;
        let more = machine.snapshot()?.since(&before);
        assert!(more.contains(&"+ link x0 mtu 1400".to_owned()), "{more:#?}");
        assert!(more.iter().any(|l| l.starts_with("+ address x0 inet 10.9.9.1/24")), "{more:#?}");
        assert!(more.iter().any(|l| l.contains("iptables-save nat -A POSTROUTING -s 10.9.9.0/24")), "{more:#?}");
        machine.exec("ip link del x0")?;
        machine.exec("iptables -t nat -D POSTROUTING -s 10.9.9.0/24 -j ACCEPT")?;
        assert_eq!(machine.snapshot()?.since(&before), Vec::<String>::new());
        Ok(())
    });
}
