//! The command line of `flannel-lab`, by clap.
//!
//! Each command lists its options; an option is defined once, for all commands that have it.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::underlay;

/// The backends that the lab knows by name.
pub const BACKENDS: [&str; 3] = ["vxlan", "host-gw", "udp"];
/// The project's name unless `--name` gives another.
pub const DEFAULT_NAME: &str = "flannel-lab";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the lab and try it.
    Up,
    /// Hold a lab of namespaces: what `up` starts in the background.
    Hold,
    /// Remove it.
    Down,
    /// Try it again.
    Matrix,
    /// Show it.
    Status,
    /// Run a command on a host.
    Exec,
    /// Write down what is known of it.
    Diagnose,
    /// Break things.
    Fault,
    /// Measure throughput.
    Bench,
    /// Write the page.
    Report,
    /// Write the failure matrix.
    Failures,
    /// Name the ready topologies.
    Topologies,
    /// Print the compose file of a topology.
    Compose,
    /// Be the other end of trials.
    Serve,
    /// Try paths from the place it runs in.
    Probe,
}

const ACTIONS: [(&str, Action); 15] = [
    ("up", Action::Up),
    ("hold", Action::Hold),
    ("down", Action::Down),
    ("matrix", Action::Matrix),
    ("status", Action::Status),
    ("exec", Action::Exec),
    ("diagnose", Action::Diagnose),
    ("fault", Action::Fault),
    ("bench", Action::Bench),
    ("report", Action::Report),
    ("failures", Action::Failures),
    ("topologies", Action::Topologies),
    ("compose", Action::Compose),
    ("serve", Action::Serve),
    ("probe", Action::Probe),
];

/// What a lab's hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// Containers with a Docker in each.
    Containers,
    /// Network namespaces.
    Namespaces,
}

/// A command line, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// The words that are not options.
    pub words: Vec<String>,
    /// What the hosts are, if given.
    pub runner: Option<Runner>,
    /// The backends asked for.
    pub backends: Vec<String>,
    /// The lab's name.
    pub name: String,
    /// The underlay asked for.
    pub underlay: Option<String>,
    /// Where the image files are.
    pub images: PathBuf,
    /// The daemon to try.
    pub flanneld: Option<PathBuf>,
    /// The plugin to try.
    pub plugin: Option<PathBuf>,
    /// The daemon that an upgrade brings.
    pub upgrade_to: Option<PathBuf>,
    /// How many faults at once.
    pub jobs: usize,
    /// The file for the results as JSON.
    pub json: Option<PathBuf>,
    /// Where the page goes.
    pub out: Option<PathBuf>,
    /// Where results are kept.
    pub results: PathBuf,
}

impl Args {
    /// The one backend asked for.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        self.backends.first().map(String::as_str)
    }
}

/// Reads the words after the program's name. The error is clap's: it knows whether it is a request for help.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Args, clap::Error> {
    let matches = command().try_get_matches_from(words)?;
    let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand).with_cmd(&command());
    let (name, matches) = matches.subcommand().ok_or_else(missing)?;
    let action = ACTIONS.iter().find(|(known, _)| *known == name).map(|(_, action)| *action).ok_or_else(missing)?;
    let path = |id: &str| one::<PathBuf>(matches, id);
    Ok(Args {
        action,
        words: ["host", "words"].into_iter().flat_map(|id| many(matches, id)).collect(),
        runner: one::<String>(matches, "in").map(|name| match name.as_str() {
            "namespaces" => Runner::Namespaces,
            _ => Runner::Containers,
        }),
        backends: many(matches, "backend"),
        name: one(matches, "name").unwrap_or_else(|| DEFAULT_NAME.to_owned()),
        underlay: one(matches, "underlay"),
        images: path("images").unwrap_or_default(),
        flanneld: path("flanneld"),
        plugin: path("flannel-docker"),
        upgrade_to: path("upgrade-to"),
        jobs: one(matches, "jobs").unwrap_or(1),
        json: path("json"),
        out: path("out"),
        results: path("results").unwrap_or_default(),
    })
}

