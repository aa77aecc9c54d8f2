//! What a person wants to see of a failed lab.

use std::fmt::Write as _;
use std::path::Path;

use super::{Context, Host, Lab, Namespace, Result, World};

/// The state of every host: links, addresses, routes, neighbours, forwarding entries, rules, logs; and etcd's keys.
pub(super) fn report(lab: &Lab) -> String {
    let mut text = String::from("==== the lab when the test failed ====\n");
    section(&mut text, "switch: ip -br link", lab.switch().ip("-br link"));
    let keys = lab.etcd().list("/").map(|all| all.iter().map(|kv| format!("{}\n    {}\n", kv.key, kv.value)).collect());
    section(&mut text, "etcd: keys", keys);
    for host in lab.hosts() {
        host_state(&mut text, host);
    }
    text
}

/// A file for each host with its state, the logs as they are, and etcd's keys, in a directory.
pub(super) fn write(world: &World, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).context(|| directory.display().to_string())?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).context(|| path.display().to_string())
    };
    for node in world.nodes() {
        let mut text = String::new();
        host_state(&mut text, node);
        put(&format!("{}.txt", node.name()), &text)?;
    }
    let keys =
        world.etcd().list("/").map(|all| all.iter().map(|kv| format!("{}\n    {}\n", kv.key, kv.value)).collect());
    let mut text = String::new();
    section(&mut text, "etcd: keys", keys);
    for (member, etcd) in world.etcds().iter().enumerate() {
        section(&mut text, &format!("etcd{member}: log"), Ok(etcd.log()));
    }
    put("etcd.txt", &text)?;
    for name in ["underlay.pcap", "tcpdump.log"] {
        let from = world.directory().join(name);
        if from.exists() {
            std::fs::copy(&from, directory.join(name)).context(|| from.display().to_string())?;
        }
    }
    Ok(())
}

fn host_state(text: &mut String, host: &Host) {
    {
        let name = host.name();
        for question in ["-d link", "addr", "route", "neigh"] {
            section(text, &format!("{name}: ip {question}"), host.ip(question));
        }
        section(text, &format!("{name}: bridge fdb"), host.bridge("fdb"));
        section(text, &format!("{name}: iptables-save"), Namespace::exec(host, "iptables-save"));
        for file in std::fs::read_dir(host.directory()).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let interesting = file.extension().is_some_and(|e| e == "log" || e == "env");
            if let (true, Ok(content)) = (interesting, std::fs::read(&file)) {
                section(text, &format!("{name}: {}", file.display()), Ok(String::from_utf8_lossy(&content).into()));
            }
        }
    }
}

fn section(text: &mut String, title: &str, content: Result<String>) {
    let content = content.unwrap_or_else(|e| format!("({e})"));
    // Writing into a String can't fail; nothing is lost if it did.
    if writeln!(text, "---- {title}\n{}", content.trim_end()).is_err() {
        text.push('\n');
    }
}
