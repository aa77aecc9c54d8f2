//! The packet-filter engine against a model of the kernel: whatever was there, one repair makes our rules right, a
//! second finds nothing to do, and rules of others are never touched.

use flannel_core::filter::iptables::{Chain, Saved, Table};
use flannel_core::filter::nft;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A table of iptables: its chains in order, each with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model(Vec<(String, Vec<String>)>);

impl Model {
    fn chain(&mut self, name: &str) -> Result<&mut Vec<String>, String> {
        self.0.iter_mut().find(|(n, _)| n == name).map(|(_, rules)| rules).ok_or_else(|| format!("no chain {name}"))
    }

    /// As `iptables-save` prints it.
    fn save(&self) -> String {
        let mut text = "# Generated\n*filter\n".to_owned();
        for (name, _) in &self.0 {
            let policy = if name == "FORWARD" { "DROP" } else { "-" };
            text += &format!(":{name} {policy} [0:0]\n");
        }
        for (name, rules) in &self.0 {
            rules.iter().for_each(|rule| text += &format!("-A {name} {rule}\n"));
        }
        text + "COMMIT\n"
    }

    /// As `iptables-restore --noflush` does: all or nothing.
    fn restore(&self, text: &str) -> Result<Self, String> {
        let mut model = self.clone();
        for line in text.lines().filter(|l| !l.starts_with('*') && *l != "COMMIT") {
            let (command, rest) = line.split_once(' ').ok_or(line)?;
            let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            match command {
                "-A" => model.chain(name)?.push(rule.to_owned()),
                "-F" => model.chain(name)?.clear(),
                "-D" => {
                    let rules = model.chain(name)?;
                    let at = rules.iter().position(|r| r == rule).ok_or_else(|| format!("no rule {line}"))?;
                    rules.remove(at);
                }
                "-X" => {
                    let used = model.0.iter().flat_map(|(_, rules)| rules).any(|r| r.ends_with(&format!(" {name}")));
                    if used || !model.chain(name)?.is_empty() {
                        return Err(format!("{name} is in use"));
                    }
                    model.0.retain(|(n, _)| n != name);
                }
                _ => {
                    let name = command.strip_prefix(':').ok_or(line)?;
                    match model.chain(name) {
                        Ok(rules) => rules.clear(),
                        Err(_) => model.0.push((name.to_owned(), Vec::new())),
                    }
                }
            }
        }
        Ok(model)
    }

    /// What is not ours.
    fn others(&self) -> Self {
        let theirs = |rule: &&String| !rule.ends_with("-j OURS");
        let chains = self.0.iter().filter(|(name, _)| name != "OURS");
        Self(chains.map(|(name, rules)| (name.clone(), rules.iter().filter(theirs).cloned().collect())).collect())
    }

    fn saved(&self) -> Saved {
        Saved::parse(&self.save(), Table::Filter).unwrap()
    }
}

const RULES: [&str; 4] = [
    "-s 10.5.0.0/16 -j ACCEPT",
    "-d 10.5.0.0/16 -j ACCEPT",
    "! -s 10.5.0.0/16 -o fl-aaa -j DROP",
    "-i fl-aaa -o fl-aaa -j RETURN",
];

fn wanted() -> impl Strategy<Value = Chain> {
    (subsequence(&RULES[..], 0..=RULES.len()).prop_shuffle(), any::<bool>()).prop_map(|(rules, comment)| Chain {
        table: Table::Filter,
        parent: "FORWARD",
        name: "OURS".to_owned(),
        jump_matches: if comment { "-m comment --comment \"flanneld forward\"" } else { "" },
        rules: rules.into_iter().map(str::to_owned).collect(),
    })
}

/// Any mixture of ours, others' and what is almost ours.
fn found() -> impl Strategy<Value = Model> {
    let forward = vec(
        select(vec![
            "-j OURS",
            "-m comment --comment \"flanneld forward\" -j OURS",
            "-i lo -j OURS",
            "-j OURS-NOT",
            "-s 10.9.0.0/16 -j DROP",
            "-j THEIRS",
        ]),
        0..8,
    );
    let ours = proptest::option::of(vec(select([&RULES[..], &["-j ACCEPT"]].concat()), 0..6));
    (forward, ours, any::<bool>()).prop_map(|(forward, ours, goto)| {
        let text = |rules: Vec<&str>| rules.into_iter().map(str::to_owned).collect::<Vec<_>>();
        // A rule can only jump to a chain that exists.
        let jumps = forward.into_iter().filter(|rule| ours.is_some() || !rule.ends_with("-j OURS"));
        let theirs = if goto && ours.is_some() { vec!["-s 10.9.0.0/16 -g OURS"] } else { vec!["-j DROP"] };
        let mut chains = vec![
            ("FORWARD".to_owned(), text(jumps.collect())),
            ("OURS-NOT".to_owned(), text(vec!["-j ACCEPT"])),
            ("THEIRS".to_owned(), text(theirs)),
        ];
        chains.extend(ours.map(|ours| ("OURS".to_owned(), text(ours))));
        Model(chains)
    })
}