/// The value of an option; `None` if it is not given, or if the command does not have it.
fn one<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<T> {
    matches.try_get_one::<T>(id).ok().flatten().cloned()
}

fn many(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.try_get_many::<String>(id).ok().flatten().into_iter().flatten().cloned().collect()
}

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    let sub = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new("flannel-lab")
        .about("A flannel network of several hosts on one machine: start it, check every path, inject faults")
        .version(env!("CARGO_PKG_VERSION"))
        .no_binary_name(true)
        .subcommand_required(true)
        .arg(
            option("name", "NAME", "The lab's name; labs with different names do not interfere")
                .global(true)
                .default_value(DEFAULT_NAME)
                .value_parser(name),
        )
        .subcommand(sub("up", "Starts a lab and checks every path").args([
            topology(),
            runner(),
            backend("Backend of the networks; a running lab keeps its own if this is not given"),
            underlay_prefix(),
            images(),
            flanneld(),
            results(),
        ]))
        .subcommand(sub("hold", "Holds a lab of namespaces; started by `up` in the background").hide(true).args([
            topology(),
            backend("Backend of the networks"),
            flanneld(),
        ]))
        .subcommand(
            sub("matrix", "Checks every path of a running lab, or with --in namespaces of a temporary one").args([
                topology(),
                runner(),
                backend("Backend of the networks of a temporary lab"),
                flanneld(),
                json(),
                results(),
            ]),
        )
        .subcommand(sub("status", "Shows hosts, leases and containers"))
        .subcommand(
            sub("exec", "Runs a command on a host (h1) or in a container (c1)").args([
                Arg::new("host").value_name("HOST").required(true).help("The host or container"),
                Arg::new("words")
                    .value_name("COMMAND")
                    .required(true)
                    .num_args(1..)
                    .trailing_var_arg(true)
                    .allow_hyphen_values(true)
                    .help("The command and its arguments"),
            ]),
        )
        .subcommand(sub("diagnose", "Writes the state of each host to target/diagnosis/NAME"))
        .subcommand(sub("down", "Removes a lab and nothing else"))
        .subcommand(
            sub("fault", "Injects faults, each in a lab of its own, and checks what flannel promises").args([
                Arg::new("words")
                    .value_name("FAULT")
                    .required(true)
                    .num_args(1..)
                    .help("Names of faults, or quick, all, list"),
                backends(),
                option("jobs", "N", "Labs at the same time")
                    .default_value("3")
                    .value_parser(RangedU64ValueParser::<usize>::new().range(1..=32)),
                file("upgrade-to", "FLANNELD", "The daemon that the upgrade fault changes to"),
                flanneld(),
                file("flannel-docker", "FILE", "The plugin under test [default: beside this program]"),
                json(),
                results(),
            ]),
        )
        .subcommand(sub("bench", "Measures each backend's throughput next to the bare underlay").args([
            backends(),
            flanneld(),
            json(),
            results(),
        ]))
        .subcommand(
            sub("report", "Renders the results of matrix, fault and bench as one HTML page").args([out(), results()]),
        )
        .subcommand(
            sub("failures", "Renders the results of fault as the failure matrix (Markdown)").args([out(), results()]),
        )
        .subcommand(sub("topologies", "Lists the ready topologies"))
        .subcommand(sub("compose", "Prints the compose file that `up` makes of a topology").args([
            topology(),
            backend("Backend of the networks"),
            underlay_prefix(),
            images(),
        ]))
        .subcommand(sub("serve", "Answers the probes of other hosts and containers until it is killed"))
        .subcommand(
            sub("probe", "Probes paths from the place it runs in; requests and answers are JSON")
                .arg(Arg::new("words").value_name("REQUESTS").required(true).help("The requests, as JSON")),
        )
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn file(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    option(name, value, help).value_parser(value_parser!(PathBuf))
}

fn topology() -> Arg {
    Arg::new("words").value_name("TOPOLOGY").help("A file, or the name of a ready topology [default: three-hosts]")
}

