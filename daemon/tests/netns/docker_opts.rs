//! Docker itself started with the options made of the lease, in a host's namespace.

use std::process::Command;
use std::time::Duration;

use crate::support::*;

/// A Docker with nothing but the options given.
struct Docker {
    process: Process,
    address: String,
}

impl Docker {
    /// In the host's network, but with this machine's view of control groups, which `ip netns exec` would hide.
    fn start(host: &Host, options: &str) -> Result<Self> {
        let namespace: &Namespace = host;
        let file = |name: &str| host.directory().join(name).display().to_string();
        std::fs::write(file("daemon.json"), "{}").context(|| file("daemon.json"))?;
        let address = format!("unix://{}", file("docker.sock"));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", namespace.name())).arg("dockerd");
        command.args(["--config-file", &file("daemon.json"), "--host", &address, "--data-root", &file("data")]);
        command.args(["--exec-root", &file("exec"), "--pidfile", &file("docker.pid")]);
        command.args(["--storage-driver=vfs", "--iptables=false"]).args(options.split_whitespace());
        let process = Process::start("dockerd", command, &host.directory().join("dockerd.log"))?;
        let docker = Self { process, address };
        eventually("an answer of dockerd", Duration::from_secs(60), || {
            if let Some(status) = docker.process.exited()? {
                return Err(Error::new(format!("dockerd ended: {status}: {}", docker.process.log())));
            }
            docker.call("version")
        })?;
        Ok(docker)
    }

    fn call(&self, line: &str) -> Result<String> {
        output(Command::new("docker").args(["-H", &self.address]).args(line.split_whitespace()))
    }

    fn subnet_of(&self, network: &str) -> Result<String> {
        let template = "{{range.IPAM.Config}}{{.Subnet}}{{end}}";
        Ok(self.call(&format!("network inspect -f {template} {network}"))?.trim().to_owned())
    }

    fn stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.exit_within(Duration::from_secs(30)).map(|_| ())
    }
}

/// Each network gets a part of the lease, the bridge has the first, and with the last one taken Docker refuses.
#[test]
fn dockers_networks_are_parts_of_the_lease() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-ip-masq"])?;
        let lease = host.subnet_env()?.subnet();
        let line = format!(
            "{FLANNELD} docker-opts -f {} -d /dev/stdout -c -k X --address-pool 26",
            host.subnet_file().display()
        );
        let made = host.exec(&line)?;
        let options = made.trim().strip_prefix("X=\"").and_then(|o| o.strip_suffix('"')).context(|| made.clone())?;
        let docker = Docker::start(host, options)?;
        let part = |offset: u32| format!("{}/26", std::net::Ipv4Addr::from(lease.network().to_bits() + offset));
        assert_eq!(docker.subnet_of("bridge")?, part(0));
        for (name, offset) in [("a", 64), ("b", 128), ("c", 192)] {
            docker.call(&format!("network create {name}"))?;
            assert_eq!(docker.subnet_of(name)?, part(offset));
        }
        let error = docker.call("network create d").unwrap_err().to_string();
        assert!(error.contains("could not find an available"), "{error}");
        docker.stop()
    });
}
