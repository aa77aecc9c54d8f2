//! Rules for `nft`: tables of our own, replaced whole in one transaction.

use std::fmt::{self, Write as _};

use super::{Unreadable, digest};

/// A table that is ours alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its address family, as nft names it.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Its chains; none means that the table should not exist.
    pub chains: Vec<Chain>,
}

/// A chain of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// The line that attaches it to a hook of the kernel; none for a chain that others jump to.
    pub hook: Option<&'static str>,
    /// Its rules, without comments.
    pub rules: Vec<String>,
}

/// What `nft list table` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The blocks of the table (chains, sets) with their lines; those of the table itself have an empty name.
    blocks: Vec<(String, Vec<String>)>,
}

impl Table {
    /// The text for `nft -f -` that replaces the table whole; without chains, that removes it, whether it exists or not.
    pub fn render(&self) -> String {
        // Deleting a table that does not exist fails, so it is added first.
        let mut text = format!("add table {self}\ndelete table {self}\n");
        if self.chains.is_empty() {
            return text;
        }
        let mut line = |l: fmt::Arguments<'_>| writeln!(text, "{l}").expect("a String takes every write");
        line(format_args!("table {self} {{"));
        for Chain { name, hook, rules } in &self.chains {
            line(format_args!("  chain {name} {{"));
            hook.iter().for_each(|hook| line(format_args!("    {hook}")));
            rules.iter().for_each(|rule| line(format_args!("    {rule} comment \"{}\"", mark(rule))));
            line(format_args!("  }}"));
        }
        line(format_args!("}}"));
        text
    }

    /// The text for `nft -f -` that makes the table right; nothing when it is. `listed` is nothing when there is no
    /// such table.
    pub fn repair(&self, listed: Option<&Listing>) -> Option<String> {
        (!self.differences(listed).is_empty()).then(|| self.render())
    }

    /// Each difference in words; empty exactly when there is nothing to repair.
    pub fn differences(&self, listed: Option<&Listing>) -> Vec<String> {
        match (listed, self.chains.is_empty()) {
            (None, true) => Vec::new(),
            (None, false) => vec![format!("table {self} is missing")],
            (Some(_), true) => vec![format!("table {self} is left over")],
            (Some(listed), false) => {
                let differences = listed.differences(&self.chains);
                differences.into_iter().map(|what| format!("table {self}: {what}")).collect()
            }
        }
    }
}

/// Family and name, as nft's commands take them.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A rule's comment, by which it is recognised however this version of nft words it.
pub fn mark(rule: &str) -> String {
    format!("{:08x}", digest(rule.as_bytes()))
}

fn mark_of(line: &str) -> Option<&str> {
    line.rsplit_once(" comment \"")?.1.strip_suffix('"')
}

impl Listing {
    /// Checks that the text is the whole of this table.
    pub fn parse(text: &str, table: &Table) -> Result<Self, Unreadable> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next().unwrap_or_default();
        if first != format!("table {table} {{") {
            return Err(Unreadable::Unexpected { table: table.to_string(), line: first.to_owned() });
        }
        let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
        let mut depth = 1;
        for line in lines {
            if line == "}" {
                depth -= 1;
                if depth == 0 {
                    return Ok(Self { blocks });
                }
                continue;
            }
            match line.strip_suffix(" {") {
                Some(head) if depth == 1 => blocks.push((head.to_owned(), Vec::new())),
                // A line of the table itself, as its flags are.
                None if depth == 1 => blocks.push((String::new(), vec![line.to_owned()])),
                _ => blocks.last_mut().into_iter().for_each(|(_, lines)| lines.push(line.to_owned())),
            }
            depth += usize::from(line.ends_with('{'));
        }
        Err(Unreadable::Truncated { table: table.to_string() })
    }

    fn differences(&self, wanted: &[Chain]) -> Vec<String> {
        let mut differences = Vec::new();
        let is_block = |head: &str, chain: &Chain| head.strip_prefix("chain ") == Some(chain.name);
        for chain in wanted {
            match self.blocks.iter().find(|(head, _)| is_block(head, chain)) {
                Some((_, lines)) => chain.compare(lines, &mut differences),
                None => differences.push(format!("chain {} is missing", chain.name)),
            }
        }
        for (head, lines) in &self.blocks {
            if head.is_empty() {
                differences.push(format!("unexpected \"{}\"", lines.join("; ")));
            } else if !wanted.iter().any(|chain| is_block(head, chain)) {
                differences.push(format!("unexpected {head}"));
            }
        }
        differences
    }
}

impl Chain {
    fn compare(&self, lines: &[String], differences: &mut Vec<String>) {
        let Self { name, hook, rules } = self;
        let mut lines = lines;
        let attached = lines.first().filter(|line| line.starts_with("type "));
        if attached.map(|line| numbered(line)) != hook.map(numbered) {
            let instead = attached.map_or("not attached to a hook", String::as_str);
            differences.push(format!("chain {name} is {instead} instead of {}", hook.unwrap_or("not attached")));
        }
        if attached.is_some() {
            lines = &lines[1..];
        }
        let marks: Vec<_> = rules.iter().map(|rule| mark(rule)).collect();
        let listed: Vec<_> = lines.iter().map(|line| mark_of(line)).collect();
        if listed.iter().copied().eq(marks.iter().map(|mark| Some(mark.as_str()))) {
            return;
        }
        let before = differences.len();
        let missing = rules.iter().zip(&marks).filter(|(_, mark)| !listed.contains(&Some(mark)));
        differences.extend(missing.map(|(rule, _)| format!("chain {name}: the rule \"{rule}\" is missing")));
        let known = |line: &str| mark_of(line).is_some_and(|mark| marks.iter().any(|m| m == mark));
        let extra = lines.iter().filter(|line| !known(line));
        differences.extend(extra.map(|line| format!("chain {name}: unexpected rule \"{line}\"")));
        if differences.len() == before {
            differences.push(format!("chain {name} has its rules out of order or twice"));
        }
    }
}

