//! The matrix for a terminal.

use super::{Cell, Kind, Matrix, Place};
use crate::measure::Check;

/// A check's name and the unit of its value.
pub(super) fn title(check: Check) -> (&'static str, &'static str) {
    match check {
        Check::Ping => ("ping", "ms"),
        Check::Tcp => ("tcp with checksum", "ms"),
        Check::Udp => ("udp", "ms"),
        Check::ExactMtu => ("packet of exactly the MTU", "ms"),
        Check::AboveMtu => ("one byte above, refused", "MTU"),
        Check::Fragments => ("far above, in fragments", "ms"),
        Check::Throughput => ("throughput", "Mbit/s"),
        Check::Silence => ("silence, as is right", "0"),
    }
}

const CHECKS: [Check; 8] = [
    Check::Ping,
    Check::Tcp,
    Check::Udp,
    Check::ExactMtu,
    Check::AboveMtu,
    Check::Fragments,
    Check::Silence,
    Check::Throughput,
];

/// A table for each check, askers down and asked across.
pub(super) fn render(matrix: &Matrix) -> String {
    let mut text = String::new();
    for check in CHECKS {
        let cells: Vec<&Cell> = matrix.cells.iter().filter(|cell| cell.check == check).collect();
        if !cells.is_empty() {
            let (name, unit) = title(check);
            text.push_str(&format!("  {name}, {unit}\n"));
            text.push_str(&table(matrix, &cells));
        }
    }
    text
}

fn label(place: &Place) -> String {
    let family = if place.address.is_ipv6() { "/6" } else { "" };
    match place.kind {
        Kind::Gateway => format!("{}.gw{family}", place.host),
        _ => format!("{}{family}", place.name),
    }
}

fn table(matrix: &Matrix, cells: &[&Cell]) -> String {
    let used = |number: usize, pick: fn(&Cell) -> usize| cells.iter().any(|cell| pick(cell) == number);
    let all = 0..matrix.places.len();
    let rows: Vec<usize> = all.clone().filter(|number| used(*number, |cell| cell.from)).collect();
    let columns: Vec<usize> = all.filter(|number| used(*number, |cell| cell.to)).collect();
    let width =
        columns.iter().chain(&rows).map(|number| label(&matrix.places[*number]).len()).max().unwrap_or(0).max(7);
    let mut text = format!("  {:width$}", "");
    for column in &columns {
        text.push_str(&format!("  {:>width$}", label(&matrix.places[*column])));
    }
    text.push('\n');
    for row in rows {
        text.push_str(&format!("  {:width$}", label(&matrix.places[row])));
        for column in &columns {
            let cell = cells.iter().find(|cell| cell.from == row && cell.to == *column);
            text.push_str(&format!("  {:>width$}", cell.map_or_else(|| "-".to_owned(), |cell| value(cell))));
        }
        text.push('\n');
    }
    text
}

fn value(cell: &Cell) -> String {
    match cell.value {
        None => "DOWN".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_down_shows_in_its_cell() {
        let place = |name: &str| Place {
            kind: Kind::Container,
            name: name.to_owned(),
            host: "h".to_owned(),
            network: "net".to_owned(),
            address: ([10, 5, 1, 2], 1).into(),
            mtu: 1450,
        };
        let cell = |from, to, wrong: Option<&str>| Cell {
            from,
            to,
            check: Check::Ping,
            value: wrong.is_none().then_some(0.25),
            wrong: wrong.map(str::to_owned),
            loss: 0.0,
        };
        let matrix = Matrix {
            topology: "t".to_owned(),
            backend: "vxlan".to_owned(),
            runner: "namespaces".to_owned(),
            seconds: 1.0,
            places: vec![place("c1"), place("c2")],
            cells: vec![cell(0, 1, None), cell(1, 0, Some("3 of 5 lost"))],
        };
        let text = matrix.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  ping, ms");
        assert_eq!(lines[2], "  c1             -     0.25");
        assert_eq!(lines[3], "  c2          DOWN        -");
        assert_eq!(matrix.wrong(), ["ping c2 -> c1: 3 of 5 lost"]);
    }
}
