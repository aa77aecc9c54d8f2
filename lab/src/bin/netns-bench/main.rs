//! Figures of a flanneld in network namespaces, as tables. `ci/bench` builds what it needs and runs it.
//!
//! ```text
//! netns-bench PATH         the overview: start, memory, one flow over each backend
//! netns-bench udp PATH     the udp backend beside the others and beside what a forwarder can reach at most
//! ```

use std::path::Path;
use std::process::ExitCode;

mod limit;
mod measure;
mod overview;
mod udp;

const USAGE: &str = "netns-bench: which flanneld? netns-bench [udp] PATH";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        // Not for people: the bench starts itself inside of a host.
        ["limit", device, local, peer, port] => limit::forward(device, local, peer, port),
        ["udp", program] => udp::bench(Path::new(program)),
        [program] => overview::bench(Path::new(program)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("netns-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
