//! `flannel-lab` as people run it: up, again, a path cut, down.

use std::process::Output;
use std::time::Duration;

use flannel_lab::engine::Engine;
use tokio::process::Command;

/// The repository, where `target/images` is.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// No command may take longer.
const LIMIT: Duration = Duration::from_secs(240);

/// A lab with a name of its own, removed when the test ends, however it ends.
struct Named(String);

impl Named {
    async fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel-lab"));
        command.args(words).args(["--name", &self.0]).current_dir(ROOT).kill_on_drop(true);
        let ended = tokio::time::timeout(LIMIT, command.output()).await;
        ended.unwrap_or_else(|_| panic!("flannel-lab {words:?} still runs after {} s", LIMIT.as_secs())).unwrap()
    }

    /// Runs a command that must succeed; what it printed.
    async fn must(&self, words: &[&str]) -> String {
        let output = self.run(words).await;
        let text = said(&output);
        assert!(output.status.success(), "flannel-lab {words:?}: {}\n{text}", output.status);
        text
    }

    /// How many containers and networks of this lab there are.
    async fn left(&self, engine: &Engine) -> (usize, usize) {
        let containers = engine.labelled(&[("com.docker.compose.project", &self.0)]).await.unwrap();
        let network = format!("{}_underlay", self.0);
        let networks = engine.subnets().await.unwrap().into_iter().filter(|(name, _)| *name == network);
        (containers.len(), networks.count())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "drop is not async, and the test has ended")]
        let removed = std::process::Command::new(env!("CARGO_BIN_EXE_flannel-lab"))
            .args(["down", "--name", &self.0])
            .current_dir(ROOT)
            .output();
        if !removed.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("lab {} was not removed: {removed:?}", self.0);
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn the_command_line() {
    let engine = Engine::connect().await.unwrap();
    let lab = Named(format!("flannel-test-{}", std::process::id()));

    let none = lab.run(&["matrix"]).await;
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    assert!(said(&none).contains(&format!("there is no lab {}", lab.0)), "{}", said(&none));

    let first = lab.must(&["up", "--backend", "host-gw"]).await;
    assert!(first.contains("all 60 paths as they should be, host-gw, "), "{first}");
    assert_eq!(lab.left(&engine).await, (4, 1));

    let second = lab.must(&["up"]).await;
    assert!(second.contains("all 60 paths as they should be, host-gw, "), "{second}");
    assert!(!second.contains("starts the early dockerd"), "the second run starts no host again: {second}");

    let host2 = container(&engine, &lab.0, "h2").await;
    engine.run(&host2, &["iptables", "-I", "FORWARD", "-s", "10.5.0.0/16", "-j", "DROP"]).await.unwrap();
    let cut = lab.run(&["matrix"]).await;
    let text = said(&cut);
    assert_eq!(cut.status.code(), Some(1), "{text}");
    for path in ["ping c1 -> c2: 5 of 5 pings", "tcp with checksum c2 -> c3: "] {
        assert!(text.contains(path), "{path:?} is not named: {text}");
    }
    assert!(!text.contains("ping c1 -> c3: "), "{text}");
    let diagnosis = format!("target/diagnosis/{}", lab.0);
    assert!(text.contains(&format!("logs, captures and state of each host: {diagnosis}")), "{text}");
    for file in ["h1.txt", "h2.txt", "h3.txt", "h1.pcap", "h2.pcap", "h3.pcap", "etcd.txt"] {
        let found = std::fs::metadata(format!("{ROOT}/{diagnosis}/{file}"));
        assert!(found.as_ref().is_ok_and(|file| file.len() > 100), "{file}: {found:?}");
    }

    lab.must(&["down"]).await;
    assert_eq!(lab.left(&engine).await, (0, 0));
    std::fs::remove_dir_all(format!("{ROOT}/{diagnosis}")).unwrap();
}

/// The container that a service of the lab runs in.
async fn container(engine: &Engine, project: &str, service: &str) -> String {
    let labels = [("com.docker.compose.project", project), ("com.docker.compose.service", service)];
    engine.labelled(&labels).await.unwrap().remove(0).0
}
