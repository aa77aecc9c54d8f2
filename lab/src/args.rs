//! The command line of `flannel-lab`.

use std::path::PathBuf;

use crate::{Error, Result, underlay};

/// The backends that the lab knows by name.
pub const BACKENDS: [&str; 3] = ["vxlan", "host-gw", "udp"];
/// The project's name unless `--name` gives another.
pub const DEFAULT_NAME: &str = "flannel-lab";

/// `flannel-lab help`.
pub const HELP: &str = "\
flannel-lab: hosts with flannel between them, on one machine; to see it, to try it, to break it

  flannel-lab up [--in namespaces] [TOPOLOGY] [--backend B] [--name NAME]
      brings a lab up and tries every path: Docker hosts in containers, or, in 2 s, namespaces
  flannel-lab matrix [--name NAME] [--json FILE]     tries every path of a running lab again
  flannel-lab matrix --in namespaces [TOPOLOGY]      the same with a lab of its own, gone afterwards
  flannel-lab status [--name NAME]     hosts, leases and containers
  flannel-lab exec [--name NAME] HOST COMMAND...     runs a command on a host, or in a container (c1)
  flannel-lab diagnose [--name NAME]   writes all that is known of each host into target/diagnosis/NAME
  flannel-lab down [--name NAME]       removes the lab and nothing else

  flannel-lab fault NAME...|quick|all  breaks things, each in a lab of its own, and holds flannel to its promises
      [--backend B,B] [--jobs N] [--json FILE] [--upgrade-to FLANNELD]      flannel-lab fault list names them
  flannel-lab bench                    throughput of each backend beside the bare underlay
  flannel-lab report [--out FILE]      one HTML page of what matrix, fault and bench have found
  flannel-lab failures [--out FILE]    the same faults as docs/reference/failure-matrix.md tells them
  flannel-lab topologies               the ready topologies
  flannel-lab compose [TOPOLOGY]       the compose file that `up` makes of one, for compose by hand
  flannel-lab serve                    the other end of every trial, in this very place, until it is killed
  flannel-lab probe ASKS               tries paths from this very place; asks and answers are JSON
  flannel-lab help

  TOPOLOGY     a file, or the name of a ready one (three-hosts)
  --in         containers or namespaces
  --backend    vxlan, host-gw or udp; `up` keeps that of the running lab; fault and bench try all three
  --name       of the lab (flannel-lab); two labs have two names
  --underlay   first three numbers of the hosts' addresses; a free one is found when not given (containers)
  --images     where ci/images put the image files (target/images)
  --flanneld   the daemon to try in namespaces (beside this program); --flannel-docker: the plugin of Docker's faults
  --results    where results are kept for the report (target/found)
";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the lab and try it.
    Up,
    /// Hold a lab of namespaces: what `up` starts in the background.
    Keep,
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
    /// Try paths from where one stands.
    Probe,
    /// Print [`HELP`].
    Help,
}

