//! Whether the forward rules are in the packet filter as the plugin writes them.

use std::collections::BTreeSet;
use std::process::Stdio;

use tokio::process::Command;

use super::Problem;
use crate::firewall::{Family, RuleSet, Table, render};

/// What is missing of the rules, or too much.
pub(super) async fn compare(rules: &RuleSet, chain: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for family in [Family::V4, Family::V6] {
        for table in Table::ALL {
            let needed = rules.needs(family, table);
            let there = match saved(family, table).await {
                Ok(text) => text,
                // Without ip6tables there are no rules to compare.
                Err(_) if !needed => continue,
                Err(e) => {
                    problems.push(Problem::unreadable(e, "iptables"));
                    continue;
                }
            };
            let wanted =
                if needed { lines(&render(rules, family, table, chain, true), chain) } else { BTreeSet::new() };
            let there = lines(&there, chain);
            if wanted != there {
                problems.push(Problem::of_rules("rules-wrong", describe(&wanted, &there, table, chain)));
            }
        }
    }
    problems
}

fn describe(wanted: &BTreeSet<String>, there: &BTreeSet<String>, table: Table, chain: &str) -> String {
    let table = table.name();
    match (wanted.difference(there).next(), there.difference(wanted).next()) {
        (Some(missing), _) => format!("packet filter, table {table}: the rule \"{missing}\" is missing"),
        (None, Some(extra)) => format!("packet filter, table {table}: the rule \"{extra}\" is too much"),
        (None, None) => format!("packet filter, table {table}: chain {chain} differs"),
    }
}

/// The rules of our chain and the jumps to it.
fn lines(text: &str, chain: &str) -> BTreeSet<String> {
    let ours = |l: &&str| l.starts_with(&format!("-A {chain} ")) || **l == format!("-A FORWARD -j {chain}");
    text.lines().map(str::trim_end).filter(ours).map(str::to_owned).collect()
}

async fn saved(family: Family, table: Table) -> Result<String, String> {
    let program = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    let mut command = Command::new(program);
    command.args(["-t", table.name()]).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let child = command.kill_on_drop(true).spawn().map_err(|e| format!("{program} can't be run: {e}"))?;
    let output = child.wait_with_output().await.map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_rules_are_compared() {
        let text = "*filter\n:FORWARD DROP [0:0]\n:X - [0:0]\n-A FORWARD -j X\n-A FORWARD -j X-OTHER\n\
                    -A X -i fl-1 -j ACCEPT\n-A X-OTHER -j DROP\nCOMMIT\n";
        let ours: Vec<_> = lines(text, "X").into_iter().collect();
        assert_eq!(ours, ["-A FORWARD -j X", "-A X -i fl-1 -j ACCEPT"]);
    }
}
