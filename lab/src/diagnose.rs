//! What one wants to see of a host when something is down.

use std::path::{Path, PathBuf};

use crate::host::LabHost;
use crate::{Error, Result};

/// What was captured on a host while failed paths were tried again.
const CAPTURE: &str = "/var/log/lab/capture.pcap";

/// Commands on a host, each under a heading.
const QUESTIONS: [(&str, &str); 11] = [
    ("host log", "cat /proc/1/environ | tr '\\0' '\\n' | grep -E '^(ETCD|FLANNEL|BACKEND)'"),
    ("subnet.env", "cat /run/flannel/subnet.env"),
    ("links", "ip -d -br link; ip -br addr"),
    ("routes", "ip route show table all | grep -v '^\\(local\\|broadcast\\|multicast\\|ff00\\)'"),
    ("neighbours", "ip neigh; bridge fdb show | grep -v permanent$"),
    ("flannel devices", "ip -d link show type vxlan; ip tuntap"),
    ("rules", "iptables-save"),
    ("containers", "docker ps -a; docker network ls; docker network inspect $(docker network ls -q -f driver=flannel)"),
    ("flannel's log", "docker -H unix:///run/docker-early.sock logs --tail 200 flannel 2>&1"),
    ("early dockerd's log", "tail -n 60 /var/log/lab/early.log"),
    ("main dockerd's log", "tail -n 100 /var/log/lab/main.log"),
];

/// All that is known of a host, as text.
pub async fn host(host: &LabHost) -> String {
    let mut text = format!("######## {} ({})\n", host.name, host.container);
    text.push_str(&host.engine().tail(&host.container, 40).await);
    for (title, command) in QUESTIONS {
        let found = match host.exec(&["sh", "-c", command]).await {
            Ok(output) => format!("{}{}", output.stdout, output.stderr),
            Err(error) => format!("({error})\n"),
        };
        text.push_str(&format!("==== {}: {title}\n{found}", host.name));
    }
    text
}

/// Writes a file per host, what was captured there, and etcd's keys, into a directory; its name.
pub async fn write(hosts: &[LabHost], etcd: Option<&str>, directory: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| Error::State(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    for each in hosts {
        std::fs::write(directory.join(format!("{}.txt", each.name)), host(each).await).map_err(failed)?;
        let capture = directory.join(format!("{}.pcap", each.name));
        if each.exec(&["test", "-e", CAPTURE]).await?.code == 0 {
            each.engine().copy(&each.container, CAPTURE, &capture).await?;
        }
    }
    if let (Some(etcd), Some(any)) = (etcd, hosts.first()) {
        let keys = any.engine().exec(etcd, &["etcdctl", "get", "--prefix", ""]).await;
        let text = keys.map_or_else(|error| error.to_string(), |output| output.stdout + &output.stderr);
        std::fs::write(directory.join("etcd.txt"), text).map_err(failed)?;
    }
    Ok(directory.to_owned())
}
