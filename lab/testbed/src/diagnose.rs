//! What a person wants to see of a failed lab.

use std::fmt::Write as _;

use crate::{Host, Lab, Namespace, Result};

/// The state of every host: links, addresses, routes, neighbours, forwarding entries, rules, logs; and etcd's keys.
pub(crate) fn report(lab: &Lab) -> String {
    let mut text = String::from("==== the lab when the test failed ====\n");
    section(&mut text, "switch: ip -br link", lab.switch().ip("-br link"));
    let keys = lab.etcd().list("/").map(|all| all.iter().map(|kv| format!("{}\n    {}\n", kv.key, kv.value)).collect());
    section(&mut text, "etcd: keys", keys);
    for host in lab.hosts() {
        host_state(&mut text, host);
    }
    text
}

/// Appends the state of `host`: links, addresses, routes, neighbours, forwarding entries, rules and logs.
pub fn host_state(text: &mut String, host: &Host) {
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

/// Appends `content`, or why there is none, below a heading.
pub fn section(text: &mut String, title: &str, content: Result<String>) {
    let content = content.unwrap_or_else(|e| format!("({e})"));
    // Writing into a String cannot fail; nothing is lost if it did.
    if writeln!(text, "---- {title}\n{}", content.trim_end()).is_err() {
        text.push('\n');
    }
}
