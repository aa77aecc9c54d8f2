//! Rules as `iptables-save` prints them and `iptables-restore` reads them.
//!
//! Each concern is a chain of its own, reached by one jump at the end of a built-in chain. It is compared in full and
//! in order, and repaired in one transaction that leaves alone whatever is already right.

use std::fmt::{self, Write as _};

use super::Unreadable;

/// A table of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Where forwarded packets are accepted.
    Filter,
    /// Passed before `filter`, so that no accept there undoes a drop.
    Mangle,
    /// Address translation.
    Nat,
}

impl Table {
    /// The name iptables has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A chain of ours with the jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The table it is in.
    pub table: Table,
    /// The built-in chain that jumps to it.
    pub parent: &'static str,
    /// Its name; iptables allows 28 characters.
    pub name: String,
    /// Matches of the jump, as `iptables-save` prints them; may be empty.
    pub jump_matches: &'static str,
    /// The rules without `-A NAME`; none means that neither chain nor jump should exist.
    pub rules: Vec<String>,
}

/// What `iptables-save -t TABLE` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved(String);

impl Saved {
    /// Checks that the text is a whole list of this table, or says nothing because the kernel has no such table.
    pub fn parse(text: &str, table: Table) -> Result<Self, Unreadable> {
        // iptables-nft exits with 0 after this line.
        if text.lines().any(|l| l.starts_with("# Table ") && l.contains(" is incompatible")) {
            return Err(Unreadable::Incompatible { table: table.to_string() });
        }
        let mut lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        match lines.next() {
            None => Ok(Self(String::new())),
            Some(first) if first.strip_prefix('*') == Some(table.name()) => match lines.next_back() {
                Some("COMMIT") => Ok(Self(text.to_owned())),
                _ => Err(Unreadable::Truncated { table: table.to_string() }),
            },
            Some(line) => Err(Unreadable::Unexpected { table: table.to_string(), line: line.to_owned() }),
        }
    }

    /// Whether packets that no rule of this built-in chain accepts are dropped.
    pub fn drops_by_default(&self, chain: &str) -> bool {
        self.0.lines().any(|line| line.strip_prefix(':').is_some_and(|l| l.starts_with(&format!("{chain} DROP"))))
    }

    fn declares(&self, chain: &str) -> bool {
        self.0.lines().any(|l| l.strip_prefix(':').is_some_and(|l| l.split(' ').next() == Some(chain)))
    }

    /// The rules of a chain, without `-A CHAIN`.
    fn rules(&self, chain: &str) -> Vec<&str> {
        let start = format!("-A {chain} ");
        self.0.lines().filter_map(|l| l.strip_prefix(&start)).map(str::trim_end).collect()
    }

    /// The rules of `parent` that jump to `chain`.
    fn jumps(&self, parent: &str, chain: &str) -> Vec<&str> {
        self.rules(parent).into_iter().filter(|rule| leads_to(rule, chain)).collect()
    }

    /// Whether a chain other than `parent` leads to `chain`, which can then not be deleted.
    fn is_used_elsewhere(&self, parent: &str, chain: &str) -> bool {
        let rules = self.0.lines().filter_map(|l| l.strip_prefix("-A ")?.split_once(' '));
        rules.into_iter().any(|(from, rule)| {
            let words: Vec<_> = rule.split(' ').collect();
            let mut pairs = words.windows(2);
            pairs.any(|pair| matches!(pair, ["-j" | "-g", to] if *to == chain)) && from != parent
        })
    }
}

fn leads_to(rule: &str, chain: &str) -> bool {
    rule.strip_suffix(chain).is_some_and(|rule| rule == "-j " || rule.ends_with(" -j "))
}

/// What of a chain is not as it should be.
struct Comparison<'a> {
    declared: bool,
    removable: bool,
    rules: Vec<&'a str>,
    rules_right: bool,
    jumps: Vec<&'a str>,
    jump_right: bool,
}

impl Chain {
    fn jump(&self) -> String {
        format!("{} -j {}", self.jump_matches, self.name).trim_start().to_owned()
    }

