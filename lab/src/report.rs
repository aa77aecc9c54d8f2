//! What was found, for people: one HTML page that needs nothing but itself, and the failure matrix of the documents.

mod failures;
mod faults;
mod matrix;
mod topology;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::bench::Bench;
use crate::results::Results;

pub use failures::failures;

const STYLE: &str = include_str!("report/style.css");

/// Versions of what takes part, as name and value.
#[must_use]
pub fn settings() -> Vec<(String, String)> {
    let first = |program: &str, args: &[&str]| {
        #[expect(
            clippy::disallowed_methods,
            reason = "short programs before a page is written; there is nothing to block"
        )]
        let said = std::process::Command::new(program).args(args).stdin(std::process::Stdio::null()).output().ok()?;
        let text = [said.stdout, said.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
    };
    let own = std::env::current_exe().ok().map(|path| path.with_file_name("flanneld").display().to_string());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = [
        ("flanneld", own.and_then(|path| first(&path, &["-version"]))),
        ("flannel-lab", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("etcd", first("etcd", &["--version"])),
        ("kernel", first("uname", &["-srm"])),
        ("iptables", first("iptables", &["--version"])),
        ("cores", Some(cores.to_string())),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The page.
#[must_use]
pub fn page(results: &Results) -> String {
    let broken = results.faults.iter().filter(|outcome| !outcome.broken.is_empty()).count();
    let wrong: usize = results.matrices.iter().map(|matrix| matrix.wrong().len()).sum();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "flannel-lab report" }
                // No icon to ask for either.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "flannel-lab" }
                    p .lead {
                        @if broken + wrong == 0 { span .good { "Everything kept its promise." } }
                        @else { span .bad { (broken) " promises broken, " (wrong) " checks failed." } }
                        " " (results.matrices.len()) " matrices, " (results.faults.len()) " faults."
                    }
                }
                main {
                    @for (matrix, topology) in results.matrices.iter().zip(&results.topologies) {
                        section {
                            h2 { (matrix.topology) ", " (matrix.backend) }
                            p {
                                (topology.about) ". " (matrix.runner) ", " (format!("{:.1}", matrix.seconds)) " s "
                                // Docker hosts were there before.
                                @if matrix.runner == "namespaces" { "from nothing to the last path." } @else { "for all paths." }
                            }
                            (topology::drawing(topology))
                            (matrix::heat_map(matrix))
                        }
                    }
                    @if let Some(bench) = &results.bench { (bars(bench)) }
                    @if !results.faults.is_empty() { (faults::section(&results.faults)) }
                    section {
                        h2 { "Versions and settings" }
                        dl {
                            @for (name, value) in &results.settings {
                                dt { (name) } dd { (value) }
                            }
                        }
                    }
                }
            }
        }
    }
    .into_string()
}

/// Throughput per backend, as bars.
fn bars(bench: &Bench) -> Markup {
    let most = bench.lines.iter().map(|line| line.containers.max(line.hosts)).fold(1.0, f64::max);
    let bar = |value: f64, class: &str| {
        let width = format!("width:{:.1}%", value * 100.0 / most);
        html! { span .track { span class=(format!("bar {class}")) style=(width) {} } span .figure { (format!("{value:.0}")) } }
    };
    html! {
        section #throughput {
            h2 { "Throughput, Mbit/s" }
            p { "One TCP connection on one machine; compare the bars with one another, not with a network." }
            @for line in &bench.lines {
                div .row { span .label { (line.backend) } (bar(line.containers, "containers")) }
                div .row { span .label .quiet { "the hosts alone" } (bar(line.hosts, "hosts")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Line;

    #[test]
    fn what_was_found_is_escaped_and_nothing_comes_from_outside() {
        let results = Results {
            bench: Some(Bench {
                lines: vec![Line { backend: "<b>".to_owned(), containers: 1.0, hosts: 2.0, ping: 0.1 }],
            }),
            settings: vec![("kernel".to_owned(), "a & b <script>".to_owned())],
            ..Results::default()
        };
        let page = page(&results);
        assert!(page.contains("&lt;b&gt;") && page.contains("a &amp; b &lt;script&gt;"), "{page}");
        for outside in ["http:", "https:", "//", "@import", "src=", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
