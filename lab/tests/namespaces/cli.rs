//! `flannel-lab` on namespaces, as people run it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use flannel_testbed::{Error, SOON, Signal, eventually};

/// A lab of this test's, and a directory for its results.
struct Named {
    name: String,
    results: tempfile::TempDir,
}

impl Named {
    fn new(role: &str) -> Self {
        Self { name: format!("namespaces-{role}-{}", std::process::id()), results: tempfile::tempdir().unwrap() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-lab"));
        command.args(words).current_dir(self.results.path()).stdin(Stdio::null());
        command
    }

    /// The command on this lab; its flags go before the words, which may be another program's.
    fn run(&self, command: &str, words: &[&str]) -> Output {
        #[expect(clippy::disallowed_methods, reason = "a test on a plain thread")]
        let output = self.command(&[&[command, "--name", &self.name], words].concat()).output().unwrap();
        output
    }

    fn must(&self, command: &str, words: &[&str]) -> String {
        let output = self.run(command, words);
        assert!(output.status.success(), "{command} {words:?}: {}", said(&output));
        said(&output)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let output = self.run("down", &[]);
        if !output.status.success() {
            eprintln!("lab {} was not removed: {}", self.name, said(&output));
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The namespaces of the process that made them.
fn namespaces_of(pid: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("fllab-{pid}-")))
        .collect()
}

#[test]
fn up_status_exec_matrix_down() {
    let lab = Named::new("life");
    let up = lab.must("up", &["--in", "namespaces", "--backend", "host-gw"]);
    assert!(up.contains("all 60 paths as they should be, host-gw"), "{up}");
    let status = lab.must("status", &[]);
    let pid = status.split("held by process ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(status.contains("h3 (172.31.77.3): lease 10.5."), "{status}");
    assert!(!namespaces_of(&pid).is_empty());

    let again = lab.run("up", &["--in", "namespaces"]);
    assert!(!again.status.success() && said(&again).contains("runs already"), "{}", said(&again));
    assert!(lab.must("exec", &["h2", "ip", "-br", "addr"]).contains("172.31.77.2/24"));
    assert_eq!(lab.run("exec", &["c1", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(said(&lab.run("exec", &["h9", "true"])).contains("there is no h9, but c1"));

    lab.must("exec", &["h2", "iptables", "-I", "FORWARD", "-j", "DROP"]);
    let json = lab.results.path().join("m.json");
    let cut = lab.run("matrix", &["--json", json.to_str().unwrap()]);
    let text = said(&cut);
    assert_eq!(cut.status.code(), Some(1), "{text}");
    assert!(text.contains("ping c1 -> c2: 5 of 5 pings to "), "{text}");
    assert!(!text.contains("ping c1 -> c3:"), "{text}");
    assert!(text.contains("logs, captures and state of each host: "), "{text}");
    for file in ["h2.txt", "underlay.pcap"] {
        let file = lab.results.path().join("target/diagnosis").join(&lab.name).join(file);
        assert!(std::fs::metadata(&file).is_ok_and(|file| file.len() > 100), "{}: {text}", file.display());
    }
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(json["backend"], "host-gw");

    lab.must("down", &[]);
    assert_eq!(namespaces_of(&pid), Vec::<String>::new());
    assert!(!Path::new("/proc").join(&pid).exists());
}

/// Ctrl-C in the middle, and `kill -9` in the middle: nothing stays, at the latest when the next lab is made.
#[test]
fn interrupted_and_killed_labs_leave_nothing() {
    leaves_nothing("end", &["matrix", "--in", "namespaces"], |names| names.len() >= 4);
}

/// The same where hosts are Docker hosts, with containers.
#[test]
fn interrupted_and_killed_docker_hosts_leave_nothing() {
    let words = ["fault", "plugin-kill", "--backend", "vxlan"];
    leaves_nothing("docker-end", &words, |names| names.iter().any(|name| name.contains("-h1c1-")));
}

fn leaves_nothing(role: &str, words: &[&str], far_enough: impl Fn(&[String]) -> bool) {
    let lab = Named::new(role);
    for signal in [Signal::INT, Signal::KILL] {
        let mut child = lab.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id().to_string();
        eventually("some of the lab", SOON * 3, || {
            if far_enough(&namespaces_of(&pid)) { Ok(()) } else { Err(Error::new("too little")) }
        })
        .unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        if signal == Signal::KILL {
            assert!(!namespaces_of(&pid).is_empty(), "there was nothing to clean up");
            lab.command(&["matrix", "--in", "namespaces"]).stdout(Stdio::null()).spawn().unwrap().wait().unwrap();
        } else {
            assert_eq!(status.code(), Some(130));
        }
        assert_eq!(namespaces_of(&pid), Vec::<String>::new(), "{signal:?}");
        let files = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        let left = files.filter(|f| f.file_name().to_string_lossy().starts_with(&format!("fllab-{pid}-"))).count();
        assert_eq!(left, 0, "{signal:?}");
        // A client of a Docker that was killed ends by itself.
        eventually("the end of all processes", SOON, || match lines_with(&format!("fllab-{pid}-")) {
            none if none.is_empty() => Ok(()),
            some => Err(Error::new(format!("{signal:?}: {some:#?}"))),
        })
        .unwrap();
    }
}

/// The command lines that contain this text.
fn lines_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(text)).collect()
}

#[test]
fn wrong_words_are_answered_in_one_line() {
    let lab = Named::new("words");
    for (words, part) in [
        (["fault", "earthquake"].as_slice(), "there is no fault earthquake"),
        (&["matrix", "--in", "namespaces", "nowhere.toml"], "topology nowhere.toml"),
        (&["matrix", "--in", "namespaces", "--flanneld", "/nowhere"], "/nowhere is missing"),
        (&["report", "--results", "/nowhere"], "nothing was tried yet"),
    ] {
        #[expect(clippy::disallowed_methods, reason = "a test on a plain thread")]
        let output = lab.command(words).output().unwrap();
        let text = said(&output);
        assert!(!output.status.success() && text.contains(part), "{words:?}: {text}");
        assert!(text.lines().last().unwrap().starts_with("error: "), "{words:?}: {text}");
    }
}
