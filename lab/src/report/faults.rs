//! Faults with their timelines: answers and losses in steps of 100 ms, the time of the cause shaded.

use maud::{Markup, html};

use crate::faults::{Measured, Outcome, newcomer};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 60.0;

pub(super) fn section(outcomes: &[Outcome]) -> Markup {
    html! {
        section #faults {
            h2 { "Faults" }
            p {
                "A ping every 10 ms and a TCP connection run from the host that is hit to another. Tap one for its timeline."
            }
            @for outcome in outcomes { (fault(outcome)) }
        }
    }
}

fn fault(outcome: &Outcome) -> Markup {
    let kept = outcome.broken.is_empty();
    html! {
        details open[!kept] {
            summary {
                b { (outcome.fault) " " span .quiet { (outcome.backend) } }
                @if let Some(seen) = &outcome.measured {
                    span { (seen.lost) " lost" }
                    span { (format!("{:.2}", seen.gap)) " s gap" }
                    span { @match seen.heal { Some(heal) => { (format!("{heal:.2}")) " s to heal" }, None => "never healed" } }
                }
                @if kept { span .good { "kept" } } @else { span .bad { "broken" } }
            }
            div {
                p { (outcome.what) ". Promise: " (outcome.promise) "." }
                @for line in &outcome.broken { p .bad { (line) } }
                @if let Some(seen) = &outcome.measured {
                    (timeline(seen, outcome))
                    p .quiet {
                        "TCP: longest silence " (format!("{:.2}", seen.tcp_gap)) " s"
                        @if let Some(why) = &seen.tcp_broken { ", broke: " (why) } @else { ", connection kept" }
                        ". Meanwhile, a new container: " (newcomer(seen.new_container))
                        ", a new host: " (newcomer(seen.new_host))
                        ". Lost between other hosts: " (seen.bystander_lost) "."
                    }
                }
            }
        }
    }
}

fn timeline(seen: &Measured, outcome: &Outcome) -> Markup {
    let length = seen.length.max(0.1);
    let x = |seconds: f64| format!("{:.1}", seconds * WIDTH / length);
    let step = 0.1 * WIDTH / length;
    let until = seen.cured.unwrap_or(length);
    let label = format!("{} {}: answers and losses over {length:.1} s", outcome.fault, outcome.backend);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + 16.0)) role="img" aria-label=(label) {
            rect .cause x=(x(seen.cause)) y="0" width=(x((until - seen.cause).max(length / 300.0))) height=(HEIGHT) {}
            @for (number, (sent, lost, _)) in seen.timeline.iter().enumerate() {
                @let answered = f64::from(sent.saturating_sub(*lost));
                @let (up, down) = (answered.min(12.0) * HEIGHT / 12.0, f64::from(*lost).min(12.0) * HEIGHT / 12.0);
                @let at = format!("{:.1}", step * f64::from(u32::try_from(number).unwrap_or(0)));
                @let wide = format!("{:.1}", (step - 0.5).max(0.5));
                @if answered > 0.0 { rect .sent x=(at) y=(format!("{:.1}", HEIGHT - up)) width=(wide) height=(format!("{up:.1}")) {} }
                @if *lost > 0 { rect .lost x=(at) y="0" width=(wide) height=(format!("{down:.1}")) {} }
            }
            text .small x="0" y=(HEIGHT + 13.0) { "0 s" }
            text .small x=(WIDTH) y=(HEIGHT + 13.0) text-anchor="end" { (format!("{length:.1} s")) }
        }
    }
}
