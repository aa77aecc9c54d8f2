//! What a host's kernel knows about its network, to be compared with what it knew before.

use std::collections::BTreeSet;

use crate::{Machine, Result};

/// Links, addresses, routes and rules, one a line, without what changes by itself: indices, carriers, counters, and
/// the addresses the kernel makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Machine {
    /// Its state now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut lines = BTreeSet::new();
        let own = |line: &str| !line.contains("fe80:") && !line.contains("ff00::/8");
        for line in self.exec("ip -o link")?.lines() {
            lines.insert(link(line));
        }
        for line in self.exec("ip -o addr")?.lines().filter(|l| own(l)) {
            let words: Vec<_> =
                before(after(line, ": "), "\\").split_whitespace().filter(|w| *w != "tentative").collect();
            lines.insert(format!("address {}", words.join(" ")));
        }
        for family in ["-4", "-6"] {
            for line in self.exec(&format!("ip {family} route show table all"))?.lines().filter(|l| own(l)) {
                // What a bridge without a port has and one with a port has not, and back again.
                let line = line.replace(" linkdown", "").replace(" dead", "");
                if !line.starts_with("multicast") && !line.starts_with("anycast") {
                    lines.insert(format!("route {}", line.trim_end()));
                }
            }
        }
        for program in ["iptables-save", "ip6tables-save"] {
            let mut table = String::new();
            for line in self.exec(program)?.lines() {
                match line.split_at_checked(1) {
                    Some(("*", name)) => name.clone_into(&mut table),
                    // A table comes with its first use, and never goes.
                    Some((":", rest)) if rest.contains(" ACCEPT [") => {}
                    Some((":" | "-", _)) => _ = lines.insert(format!("{program} {table} {}", before(line, " ["))),
                    _ => {}
                }
            }
        }
        let of_iptables = |line: &&str| ["filter", "nat", "mangle", "raw"].iter().any(|t| line.ends_with(t));
        for line in self.exec("nft list tables")?.lines().filter(|l| !of_iptables(l)) {
            lines.insert(format!("nft {line}"));
        }
        Ok(Snapshot(lines))
    }
}

impl Snapshot {
    /// What is there now and was not, with a plus, and what was there and is not, with a minus.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let more = self.0.difference(&before.0).map(|l| format!("+ {l}"));
        more.chain(before.0.difference(&self.0).map(|l| format!("- {l}"))).collect()
    }

    /// The lines with this text.
    pub fn with(&self, text: &str) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|l| l.contains(text)).collect()
    }
}

/// `5: fl-1: <BROADCAST,UP> mtu 1450 qdisc noqueue state UP ...\    link/ether MAC ... alias TEXT`
fn link(line: &str) -> String {
    let rest = after(line, ": ");
    let name = before(before(rest, ": "), "@");
    let words: Vec<_> = rest.split_whitespace().collect();
    let value = |key: &str| {
        let at = words.iter().position(|w| *w == key)?;
        Some(format!(" {key} {}", words.get(at + 1)?))
    };
    let found: String = ["mtu", "master", "alias"].iter().filter_map(|key| value(key)).collect();
    format!("link {name}{found}")
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or(text, |(_, rest)| rest)
}

fn before<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or(text, |(start, _)| start).trim_end()
}