    fn compare<'a>(&self, saved: &'a Saved) -> Comparison<'a> {
        let declared = saved.declares(&self.name);
        let removable = !saved.is_used_elsewhere(self.parent, &self.name);
        let rules = saved.rules(&self.name);
        let jumps = saved.jumps(self.parent, &self.name);
        let wanted = !self.rules.is_empty();
        Comparison {
            jump_right: if wanted { jumps == [self.jump()] } else { jumps.is_empty() },
            rules_right: rules == self.rules && (declared == wanted || !wanted && !removable),
            declared,
            removable,
            rules,
            jumps,
        }
    }

    /// The text for `iptables-restore --noflush` that installs the chain on a host that has nothing of it.
    pub fn render(&self) -> String {
        self.repair(&Saved(String::new())).unwrap_or_default()
    }

    /// The text for `iptables-restore --noflush` that makes chain and jump right; nothing when they are.
    pub fn repair(&self, saved: &Saved) -> Option<String> {
        let found = self.compare(saved);
        if found.jump_right && found.rules_right {
            return None;
        }
        let Self { parent, name, rules, .. } = self;
        let mut text = format!("*{}\n", self.table);
        let mut line = |l: fmt::Arguments<'_>| writeln!(text, "{l}").expect("a String takes every write");
        if !found.jump_right {
            found.jumps.iter().for_each(|jump| line(format_args!("-D {parent} {jump}")));
        }
        if rules.is_empty() {
            if found.declared {
                line(format_args!("-F {name}"));
                if found.removable {
                    line(format_args!("-X {name}"));
                }
            }
        } else {
            if !found.rules_right {
                // Creates the chain, or empties it.
                line(format_args!(":{name} - [0:0]"));
                rules.iter().for_each(|rule| line(format_args!("-A {name} {rule}")));
            }
            if !found.jump_right {
                line(format_args!("-A {parent} {}", self.jump()));
            }
        }
        text.push_str("COMMIT\n");
        Some(text)
    }

    /// Each difference in words; empty exactly when there is nothing to repair.
    pub fn differences(&self, saved: &Saved) -> Vec<String> {
        let found = self.compare(saved);
        let (mut differences, table, name) = (Vec::new(), self.table, &self.name);
        if !found.rules_right {
            let rule = |rule: &str| format!("-A {name} {rule}");
            let missing = self.rules.iter().filter(|r| !found.rules.contains(&r.as_str()));
            differences.extend(missing.map(|r| format!("table {table}: the rule \"{}\" is missing", rule(r))));
            let extra = found.rules.iter().filter(|r| !self.rules.iter().any(|wanted| wanted == *r));
            differences.extend(extra.map(|r| format!("table {table}: unexpected rule \"{}\"", rule(r))));
            if differences.is_empty() {
                let what = if self.rules.is_empty() { "is left over" } else { "has its rules out of order or twice" };
                differences.push(format!("table {table}: chain {name} {what}"));
            }
        }
        if !found.jump_right {
            let parent = self.parent;
            let jump = self.jump();
            let what = match found.jumps.as_slice() {
                [] => "is missing",
                [_] if self.rules.is_empty() => "is left over",
                [_] => "differs",
                _ => "is there more than once",
            };
            differences.push(format!("table {table}: the rule \"-A {parent} {jump}\" {what}"));
        }
        differences
    }
}

