//! `flanneld docker-opts`: Docker's daemon options made of `subnet.env`, as upstream's `mk-docker-opts.sh` makes them.
//!
//! A program of its own inside the daemon's, run by its first word, or by the name of a link to it
//! (`mk-docker-opts.sh`, `mk-docker-opts`), so that units and scripts written for upstream's go on working. What is
//! decided is in [`flannel_core::docker_opts`]; here files are read and written, and routes looked at.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use flannel_core::docker_opts::{Variables, assignments, derive};
use flannel_core::ipnet::{IpNet, Ipv4Net};

use crate::kernel::KernelError;
use crate::kernel::netlink::Netlink;
use command_line::{Options, Stop};
use flannel_host::files;

mod command_line;

const WORD: &str = "docker-opts";
const LINKS: [&str; 2] = ["mk-docker-opts.sh", "mk-docker-opts"];

/// How the program was called, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    name: String,
    words: Vec<String>,
}

/// The call, if the command line (with the program's name) is for this part of the program.
pub fn asked(command_line: impl IntoIterator<Item = OsString>) -> Option<Call> {
    let mut words = command_line.into_iter().map(|word| word.to_string_lossy().into_owned());
    let program = words.next()?;
    let file = Path::new(&program).file_name()?.to_str()?;
    let name = if LINKS.contains(&file) {
        file.to_owned()
    } else if words.next()? == WORD {
        format!("{file} {WORD}")
    } else {
        return None;
    };
    Some(Call { name, words: words.collect() })
}

/// Runs it. 0 when the file is written and the lease is this host's alone, else 1, as upstream.
pub fn run(call: Call) -> ExitCode {
    let Call { name, words } = call;
    let done = match command_line::read(words) {
        Ok(options) => write(&options, &name),
        Err(Stop::Help) => {
            eprint!("{}", command_line::usage(&name));
            return ExitCode::FAILURE;
        }
        Err(Stop::Bad(why)) => Err(why),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{name}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write(options: &Options, name: &str) -> Result<(), String> {
    let mut variables = environment();
    match read(&options.flannel_env)? {
        Some(assigned) => variables.extend(assigned),
        None => eprintln!("{name}: note: {} is not there: is flanneld running?", options.flannel_env.display()),
    }
    let source = options.flannel_env.display();
    let made = derive(&options.wanted, variables).map_err(|bad| format!("{source}: {bad}"))?;
    let target = &options.docker_env;
    files::write(target, &made.text)
        .map_err(|error| format!("can't write {}: {error}; choose another file with -d", target.display()))?;
    let Some(subnet) = made.subnet else { return Ok(()) };
    match gateway_to(subnet) {
        Ok(None) => Ok(()),
        // Upstream, too, has written the file by now.
        Ok(Some(gateway)) => Err(format!(
            "{subnet}, this host's lease, is routed via {gateway}: another host has it, or the route is left over; \
             remove the route (ip route del {subnet}) before Docker starts"
        )),
        Err(error) => {
            eprintln!("{name}: note: whether another host has {subnet} is not known: {error}");
            Ok(())
        }
    }
}

/// Variables that a shell would know, too.
fn environment() -> Variables {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| assignments::is_name(name)).collect()
}

/// The file's assignments; nothing when there is no such file, which upstream takes for an empty one.
fn read(path: &Path) -> Result<Option<Variables>, String> {
    if !path.is_file() {
        return Ok(None);
    }
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("can't read {shown}: {error}"))?;
    let assigned = assignments::parse(&text).map_err(|bad| format!("{shown}: {bad}"))?;
    Ok(Some(assigned.into_iter().collect()))
}

#[tokio::main(flavor = "current_thread")]
async fn gateway_to(subnet: Ipv4Net) -> Result<Option<IpAddr>, KernelError> {
    Netlink::open()?.gateway_to(&IpNet::V4(subnet)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Option<Call> {
        asked(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_first_word_or_a_links_name_asks_for_it() {
        let call = |name: &str, words: &[&str]| {
            Some(Call { name: name.into(), words: words.iter().map(|w| (*w).to_owned()).collect() })
        };
        assert_eq!(called("/opt/bin/flanneld docker-opts -i"), call("flanneld docker-opts", &["-i"]));
        assert_eq!(called("/opt/bin/mk-docker-opts.sh -k X -c"), call("mk-docker-opts.sh", &["-k", "X", "-c"]));
        assert_eq!(called("mk-docker-opts"), call("mk-docker-opts", &[]));
        for other in ["", "flanneld", "flanneld -ip-masq docker-opts", "docker-opts -i", "/mk-docker-opts.sh/flanneld"]
        {
            assert_eq!(called(other), None, "{other}");
        }
    }
}