const HOOK: &str = "type filter hook forward priority filter; policy accept;";

fn table() -> impl Strategy<Value = nft::Table> {
    let chain = |name, hook| {
        subsequence(&["tcp dport 80 drop", "udp dport 53 accept", "ip saddr 10.5.0.0/16 return"][..], 0..=3)
            .prop_map(move |rules| nft::Chain { name, hook, rules: rules.into_iter().map(str::to_owned).collect() })
    };
    (chain("forward", Some(HOOK)), chain("ports", None)).prop_map(|(forward, ports)| nft::Table {
        family: "inet",
        name: "t".to_owned(),
        chains: vec![forward, ports],
    })
}

/// As nft lists it.
fn listed(table: &nft::Table) -> String {
    let text = table.render().replace("  ", "\t").replace("\t}\n", "\t}\n\n");
    text.split_once("delete table inet t\n").unwrap().1.to_owned()
}

proptest! {
    #[test]
    fn one_repair_makes_chain_and_jump_right(chain in wanted(), before in found()) {
        let repair = chain.repair(&before.saved());
        prop_assert_eq!(repair.is_none(), chain.differences(&before.saved()).is_empty());
        let after = repair.map_or_else(|| Ok(before.clone()), |text| before.restore(&text));
        let mut after = after.map_err(TestCaseError::fail)?;
        prop_assert_eq!(chain.repair(&after.saved()), None);
        prop_assert_eq!(before.others(), after.others());
        if chain.rules.is_empty() {
            prop_assert!(after.chain("OURS").map_or(true, |rules| rules.is_empty()));
        } else {
            prop_assert_eq!(after.chain("OURS").unwrap(), &chain.rules);
        }
    }

    #[test]
    fn a_truncated_save_is_never_acted_on(chain in wanted(), before in found(), cut in 0.0..1.0f64) {
        let whole = before.restore(&chain.repair(&before.saved()).unwrap_or_default()).unwrap().save();
        let whole = whole.trim_end();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short text")]
        let part = &whole[..(whole.len() as f64 * cut) as usize];
        // Nothing but the comment at its start may pass for an empty table.
        prop_assert!(!part.contains('*') || Saved::parse(part, Table::Filter).is_err(), "{}", part);
    }

    #[test]
    fn a_table_is_replaced_exactly_when_it_differs(wanted in table(), found in table()) {
        let listing = nft::Listing::parse(&listed(&found), &wanted).unwrap();
        prop_assert_eq!(wanted.repair(Some(&listing)).is_none(), wanted == found);
        prop_assert_eq!(wanted.repair(None), Some(wanted.render()));
        let gone = nft::Table { chains: Vec::new(), ..wanted };
        prop_assert_eq!(gone.repair(Some(&listing)), Some(gone.render()));
    }

    #[test]
    fn a_line_more_or_less_in_a_listing_is_seen(wanted in table(), line in any::<prop::sample::Index>(), removed: bool) {
        let mut lines: Vec<_> = listed(&wanted).lines().map(str::to_owned).collect();
        let rules: Vec<_> = (0..lines.len()).filter(|&n| lines[n].starts_with("\t\t")).collect();
        let at = rules[line.index(rules.len())];
        if removed {
            lines.remove(at);
        } else {
            lines.insert(at + 1, "\t\taccept".to_owned());
        }
        let listing = nft::Listing::parse(&lines.join("\n"), &wanted).unwrap();
        prop_assert!(wanted.repair(Some(&listing)).is_some());
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "(\\*|:|-A |#|filter|COMMIT|table|inet t|\\{|\\}|chain x|\n| ){0,40}") {
        let table = nft::Table { family: "inet", name: "t".to_owned(), chains: Vec::new() };
        drop((Saved::parse(&text, Table::Filter), nft::Listing::parse(&text, &table)));
    }
}
