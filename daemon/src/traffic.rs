//! Packet-filter rules: applied at start, checked ever after.
//!
//! Two ways to set them, chosen by the config; each can clear what the other left, so that switching leaves nothing
//! behind.

use std::process::Stdio;

use flannel_core::ipnet::IpNet;
use flannel_core::rules::RuleSet;
use flannel_core::rules::iptables::Purpose;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub mod iptables;
pub mod nftables;

/// Why rules could not be set: a sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TrafficError(pub String);

/// What is still in use, by the network's family and the purpose.
pub type Except<'a> = &'a [(IpNet, Purpose)];

/// The host's packet filter.
pub trait TrafficManager {
    /// Makes the rules of the set, and nothing else of ours, stand; says whether anything had to be done.
    fn apply(&mut self, rules: &RuleSet) -> impl Future<Output = Result<bool, TrafficError>>;

    /// Removes what an earlier run left, of either family and for any purpose but those excepted.
    fn clear(&mut self, except: Except<'_>) -> impl Future<Output = Result<(), TrafficError>>;
}

/// Runs a program to its end and gives what it printed.
async fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<String, TrafficError> {
    let fail = |why: String| TrafficError(format!("{program} {}: {why}", args.join(" ")));
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .spawn()
        .map_err(|e| fail(format!("{e}; install it, or switch -iptables-forward-rules and -ip-masq off")))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).await.map_err(|e| fail(e.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|e| fail(e.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(fail(format!("{}: {}", output.status, said.lines().next().unwrap_or("it said nothing"))))
    }
}