/// The line of a hook with its priority as a number, which some versions of nft list by name.
fn numbered(hook: &str) -> String {
    let names = [
        ("raw", "-300"),
        ("mangle", "-150"),
        ("dstnat", "-100"),
        ("filter", "0"),
        ("security", "50"),
        ("srcnat", "100"),
    ];
    names.iter().fold(hook.to_owned(), |hook, (name, number)| {
        hook.replace(&format!(" priority {name};"), &format!(" priority {number};"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: &str = "iifname \"fl-aaa\" ip daddr 127.0.0.0/8 drop";
    const TRANSLATE: &str = "meta nfproto ipv4 tcp dport 80 dnat ip to 10.5.72.2:80";

    fn table() -> Table {
        let chain =
            |name, hook, rules: &[&str]| Chain { name, hook, rules: rules.iter().map(|&r| r.to_owned()).collect() };
        let chains = vec![
            chain("guard", Some("type filter hook prerouting priority -300; policy accept;"), &[DROP, TRANSLATE]),
            chain("ports", None, &[]),
        ];
        Table { family: "inet", name: "t".to_owned(), chains }
    }

    /// As nft lists what was rendered: indented by tabs, with the name of the priority and an empty line between chains.
    fn listed() -> String {
        let text = table().render().replace("priority -300", "priority raw").replace("  ", "\t");
        text.split_once("delete table inet t\n").unwrap().1.replace("\t}\n", "\t}\n\n")
    }

    fn parse(text: &str) -> Result<Listing, Unreadable> {
        Listing::parse(text, &table())
    }

    #[test]
    fn a_listing_of_what_was_rendered_needs_no_repair() {
        let listing = parse(&listed()).unwrap();
        assert_eq!(table().differences(Some(&listing)), Vec::<String>::new());
        assert_eq!(table().repair(Some(&listing)), None);
        assert_eq!(table().repair(None), Some(table().render()));
        let none = Table { chains: Vec::new(), ..table() };
        assert_eq!(none.repair(None), None);
        assert_eq!(none.repair(Some(&listing)).unwrap(), "add table inet t\ndelete table inet t\n");
    }

    #[test]
    fn each_change_is_named() {
        let marked = |rule: &str| format!("{rule} comment \"{}\"\n", mark(rule));
        let (drop, translate) = (marked(DROP), marked(TRANSLATE));
        for (from, to, expected) in [
            (drop.as_str(), "", format!("chain guard: the rule \"{DROP}\" is missing")),
            (&drop, &format!("{drop}\t\taccept\n"), "chain guard: unexpected rule \"accept\"".to_owned()),
            (&drop, &format!("{drop}\t\t{drop}"), "chain guard has its rules out of order or twice".to_owned()),
            (
                &format!("{drop}\t\t{translate}"),
                &format!("{translate}\t\t{drop}"),
                "chain guard has its rules out of order or twice".to_owned(),
            ),
            ("\t\ttype filter hook prerouting priority raw; policy accept;\n", "", "chain guard is not att".to_owned()),
            ("policy accept", "policy drop", "chain guard is type filter hook prerouting priority raw; pol".to_owned()),
            ("priority raw", "priority filter", "chain guard is type filter hook prerouting priority fil".to_owned()),
            ("\tchain ports {\n\t}\n", "", "chain ports is missing".to_owned()),
            (
                "\tchain ports {\n",
                "\tchain more {\n\t\taccept\n\t}\n\tchain ports {\n",
                "unexpected chain more".to_owned(),
            ),
            ("\tchain ports {\n", "\tset s {\n\t\ttype mark\n\t}\n\tchain ports {\n", "unexpected set s".to_owned()),
            ("\tchain ports {\n", "\tflags dormant\n\tchain ports {\n", "unexpected \"flags dormant\"".to_owned()),
        ] {
            let text = listed();
            assert!(text.contains(from), "{from}: {text}");
            let said = table().differences(Some(&parse(&text.replace(from, to)).unwrap()));
            assert!(
                said.len() == 1 && said[0].starts_with(&format!("table inet t: {expected}")),
                "{said:?}: {expected}"
            );
        }
    }

    #[test]
    fn only_the_whole_table_is_readable() {
        let text = listed();
        let (cut, _) = text.rsplit_once('}').unwrap();
        assert_eq!(parse(cut), Err(Unreadable::Truncated { table: "inet t".to_owned() }));
        assert!(matches!(parse(""), Err(Unreadable::Unexpected { .. })));
        assert!(matches!(parse(&text.replace("inet t ", "inet u ")), Err(Unreadable::Unexpected { .. })));
    }
}
