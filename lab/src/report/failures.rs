//! The failure matrix: what happens to running containers, to new ones and to new hosts when something is down.

use crate::faults::{Outcome, newcomer};
use crate::results::Results;

/// As a document. `settings` name what it was found with.
#[must_use]
pub fn failures(results: &Results, settings: &[(String, String)]) -> String {
    let mut text = String::from(
        "# What happens when something is down\n\n\
         Found by running it, not written by hand: `flannel-lab fault all`, then `flannel-lab failures`. Each fault has a \
         lab of its own with four hosts; a ping every 10 ms and a TCP connection run from the host that is hit to \
         another, and a second pair between hosts that are not. *New container*: one made on the host that is hit, \
         while it lasts. *New host*: one that joins while it lasts; *waits* means that it joined as soon as it was over. \
         After every fault a new host joined and was reached, and every TCP connection lived on but those to containers \
         that Docker restarted. A dash: not tried.\n\n\
         Times are of one run, three labs at once; the promise is what holds. The figures of the udp backend differ where \
         its daemon is down, because it carries the packets itself.\n\n",
    );
    for (name, value) in settings {
        text.push_str(&format!("- {name}: {value}\n"));
    }
    for backend in crate::args::BACKENDS {
        let of_backend: Vec<&Outcome> = results.faults.iter().filter(|outcome| outcome.backend == backend).collect();
        if of_backend.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "\n## {backend}\n\n\
             | what happens | for | running containers | longest gap | flows again after | new container | new host | promise |\n\
             |---|---|---|---|---|---|---|---|\n"
        ));
        for outcome in of_backend {
            text.push_str(&line(outcome));
        }
    }
    text
}

fn line(outcome: &Outcome) -> String {
    let promise = if outcome.broken.is_empty() {
        outcome.promise.clone()
    } else {
        format!("**broken**: {}", outcome.broken.join("; ").replace('\n', " "))
    };
    let what = format!("**{}**: {}", outcome.fault, outcome.what);
    let Some(seen) = &outcome.measured else { return format!("| {what} | | | | | | | {promise} |\n") };
    let duration = seen.cured.map_or("-".to_owned(), |cured| format!("{:.1} s", cured - seen.cause));
    let running = match seen.lost {
        0 => "nothing lost".to_owned(),
        lost => format!("{lost} of {} pings lost", seen.sent),
    };
    let heal = match seen.heal {
        _ if seen.lost == 0 => "-".to_owned(),
        Some(heal) => format!("{heal:.2} s"),
        None => "never".to_owned(),
    };
    format!(
        "| {what} | {duration} | {running} | {:.2} s | {heal} | {} | {} | {promise} |\n",
        seen.gap,
        newcomer(seen.new_container),
        newcomer(seen.new_host)
    )
}
