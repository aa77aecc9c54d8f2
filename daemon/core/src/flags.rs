//! Command-line flags in the syntax of Go's `flag` package, which is upstream's: `-f v`, `--f v`, `-f=v`, `--f=v`.
//!
//! A program describes its flags as a table of [`Flag`]s that set fields of its options; the environment can stand in
//! for any of them (`FLANNELD_` + name in upper case, `-` as `_`). The rules are those of docs/upstream.md, section 1: a
//! boolean never takes a separate word, the first word that is no flag ends the flags, a flag given twice counts
//! last, the environment counts only where the flag is not given and its value is not empty.

use std::fmt::Write as _;

/// A flag of a program whose options are a `T`.
pub struct Flag<T> {
    /// The name, without dashes.
    pub name: &'static str,
    /// What it sets.
    pub set: Set<T>,
    /// The default, for the usage text; empty shows none.
    pub default: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// What kind of value a flag takes, and the field it goes to.
pub enum Set<T> {
    /// Any text.
    Text(fn(&mut T, String)),
    /// Any text, and the flag may be given many times.
    List(fn(&mut T, String)),
    /// `1 0 t f T F true false TRUE FALSE True False`, or nothing for true.
    Bool(fn(&mut T, bool)),
    /// A whole number as Go writes them: decimal, `0x1F`, `0o17`, `017`, `0b1`, `1_000`.
    Int(fn(&mut T, i64)),
}

/// Why a command line is not to be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// `-h` or `-help` was given.
    #[error("help was asked for")]
    Help,
    /// A flag that is not in the table.
    #[error("unknown flag -{0}: see -help for those there are")]
    Unknown(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value: -{0}=VALUE")]
    NoValue(&'static str),
    /// A word that starts like a flag and isn't one.
    #[error("{0:?} is no flag: write -NAME=VALUE")]
    Syntax(String),
    /// A value the flag can't take.
    #[error("flag -{name}: {reason}")]
    Value {
        /// The flag.
        name: &'static str,
        /// What is wrong with the value, and what would be right.
        reason: String,
    },
}

/// What was read besides the options themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Words after the flags. Upstream ignores them in silence; a program should at least say so.
    pub words: Vec<String>,
    /// Environment variables whose value was no good and so was ignored, one sentence each.
    pub bad_variables: Vec<String>,
}

/// Reads `args` (without the program's name) and then, where a flag was not given, `variable(PREFIX_NAME)`.
pub fn parse<T>(
    table: &[Flag<T>],
    options: &mut T,
    args: impl IntoIterator<Item = String>,
    prefix: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Leftover, Stop> {
    let mut left = Leftover::default();
    let mut given = vec![false; table.len()];
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(body) = flag_body(&arg) else {
            if arg != "--" {
                left.words.push(arg);
            }
            left.words.extend(args);
            break;
        };
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(Stop::Syntax(arg));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(index) = table.iter().position(|f| f.name == name) else {
            return Err(if name == "h" || name == "help" { Stop::Help } else { Stop::Unknown(name.to_owned()) });
        };
        let flag = &table[index];
        let value = match (&flag.set, value) {
            (_, Some(value)) => value,
            (Set::Bool(_), None) => "true".to_owned(),
            (_, None) => args.next().ok_or(Stop::NoValue(flag.name))?,
        };
        flag.apply(options, value).map_err(|reason| Stop::Value { name: flag.name, reason })?;
        given[index] = true;
    }
    for (flag, _) in table.iter().zip(&given).filter(|(_, given)| !**given) {
        let name = flag.variable(prefix);
        let Some(value) = variable(&name).filter(|v| !v.is_empty()) else { continue };
        if let Err(reason) = flag.apply(options, value) {
            left.bad_variables.push(format!("{name} is ignored: {reason}"));
        }
    }
    Ok(left)
}

/// The part after one or two dashes; nothing for a word that ends the flags (`x`, `-`, `--`).
fn flag_body(arg: &str) -> Option<&str> {
    let body = arg.strip_prefix('-')?;
    match body.strip_prefix('-') {
        Some("") => None,
        Some(body) => Some(body),
        None => Some(body).filter(|b| !b.is_empty()),
    }
}

impl<T> Flag<T> {
    /// The environment variable that stands in for this flag.
    pub fn variable(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.name.to_uppercase().replace('-', "_"))
    }

    fn apply(&self, options: &mut T, value: String) -> Result<(), String> {
        match self.set {
            Set::Text(set) | Set::List(set) => set(options, value),
            Set::Bool(set) => {
                set(options, parse_bool(&value).ok_or_else(|| format!("{value:?} is not true or false"))?);
            }
            Set::Int(set) => set(options, parse_int(&value).ok_or_else(|| format!("{value:?} is no whole number"))?),
        }
        Ok(())
    }
}

