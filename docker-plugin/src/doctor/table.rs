//! Whether the table of ways out and published ports ([`crate::nat`]) is in the packet filter as the plugin writes it.

use super::Problem;
use crate::firewall::Rules as _;
use crate::nat::{Chain, Nat, chains, mark, nft};

/// What is off with the table, if anything.
pub(super) async fn compare(nat: &Nat, table: &str) -> Option<Problem> {
    let there = match nft::list(table).await {
        Ok(there) => there,
        // Without such networks a host needs no nft.
        Err(_) if nat.is_empty() => return None,
        Err(e) => return Some(Problem::unreadable(e, "nftables")),
    };
    let what = match there {
        None if nat.is_empty() => return None,
        None => "it is missing".to_owned(),
        Some(_) if nat.is_empty() => "it is left, and no network needs it".to_owned(),
        Some(text) => differs(&chains(nat), &text)?,
    };
    Some(Problem::of_rules("ports-wrong", format!("packet filter, table inet {table}: {what}")))
}

/// The first difference between the chains wanted and those of a listing.
fn differs(wanted: &[Chain], listing: &str) -> Option<String> {
    let mut there = read(listing);
    for Chain { name, hook, rules } in wanted {
        let Some(at) = there.iter().position(|(chain, _)| chain == name) else {
            return Some(format!("chain {name} is missing"));
        };
        let (_, mut lines) = there.swap_remove(at);
        if let Some((hook, _)) = hook {
            if !lines.first().is_some_and(|l| l.starts_with(hook)) {
                return Some(format!("chain {name} is not called by the kernel"));
            }
            lines.remove(0);
        }
        for (n, rule) in rules.iter().enumerate() {
            match lines.get(n) {
                Some(line) if mark_of(line) == Some(&mark(rule)) => {}
                Some(line) if rules[n..].iter().any(|r| mark_of(line) == Some(&mark(r))) => {
                    return Some(format!("chain {name}: the rule \"{rule}\" is missing"));
                }
                Some(line) => return Some(format!("chain {name}: the rule \"{line}\" is too much")),
                None => return Some(format!("chain {name}: the rule \"{rule}\" is missing")),
            }
        }
        if let Some(line) = lines.get(rules.len()) {
            return Some(format!("chain {name}: the rule \"{line}\" is too much"));
        }
    }
    there.first().map(|(name, lines)| match name.as_str() {
        TABLE => format!("\"{}\" is too much", lines.join("; ")),
        name => format!("chain {name} is too much"),
    })
}

/// In place of a chain's name: what belongs to the table as a whole, as its flags do.
const TABLE: &str = "";

/// The chains of a listing, with their lines.
fn read(listing: &str) -> Vec<(String, Vec<&str>)> {
    let mut chains: Vec<(String, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in listing.lines().map(str::trim) {
        match line.strip_suffix(" {") {
            Some(head) if head.starts_with("table ") => {}
            Some(head) if !inside => {
                chains.push((head.strip_prefix("chain ").unwrap_or(head).to_owned(), Vec::new()));
                inside = true;
            }
            _ if line.is_empty() => {}
            _ if line == "}" => inside = false,
            _ if inside => chains.last_mut().into_iter().for_each(|(_, lines)| lines.push(line)),
            _ => chains.push((TABLE.to_owned(), vec![line])),
        }
    }
    chains
}

fn mark_of(line: &str) -> Option<&str> {
    line.rsplit_once(" comment \"")?.1.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Way, render};

    fn wanted() -> Nat {
        let way = Way {
            bridge: flannel_core::name::IfName::new("fl-aaa").unwrap(),
            sides: vec![("10.5.72.0/24".parse().unwrap(), "10.5.0.0/16".parse().unwrap())],
        };
        Nat { bridges: vec![way], ports: Vec::new() }
    }

    /// As nft lists what was rendered: only words for priorities differ.
    fn listing() -> String {
        let text = render(&wanted(), "t").replace("priority -100", "priority dstnat");
        text.split_once("delete table inet t\n").unwrap().1.to_owned()
    }

    #[test]
    fn a_listing_of_what_was_written_is_well() {
        assert_eq!(differs(&chains(&wanted()), &listing()), None);
    }

    #[test]
    fn each_change_is_named() {
        let guard = "iifname \"fl-aaa\" ip saddr 127.0.0.0/8 drop";
        let marked = format!("{guard} comment \"{}\"\n", mark(guard));
        for (from, to, expected) in [
            (marked.as_str(), "", format!("chain guard: the rule \"{guard}\" is missing")),
            (&marked, "accept\n", "chain guard: the rule \"accept\" is too much".to_owned()),
            (&marked, &format!("{marked}accept\n"), "chain guard: the rule \"accept\" is too much".to_owned()),
            ("type nat hook output priority dstnat; policy accept;\n", "", "chain output is not called".to_owned()),
            ("chain ports {\n}\n", "", "chain ports is missing".to_owned()),
            ("chain ports {\n", "chain more {\naccept\n}\nchain ports {\n", "chain more is too much".to_owned()),
            ("chain ports {\n", "flags dormant\nchain ports {\n", "\"flags dormant\" is too much".to_owned()),
        ] {
            let text = listing();
            assert!(text.contains(from), "{from}: {text}");
            let said = differs(&chains(&wanted()), &text.replace(from, to)).unwrap_or_default();
            assert!(said.starts_with(&expected), "{said:?} is not {expected:?}");
        }
    }
}
