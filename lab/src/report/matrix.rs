//! The matrix as a heat map: the slower, the darker; what is down is red.

use maud::{Markup, html};

use crate::matrix::{Cell, Kind, Matrix};
use crate::measure::Check;

/// What is shown of the many checks; the others are counted.
const SHOWN: [(Check, &str, &str); 3] = [
    (Check::Ping, "Ping", "ms"),
    (Check::Tcp, "256 KiB by TCP, with checksum", "ms"),
    (Check::Throughput, "Throughput", "Mbit/s"),
];

pub(super) fn heat_map(matrix: &Matrix) -> Markup {
    let wrong = matrix.wrong();
    html! {
        p {
            (matrix.paths()) " paths, " (matrix.cells.len()) " checks: "
            @if wrong.is_empty() { span .good { "all as they should be" } }
            @else { span .bad { (wrong.len()) " failed" } }
            ". Also tried: UDP, packets of exactly the MTU, one byte above, and in fragments."
        }
        @if !wrong.is_empty() { ul { @for line in &wrong { li { (line) } } } }
        @for (check, title, unit) in SHOWN { (table(matrix, check, title, unit)) }
    }
}

fn table(matrix: &Matrix, check: Check, title: &str, unit: &str) -> Markup {
    let cells: Vec<&Cell> = matrix.cells.iter().filter(|cell| cell.check == check).collect();
    let most = cells.iter().filter_map(|cell| cell.value).fold(f64::MIN_POSITIVE, f64::max);
    let all = 0..matrix.places.len();
    let rows: Vec<usize> = all.clone().filter(|number| cells.iter().any(|cell| cell.from == *number)).collect();
    let columns: Vec<usize> = all.filter(|number| cells.iter().any(|cell| cell.to == *number)).collect();
    let label = |number: usize| {
        let place = &matrix.places[number];
        let family = if place.address.is_ipv6() { " v6" } else { "" };
        if place.kind == Kind::Gateway {
            format!("{} lease{family}", place.host)
        } else {
            format!("{}{family}", place.name)
        }
    };
    let shown = |cell: Option<&&Cell>| match cell {
        None => html! { td .none { "·" } },
        Some(Cell { value: None, wrong, .. }) => {
            html! { td .down title=(wrong.clone().unwrap_or_default()) { "down" } }
        }
        Some(Cell { value: Some(value), .. }) => {
            let strength = 0.08 + 0.5 * value / most;
            let text = if *value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
            html! { td style=(format!("background:rgba(var(--heat),{strength:.2})")) { (text) } }
        }
    };
    html! {
        h3 { (title) span .quiet { ", " (unit) } }
        div .scroll {
            table {
                thead { tr { th {} @for column in &columns { th { (label(*column)) } } } }
                tbody {
                    @for row in &rows {
                        tr {
                            th { (label(*row)) }
                            @for column in &columns {
                                (shown(cells.iter().find(|cell| cell.from == *row && cell.to == *column)))
                            }
                        }
                    }
                }
            }
        }
    }
}