/// The usage text: a flag a paragraph, in the order of the table.
pub fn usage<T>(program: &str, table: &[Flag<T>]) -> String {
    let mut text = format!("Usage: {program} [OPTION]...\n");
    for flag in table {
        let kind = match flag.set {
            Set::Text(_) => " string",
            Set::List(_) => " value",
            Set::Bool(_) => "",
            Set::Int(_) => " int",
        };
        let default = match flag.set {
            _ if flag.default.is_empty() => String::new(),
            Set::Text(_) | Set::List(_) => format!(" (default {:?})", flag.default),
            Set::Bool(_) | Set::Int(_) => format!(" (default {})", flag.default),
        };
        writeln!(text, "  -{}{kind}\n    \t{}{default}", flag.name, flag.help).expect("a String takes every write");
    }
    text
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's integer literals (`strconv.ParseInt` with base 0): an underscore may stand between digits, and after a base's
/// prefix.
fn parse_int(text: &str) -> Option<i64> {
    let (negative, body) = match text.strip_prefix(['+', '-']) {
        Some(body) => (text.starts_with('-'), body),
        None => (false, text),
    };
    let lower = body.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..], true),
        Some("0o") => (8, &lower[2..], true),
        Some("0b") => (2, &lower[2..], true),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..], true),
        _ => (10, &lower[..], false),
    };
    let misplaced = digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !prefixed);
    let plain = digits.replace('_', "");
    if misplaced || plain.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(&plain, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Options {
        prefix: String,
        iface: Vec<String>,
        masq: bool,
        port: i64,
    }

    const TABLE: &[Flag<Options>] = &[
        Flag { name: "etcd-prefix", set: Set::Text(|o, v| o.prefix = v), default: "/x", help: "the prefix" },
        Flag { name: "iface", set: Set::List(|o, v| o.iface.push(v)), default: "", help: "the interface" },
        Flag { name: "ip-masq", set: Set::Bool(|o, v| o.masq = v), default: "", help: "masquerade" },
        Flag { name: "port", set: Set::Int(|o, v| o.port = v), default: "", help: "the port" },
    ];

    fn read(line: &str, env: &[(&str, &str)]) -> Result<(Options, Leftover), Stop> {
        let mut options = Options::default();
        let args = line.split_whitespace().map(str::to_owned);
        let variable = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        parse(TABLE, &mut options, args, "FLANNELD", variable).map(|left| (options, left))
    }

    #[test]
    fn four_ways_to_write_a_flag() {
        for line in ["-etcd-prefix /a", "--etcd-prefix /a", "-etcd-prefix=/a", "--etcd-prefix=/a"] {
            assert_eq!(read(line, &[]).unwrap().0.prefix, "/a", "{line}");
        }
        assert_eq!(read("-etcd-prefix=a=b", &[]).unwrap().0.prefix, "a=b");
        assert_eq!(read("-etcd-prefix=", &[]).unwrap().0.prefix, "");
        assert_eq!(read("-port 1 -port 2", &[]).unwrap().0.port, 2);
        assert_eq!(read("-iface eth0 --iface=eth1", &[]).unwrap().0.iface, ["eth0", "eth1"]);
    }

    // parity: daemon/tests/vectors/recorded/cli: `-ip-masq false` sets it and ends the flags.
    #[test]
    fn the_first_other_word_ends_the_flags() {
        let (options, left) = read("-ip-masq false -port 3", &[]).unwrap();
        assert!(options.masq && options.port == 0);
        assert_eq!(left.words, ["false", "-port", "3"]);
        assert_eq!(read("-port 3 -- -port 4", &[]).unwrap().0.port, 3);
        assert_eq!(read("- -nosuch", &[]).unwrap().1.words, ["-", "-nosuch"]);
    }

    #[test]
    fn booleans_and_numbers_as_go_reads_them() {
        for (text, value) in [("T", true), ("0", false), ("False", false), ("TRUE", true)] {
            assert_eq!(read(&format!("-ip-masq={text}"), &[]).unwrap().0.masq, value);
        }
        for (text, value) in [
            ("0x1F90", 8080),
            ("0o17", 15),
            ("017", 15),
            ("0b101", 5),
            ("1_000", 1000),
            ("0x_1f", 31),
            ("-5", -5),
            ("+7", 7),
            ("0", 0),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(read(&format!("-port={text}"), &[]).unwrap().0.port, value, "{text}");
        }
        for bad in ["abc", "", "1__0", "_1", "1_", "0x", "08", "9223372036854775808", "+-1", "1.5", "0x-1"] {
            assert!(read(&format!("-port={bad}"), &[]).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let says = |line: &str| read(line, &[]).unwrap_err().to_string();
        assert_eq!(says("-nosuch"), "unknown flag -nosuch: see -help for those there are");
        assert_eq!(says("-etcd-prefix"), "flag -etcd-prefix needs a value: -etcd-prefix=VALUE");
        assert_eq!(says("-ip-masq=maybe"), "flag -ip-masq: \"maybe\" is not true or false");
        assert_eq!(says("---port"), "\"---port\" is no flag: write -NAME=VALUE");
        assert_eq!(read("-h", &[]).unwrap_err(), Stop::Help);
        assert_eq!(read("--help", &[]).unwrap_err(), Stop::Help);
    }

    #[test]
    fn the_environment_stands_in() {
        let env = [("FLANNELD_PORT", "5"), ("FLANNELD_IFACE", "a,b"), ("FLANNELD_IP_MASQ", "")];
        let (options, left) = read("-port=6", &env).unwrap();
        assert_eq!(options, Options { port: 6, iface: vec!["a,b".into()], ..Options::default() });
        assert!(left.bad_variables.is_empty());
        let (options, left) = read("", &[("FLANNELD_PORT", "x")]).unwrap();
        assert_eq!(options.port, 0);
        assert_eq!(left.bad_variables, ["FLANNELD_PORT is ignored: \"x\" is no whole number"]);
    }

    #[test]
    fn usage_lists_every_flag() {
        assert_eq!(
            usage("flanneld", TABLE),
            "Usage: flanneld [OPTION]...\n  -etcd-prefix string\n    \tthe prefix (default \"/x\")\n  -iface value\n    \tthe \
             interface\n  -ip-masq\n    \tmasquerade\n  -port int\n    \tthe port\n"
        );
    }
}
