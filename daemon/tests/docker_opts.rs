//! `flanneld docker-opts` beside the recorded runs of upstream's script, and what it does with files.
//!
//! The run with a route in the way needs a namespace and is in tests/netns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");
const RECORDED: &str = include_str!("vectors/mk-docker-opts.txt");
const ENV_FILES: &str = "##### env files";
const ROUTED: &str = "##### in a network namespace";
const BASH: &str = "##### by bash";

/// A recorded run.
#[derive(Debug)]
struct Run {
    env_file: &'static str,
    arguments: &'static str,
    environment: Option<(&'static str, &'static str)>,
    code: i32,
    /// What was written, if anything was.
    file: Option<String>,
}

fn section(start: &str) -> &'static str {
    let (_, from) = RECORDED.split_once(start).expect(start);
    from.split("\n#####").find(|part| !part.is_empty()).expect(start)
}

fn runs(text: &'static str) -> Vec<Run> {
    text.split("===== env file: ").skip(1).map(run).collect()
}

fn run(text: &'static str) -> Run {
    let (head, body) = text.split_once("\nrc=").expect("an exit code");
    let (env_file, call) = head.split_once("; args: ").expect("arguments");
    let (arguments, environment) = match call.split_once("; environment: ") {
        Some((arguments, variable)) => (arguments, variable.split_once('=')),
        None => (call, None),
    };
    let (code, file) = body.split_once('\n').expect("an outcome");
    let file = file.strip_prefix("--- file (cat -A)\n").map(|shown| shown.replace("$\n", "\n"));
    Run { env_file, arguments, environment, code: code.parse().expect("a number"), file }
}

/// The recorded env files, in a directory of their own.
fn env_files() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let names = section(ENV_FILES).lines().map_while(|line| (!line.starts_with("=====")).then_some(line));
    let mut current = None;
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for line in names.filter(|line| !line.is_empty()) {
        match line.strip_prefix("--- ") {
            Some(name) => {
                files.insert(name, String::new());
                current = Some(name);
            }
            None => *files.get_mut(current.expect("a name first")).unwrap() += &format!("{line}\n"),
        }
    }
    assert_eq!(files.len(), 8, "{files:?}");
    for (name, text) in files {
        fs::write(root.path().join(name), text).unwrap();
    }
    root
}