const ACTIONS: [(&str, Action); 16] = [
    ("up", Action::Up),
    ("keep", Action::Keep),
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
    ("help", Action::Help),
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
    /// The words that are no flags.
    pub words: Vec<String>,
    /// What the hosts are, if told.
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
    /// Where machines are told what was found.
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

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Args> {
    let mut words = words.into_iter();
    let first = words.next().ok_or_else(|| Error::Usage("a command is missing".to_owned()))?;
    let first = if ["-h", "--help"].contains(&first.as_str()) { "help".to_owned() } else { first };
    let action = ACTIONS.iter().find(|(name, _)| *name == first).map(|(_, action)| *action);
    let action = action.ok_or_else(|| Error::Usage(format!("there is no command {first}")))?;
    let mut args = Args {
        action,
        words: Vec::new(),
        runner: None,
        backends: Vec::new(),
        name: DEFAULT_NAME.to_owned(),
        underlay: None,
        images: PathBuf::from("target/images"),
        flanneld: None,
        plugin: None,
        upgrade_to: None,
        jobs: 3,
        json: None,
        out: None,
        results: PathBuf::from("target/found"),
    };
    while let Some(word) = words.next() {
        if !word.starts_with('-') || (action == Action::Exec && !args.words.is_empty()) {
            args.words.push(word);
            // What follows the host's name is the command's.
            if action == Action::Exec && args.words.len() > 1 {
                args.words.extend(words.by_ref());
            }
            continue;
        }
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value =
            || inline.clone().or_else(|| words.next()).ok_or_else(|| Error::Usage(format!("{flag} needs a value")));
        flag_value(&mut args, &flag, &mut value)?;
    }
    check_words(&args)?;
    Ok(args)
}

fn flag_value(args: &mut Args, flag: &str, value: &mut dyn FnMut() -> Result<String>) -> Result<()> {
    use Action::{Bench, Failures, Fault, Keep, Matrix, Report, Up};
    let action = args.action;
    let for_any = |actions: &[Action]| actions.contains(&action);
    match flag {
        "--backend" if for_any(&[Up, Keep, Matrix, Action::Compose]) => args.backends = vec![backend(&value()?)?],
        "--backend" if for_any(&[Fault, Bench]) => {
            args.backends = value()?.split(',').map(backend).collect::<Result<_>>()?;
        }
        "--in" if for_any(&[Up, Matrix]) => {
            args.runner = Some(match value()?.as_str() {
                "containers" => Runner::Containers,
                "namespaces" => Runner::Namespaces,
                other => return Err(Error::Usage(format!("--in {other} is neither containers nor namespaces"))),
            });
        }
        "--underlay" if for_any(&[Up, Action::Compose]) => {
            let text = value()?;
            underlay::check(&text)?;
            args.underlay = Some(text);
        }
        "--images" if for_any(&[Up, Action::Compose]) => args.images = value()?.into(),
        "--flanneld" if for_any(&[Up, Keep, Matrix, Fault, Bench]) => args.flanneld = Some(value()?.into()),
        "--flannel-docker" if action == Fault => args.plugin = Some(value()?.into()),
        "--upgrade-to" if action == Fault => args.upgrade_to = Some(value()?.into()),
        "--jobs" if action == Fault => {
            let text = value()?;
            let jobs = text.parse().ok().filter(|jobs| (1..=32).contains(jobs));
            args.jobs = jobs.ok_or_else(|| Error::Usage(format!("--jobs {text} is no number from 1 to 32")))?;
        }
        "--json" if for_any(&[Matrix, Fault, Bench]) => args.json = Some(value()?.into()),
        "--out" if for_any(&[Report, Failures]) => args.out = Some(value()?.into()),
        "--results" if for_any(&[Up, Matrix, Fault, Bench, Report, Failures]) => args.results = value()?.into(),
        "--name" => args.name = name(value()?)?,
        _ => return Err(Error::Usage(format!("there is no {flag} here"))),
    }
    Ok(())
}

/// How many words a command takes.
fn check_words(args: &Args) -> Result<()> {
    let count = args.words.len();
    match args.action {
        Action::Exec if count < 2 => Err(Error::Usage("exec needs a host and a command".to_owned())),
        Action::Fault if count == 0 => Err(Error::Usage("fault needs names, or quick, all or list".to_owned())),
        Action::Probe if count != 1 => Err(Error::Usage("probe needs what to ask, as JSON".to_owned())),
        Action::Keep | Action::Exec | Action::Fault | Action::Probe => Ok(()),
        Action::Up | Action::Matrix | Action::Compose if count <= 1 => Ok(()),
        _ if count == 0 => Ok(()),
        _ => Err(Error::Usage(format!("there is no {} here", args.words.join(" ")))),
    }
}

fn backend(text: &str) -> Result<String> {
    if BACKENDS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(Error::Usage(format!("--backend {text} is none of {}", BACKENDS.join(", "))))
}

/// A name must do for compose: it becomes part of container names.
fn name(text: String) -> Result<String> {
    let mut letters = text.chars();
    let good = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if good {
        return Ok(text);
    }
    Err(Error::Usage(format!("--name {text:?} is no project name: use small letters, digits, - and _")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args> {
        parse(line.split_whitespace().map(str::to_owned))
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
            ("", "a command is missing"),
            ("fly", "no command fly"),
            ("up --backend ipsec", "--backend ipsec is none of vxlan, host-gw, udp"),
            ("fault all --backend udp,x", "--backend x is none of"),
            ("up --backend", "--backend needs a value"),
            ("down --backend udp", "no --backend here"),
            ("up --name Two", "--name \"Two\""),
            ("up --name=", "--name \"\""),
            ("up --underlay 8.8.8", "--underlay 8.8.8"),
            ("up --in space", "--in space"),
            ("down now", "no now here"),
            ("up one two", "no one two here"),
            ("exec h1", "exec needs a host and a command"),
            ("fault", "fault needs names"),
            ("fault all --jobs 0", "--jobs 0"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