/// Whether this version of iptables (the output of `iptables --version`) knows `--random-fully`: 1.6.2 and later.
pub fn knows_random_fully(version: &str) -> bool {
    let number = version.split_whitespace().find_map(|word| word.strip_prefix('v')).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part(), part(), part()) >= (1, 6, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        let rules = ["-s 10.5.0.0/16 -j ACCEPT", "-d 10.5.0.0/16 -j ACCEPT"].map(str::to_owned).to_vec();
        Chain { table: Table::Filter, parent: "FORWARD", name: "X".to_owned(), jump_matches: "", rules }
    }

    fn saved(lines: &str) -> Saved {
        Saved::parse(&format!("*filter\n:FORWARD DROP [0:0]\n{lines}COMMIT\n"), Table::Filter).unwrap()
    }

    #[test]
    fn only_a_whole_list_or_none_is_readable() {
        let parse = |text: &str| Saved::parse(text, Table::Filter);
        assert_eq!(parse(""), Ok(Saved(String::new())));
        assert_eq!(parse("# Generated by iptables-save\n"), Ok(Saved(String::new())));
        let partly =
            "# Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n*filter\nCOMMIT\n";
        assert!(parse(partly).is_ok());
        let table = || "filter".to_owned();
        let incompatible = "# Table `filter' is incompatible, use 'nft' tool.\n";
        assert_eq!(parse(incompatible), Err(Unreadable::Incompatible { table: table() }));
        assert_eq!(parse("*filter\n:FORWARD DROP [0:0]\n"), Err(Unreadable::Truncated { table: table() }));
        assert_eq!(parse("oops\n"), Err(Unreadable::Unexpected { table: table(), line: "oops".to_owned() }));
        assert!(parse("*nat\nCOMMIT\n").is_err());
        assert!(saved("").drops_by_default("FORWARD") && !saved("").drops_by_default("INPUT"));
    }

    #[test]
    fn rules_of_other_chains_are_not_ours() {
        let text = ":X - [0:0]\n:X-OTHER - [0:0]\n-A FORWARD -j X-OTHER\n-A FORWARD -j X\n-A X -s 10.5.0.0/16 -j ACCEPT\n\
                    -A X -d 10.5.0.0/16 -j ACCEPT\n-A X-OTHER -j DROP\n";
        assert_eq!(chain().repair(&saved(text)), None);
        assert_eq!(chain().differences(&saved(text)), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named() {
        let jump = "table filter: the rule \"-A FORWARD -j X\"";
        let whole = ":X - [0:0]\n-A FORWARD -j X\n-A X -s 10.5.0.0/16 -j ACCEPT\n-A X -d 10.5.0.0/16 -j ACCEPT\n";
        for (from, to, expected) in [
            ("-A FORWARD -j X\n", "", format!("{jump} is missing")),
            ("-A FORWARD -j X\n", "-A FORWARD -j X\n-A FORWARD -j X\n", format!("{jump} is there more than once")),
            ("-A FORWARD -j X\n", "-A FORWARD -i lo -j X\n", format!("{jump} differs")),
            (
                "-A X -s 10.5.0.0/16 -j ACCEPT\n",
                "",
                "table filter: the rule \"-A X -s 10.5.0.0/16 -j ACCEPT\" is missing".to_owned(),
            ),
            (
                "-A X -s 10.5.0.0/16 -j ACCEPT\n-A X -d 10.5.0.0/16 -j ACCEPT\n",
                "-A X -d 10.5.0.0/16 -j ACCEPT\n-A X -s 10.5.0.0/16 -j ACCEPT\n",
                "table filter: chain X has its rules out of order or twice".to_owned(),
            ),
            (":X", "-A X -j DROP\n:X", "table filter: unexpected rule \"-A X -j DROP\"".to_owned()),
        ] {
            assert_eq!(chain().differences(&saved(&whole.replace(from, to))), [expected]);
        }
        let none = Chain { rules: Vec::new(), ..chain() };
        assert_eq!(none.differences(&saved(":X - [0:0]\n")), ["table filter: chain X is left over"]);
        assert_eq!(none.differences(&saved("")), Vec::<String>::new());
    }

    #[test]
    fn a_chain_that_others_jump_to_is_emptied_and_kept() {
        let none = Chain { rules: Vec::new(), ..chain() };
        let used = ":X - [0:0]\n:THEIRS - [0:0]\n-A FORWARD -j X\n-A THEIRS -g X\n";
        assert_eq!(none.repair(&saved(used)).unwrap(), "*filter\n-D FORWARD -j X\n-F X\nCOMMIT\n");
        assert_eq!(none.repair(&saved(&used.replace("-A FORWARD -j X\n", ""))), None);
    }

    #[test]
    fn random_fully_needs_iptables_1_6_2() {
        for (version, knows) in [
            ("iptables v1.8.9 (nf_tables)", true),
            ("iptables v1.6.2", true),
            ("iptables v1.6.1", false),
            ("iptables v1.4.21", false),
            ("", false),
        ] {
            assert_eq!(knows_random_fully(version), knows, "{version}");
        }
    }
}