fn runner() -> Arg {
    option("in", "RUNNER", "What the hosts are [default: containers]").value_parser(["containers", "namespaces"])
}

fn backend(help: &'static str) -> Arg {
    option("backend", "BACKEND", help).value_parser(BACKENDS)
}

fn backends() -> Arg {
    backend("Backends, separated by commas [default: all]").value_delimiter(',')
}

fn underlay_prefix() -> Arg {
    option("underlay", "A.B.C", "First three numbers of the hosts' addresses (containers) [default: a free subnet]")
        .value_parser(|text: &str| underlay::check(text).map(|()| text.to_owned()))
}

fn images() -> Arg {
    file("images", "DIR", "Where ci/images puts the image files (containers)").default_value("target/images")
}

fn flanneld() -> Arg {
    file("flanneld", "FILE", "The daemon under test (namespaces) [default: beside this program]")
}

fn json() -> Arg {
    file("json", "FILE", "Writes the results as JSON, too")
}

fn out() -> Arg {
    file("out", "FILE", "The file to write [default: in the directory of the results]")
}

fn results() -> Arg {
    file("results", "DIR", "Where results are kept for the report").default_value("target/found")
}

/// A name must do for compose: it becomes part of container names.
fn name(text: &str) -> Result<String, String> {
    let mut letters = text.chars();
    let good = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if good {
        return Ok(text.to_owned());
    }
    Err("not a project name: use lower-case letters, digits, - and _".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn reads_up() {
        let args = read("up --backend udp --name=two --underlay 172.29.80 --images /x").unwrap();
        assert_eq!(args.action, Action::Up);
        assert_eq!(args.backend(), Some("udp"));
        assert_eq!(args.name, "two");
        assert_eq!(args.underlay.as_deref(), Some("172.29.80"));
        assert_eq!(args.images, PathBuf::from("/x"));
    }

    #[test]
    fn has_defaults() {
        let args = read("down").unwrap();
        assert_eq!((args.name.as_str(), args.backend(), args.runner), (DEFAULT_NAME, None, None));
    }

    #[test]
    fn reads_what_to_break_and_where() {
        let args = read("fault etcd-kill host-cut --backend udp,vxlan --jobs 2").unwrap();
        assert_eq!(
            (args.words, args.backends, args.jobs),
            (vec!["etcd-kill".to_owned(), "host-cut".to_owned()], vec!["udp".to_owned(), "vxlan".to_owned()], 2)
        );
        let args = read("up --in namespaces dual-stack").unwrap();
        assert_eq!((args.runner, args.words), (Some(Runner::Namespaces), vec!["dual-stack".to_owned()]));
    }

    #[test]
    fn a_commands_own_flags_are_its_own() {
        let args = read("exec --name two h1 ip -d --name link").unwrap();
        assert_eq!((args.name.as_str(), args.words.join(" ").as_str()), ("two", "h1 ip -d --name link"));
    }

    #[test]
    fn refuses_with_a_line_that_names_the_word() {
        for (line, part) in [
            ("", "requires a subcommand"),
            ("fly", "'fly'"),
            ("up --backend ipsec", "possible values: vxlan, host-gw, udp"),
            ("fault all --backend udp,x", "'x' for '--backend"),
            ("up --backend", "value is required for '--backend"),
            ("down --backend udp", "'--backend'"),
            ("up --name Two", "'Two' for '--name"),
            ("up --name=", "'--name"),
            ("up --underlay 8.8.8", "'8.8.8' for '--underlay"),
            ("up --in space", "'space' for '--in"),
            ("down now", "'now'"),
            ("up one two", "'two'"),
            ("exec h1", "<COMMAND>"),
            ("fault", "<FAULT>"),
            ("fault all --jobs 0", "'0' for '--jobs"),
        ] {
            let error = read(line).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(part), "{line}: {text}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_names_the_commands() {
        let help = command().render_help().to_string();
        for (name, action) in ACTIONS {
            assert_eq!(help.contains(&format!("  {name} ")), action != Action::Hold, "{name}");
        }
    }
}
