//! The program as a unit of systemd's with a socket unit, as systemd's own test tool starts it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_flannel-docker");
const SOON: Duration = Duration::from_secs(20);

/// Killed when the test is over, however it ends.
struct Plugin(Child);

impl Drop for Plugin {
    fn drop(&mut self) {
        self.0.kill().expect("a child of ours");
        self.0.wait().expect("a child of ours");
    }
}

/// Starts the program with a socket at `path` that systemd's tool opens, and `-socket` as given. The tool becomes the
/// program at the first connection.
fn activated(path: &Path, socket: &Path) -> Plugin {
    let dir = path.parent().unwrap();
    let child = Command::new("systemd-socket-activate")
        .arg(format!("--listen={}", path.display()))
        .arg(PROGRAM)
        .arg(format!("-socket={}", socket.display()))
        .arg(format!("-state-dir={}", dir.join("state").display()))
        .args(["-docker-socket=", "-subnet-file=/nonexistent/subnet.env"])
        .spawn();
    Plugin(child.unwrap_or_else(|e| panic!("systemd-socket-activate: {e}; apt-get install systemd")))
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + SOON;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(e) if Instant::now() > deadline => panic!("{}: {e}", path.display()),
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn serves_the_socket_it_was_given_and_leaves_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flannel.sock");
    let mut plugin = activated(&path, &path);
    let mut stream = connect(&path);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
        .write_all(b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("NetworkDriver"), "{answer}");
    let pid = rustix::process::Pid::from_child(&plugin.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(plugin.0.wait().unwrap().success());
    assert!(path.exists(), "systemd's file was removed");
}

#[test]
fn another_socket_than_its_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flannel.sock");
    let mut plugin = activated(&path, &dir.path().join("other.sock"));
    drop(connect(&path));
    assert_eq!(plugin.0.wait().unwrap().code(), Some(1));
}