#[expect(clippy::disallowed_methods, reason = "there is no runtime to block")]
fn call(root: &Path, words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(FLANNELD);
    command.arg("docker-opts").args(words).current_dir(root).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

fn repeat(root: &Path, run: &Run) -> (Option<i32>, Option<String>, String) {
    let out = root.join("out");
    if out.exists() {
        fs::remove_file(&out).unwrap();
    }
    let mut words = vec!["-f", run.env_file, "-d", "out"];
    words.extend(run.arguments.split_whitespace());
    let done = call(root, &words, run.environment.as_slice());
    (done.status.code(), fs::read_to_string(out).ok(), String::from_utf8(done.stderr).unwrap())
}

/// Where upstream's outcome is an accident of its shell.
fn differs(run: &Run) -> bool {
    // The name is searched in $PATH; ours is a file's.
    !run.env_file.contains('/')
        // The listing of variables is split at each blank.
        || run.environment.is_some_and(|(_, value)| value == "--foo 1")
}

#[test]
fn recorded_runs_give_the_same_file_and_exit_code() {
    let root = env_files();
    let runs = runs(section(ENV_FILES));
    assert_eq!(runs.len(), 41);
    let (other, same): (Vec<_>, Vec<_>) = runs.iter().partition(|run| differs(run));
    assert_eq!(other.len(), 2, "{other:?}");
    for run in same {
        let (code, file, said) = repeat(root.path(), run);
        assert_eq!((code, &file), (Some(run.code), &run.file), "{run:?}\n{said}");
        assert!(run.code == 0 || !said.is_empty(), "{run:?} says nothing");
    }
}

#[test]
fn where_a_shells_accident_was_recorded_ours_is_right() {
    let root = env_files();
    let runs = runs(section(ENV_FILES));
    for run in runs.iter().filter(|run| differs(run)) {
        let (code, file, said) = repeat(root.path(), run);
        let options = if run.environment.is_some() {
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_FOO=\"--foo 1\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n\
             DOCKER_OPT_MTU=\"--mtu=1472\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24 --foo 1 --ip-masq=true --mtu=1472\"\n"
        } else {
            "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n"
        };
        assert_eq!((code, file.as_deref()), (Some(0), Some(options)), "{run:?}\n{said}");
    }
    // By bash upstream's also finds words of its own usage text; without a shell there is but one way to run.
    let (bash, dash) = (self::runs(section(BASH)), runs);
    assert_eq!(bash.len(), 2);
    for run in bash {
        let dash = dash
            .iter()
            .find(|d| (d.env_file, d.arguments, d.environment) == (run.env_file, run.arguments, run.environment));
        assert_ne!(dash.expect("the same run by dash").file, run.file);
    }
    assert_eq!(self::runs(section(ROUTED)).len(), 1, "see tests/netns");
}

#[test]
fn nothing_is_written_unless_all_is_well() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    for (text, words, said) in [
        ("FLANNEL_MTU=$(reboot)", "", "./env: line 1: '$' has a meaning to a shell"),
        ("FLANNEL_SUBNET=10.5.72.1", "", "./env: FLANNEL_SUBNET=\"10.5.72.1\" is not an IPv4 address"),
        ("FLANNEL_SUBNET=10.5.72.1/24", "-address-pool=24", "./env: -address-pool=24 gives no parts of the lease"),
        ("FLANNEL_SUBNET=10.5.72.1/24", "-address-pool=wide", "-address-pool=wide: the value is no prefix length"),
        ("", "--address-pool 26", "./env: FLANNEL_SUBNET is missing"),
        ("", "-d /proc/none/such", "can't write /proc/none/such: "),
    ] {
        write("env", text);
        write("out", "old\n");
        let mut words: Vec<_> = words.split_whitespace().collect();
        words.splice(0..0, ["-f", "./env", "-d", "out"]);
        let done = call(root.path(), &words, &[]);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(stderr.starts_with(&format!("flanneld docker-opts: {said}")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(fs::read_to_string(root.path().join("out")).unwrap(), "old\n");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_link_of_upstreams_name_is_the_script() {
    let root = env_files();
    let link = root.path().join("mk-docker-opts.sh");
    std::os::unix::fs::symlink(FLANNELD, &link).unwrap();
    #[expect(clippy::disallowed_methods, reason = "there is no runtime to block")]
    let done = Command::new(link)
        .args(["-f", "./masq.env", "-d", "/dev/stdout", "-c", "-kDOCKER_NETWORK_OPTIONS"])
        .current_dir(root.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        "DOCKER_NETWORK_OPTIONS=\" --bip=10.5.72.1/24 --ip-masq=false --mtu=1450\"\n"
    );
    assert!(done.status.success());
}

/// Who sources the file, as start scripts do, gets what was meant.
#[test]
fn a_shell_reads_the_file_as_it_was_meant() {
    let root = tempfile::tempdir().unwrap();
    let odd = "--log-opt=tag=\"a  b\" $HOME $(reboot) `reboot` 'x' \\n * # ; ~";
    let done = call(root.path(), &["-f", "none", "-d", "out", "-c"], &[("DOCKER_OPTS", odd)]);
    assert!(done.status.success(), "{done:?}");
    #[expect(clippy::disallowed_methods, reason = "there is no runtime to block")]
    let read = Command::new("sh")
        .args(["-c", ". ./out; printf %s \"$DOCKER_OPTS\""])
        .current_dir(root.path())
        .env_remove("DOCKER_OPTS")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), format!("{odd} "));
}
