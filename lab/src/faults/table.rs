//! Outcomes for a terminal.

use super::{Newcomer, Outcome};

/// One line each, and beneath a broken one how.
#[must_use]
pub fn render(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.fault.len()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "  {:width$}  {:8} {:>6} {:>8} {:>8} {:>8}  {:9} {:9} {:6}  promise\n",
        "fault", "backend", "lost", "gap, s", "heal, s", "tcp, s", "container", "host", "kept"
    );
    for outcome in outcomes {
        let kept = if outcome.broken.is_empty() { "yes" } else { "BROKEN" };
        let mut columns = [const { String::new() }; 6];
        if let Some(seen) = &outcome.measured {
            columns = [
                seen.lost.to_string(),
                format!("{:.2}", seen.gap),
                seen.heal.map_or_else(|| "never".to_owned(), |heal| format!("{heal:.2}")),
                format!("{:.2}", seen.tcp_gap),
                newcomer(seen.new_container).to_owned(),
                newcomer(seen.new_host).to_owned(),
            ];
        }
        let [lost, gap, heal, tcp, container, host] = columns;
        text.push_str(&format!(
            "  {:width$}  {:8} {lost:>6} {gap:>8} {heal:>8} {tcp:>8}  {container:9} {host:9} {kept:6}  {}\n",
            outcome.fault, outcome.backend, outcome.promise
        ));
        for line in &outcome.broken {
            text.push_str(&format!("  {:width$}  !! {}\n", "", line.replace('\n', &format!("\n  {:width$}     ", ""))));
        }
        if let Some(evidence) = &outcome.evidence {
            text.push_str(&format!("  {:width$}     logs, captures and state of every host: {evidence}\n", ""));
        }
    }
    text
}

/// A newcomer in a word.
pub(crate) fn newcomer(met: Option<Newcomer>) -> &'static str {
    match met {
        None => "-",
        Some(Newcomer::Works) => "works",
        Some(Newcomer::Waits) => "waits",
    }
}
