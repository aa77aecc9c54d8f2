//! The command line of `flannel-lab`.

use std::path::PathBuf;

use crate::{Error, Result, underlay};

/// The backends that the lab knows by name.
const BACKENDS: [&str; 3] = ["vxlan", "host-gw", "udp"];
/// The project's name unless `--name` gives another.
pub const DEFAULT_NAME: &str = "flannel-lab";

/// `flannel-lab help`.
pub const HELP: &str = "\
flannel-lab: Docker hosts in containers, with flannel between them

  flannel-lab up [--backend vxlan|host-gw|udp] [--name NAME] [--underlay A.B.C] [--images DIR]
      brings the lab up, makes a flannel network and a container on each host, tries every path
  flannel-lab matrix [--name NAME]     tries every path again
  flannel-lab status [--name NAME]     hosts, leases and containers
  flannel-lab diagnose [--name NAME]   writes all that is known of each host into target/diagnosis/NAME
  flannel-lab down [--name NAME]       removes the lab and nothing else
  flannel-lab help

  --backend    kept from the running lab when not given, else vxlan; another one makes the lab anew
  --name       of the lab (flannel-lab); two labs have two names
  --underlay   first three numbers of the hosts' addresses; a free one is found when not given
  --images     where ci/images put the image files (target/images)
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the lab and try it.
    Up,
    /// Remove it.
    Down,
    /// Try it again.
    Matrix,
    /// Show it.
    Status,
    /// Write down what is known of it.
    Diagnose,
    /// Print [`HELP`].
    Help,
}

/// A command line, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// The backend asked for.
    pub backend: Option<String>,
    /// The lab's name.
    pub name: String,
    /// The underlay asked for.
    pub underlay: Option<String>,
    /// Where the image files are.
    pub images: PathBuf,
}

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Args> {
    let mut words = words.into_iter();
    let action = match words.next().as_deref() {
        Some("up") => Action::Up,
        Some("down") => Action::Down,
        Some("matrix") => Action::Matrix,
        Some("status") => Action::Status,
        Some("diagnose") => Action::Diagnose,
        Some("help" | "-h" | "--help") => Action::Help,
        Some(other) => return Err(Error::Usage(format!("there is no command {other}"))),
        None => return Err(Error::Usage("a command is missing".to_owned())),
    };
    let mut args = Args {
        action,
        backend: None,
        name: DEFAULT_NAME.to_owned(),
        underlay: None,
        images: PathBuf::from("target/images"),
    };
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value =
            || inline.clone().or_else(|| words.next()).ok_or_else(|| Error::Usage(format!("{flag} needs a value")));
        match flag.as_str() {
            "--backend" if args.action == Action::Up => args.backend = Some(backend(value()?)?),
            "--underlay" if args.action == Action::Up => {
                let text = value()?;
                underlay::check(&text)?;
                args.underlay = Some(text);
            }
            "--images" if args.action == Action::Up => args.images = value()?.into(),
            "--name" => args.name = name(value()?)?,
            _ => return Err(Error::Usage(format!("there is no {flag} here"))),
        }
    }
    Ok(args)
}

fn backend(text: String) -> Result<String> {
    if BACKENDS.contains(&text.as_str()) {
        return Ok(text);
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
        assert_eq!(args.backend.as_deref(), Some("udp"));
        assert_eq!(args.name, "two");
        assert_eq!(args.underlay.as_deref(), Some("172.29.80"));
        assert_eq!(args.images, PathBuf::from("/x"));
    }

    #[test]
    fn has_defaults() {
        let args = read("down").unwrap();
        assert_eq!((args.name.as_str(), args.backend), (DEFAULT_NAME, None));
    }

    #[test]
    fn refuses_with_a_line_that_names_the_word() {
        for (line, part) in [
            ("", "a command is missing"),
            ("fly", "no command fly"),
            ("up --backend ipsec", "--backend ipsec is none of vxlan, host-gw, udp"),
            ("up --backend", "--backend needs a value"),
            ("down --backend udp", "no --backend here"),
            ("up --name Two", "--name \"Two\""),
            ("up --name=", "--name \"\""),
            ("up --underlay 8.8.8", "--underlay 8.8.8"),
            ("up now", "no now here"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
