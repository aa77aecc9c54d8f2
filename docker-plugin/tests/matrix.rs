//! The restart matrix in docs/reference/docker.md names the test of each row, and each restart test has its row.

use std::collections::BTreeSet;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../docs/reference/docker.md");

/// The last cells of the rows below "## Restarts".
fn named() -> BTreeSet<String> {
    let section = DOCUMENT.split("\n## ").find(|s| s.starts_with("Restarts")).expect("a section Restarts");
    let rows = section.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---") && !l.starts_with("| what"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let test = cells[2].strip_prefix('`').and_then(|t| t.strip_suffix('`'));
        test.unwrap_or_else(|| panic!("no test is named: {row}")).to_owned()
    })
    .collect()
}

/// The tests of a file of tests/docker, by module.
fn tests(module: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker").join(format!("{module}.rs"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut found = BTreeSet::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "#[test]" {
            continue;
        }
        let name = lines.next().and_then(|l| l.strip_prefix("fn ")).and_then(|l| l.split('(').next());
        found.insert(format!("{module}::{}", name.unwrap_or_else(|| panic!("a test without a name in {module}"))));
    }
    found
}

#[test]
fn every_row_has_its_test_and_every_test_its_row() {
    let tests: BTreeSet<_> = tests("restart").into_iter().chain(tests("chaos")).collect();
    let named = named();
    assert!(named.len() > 15, "only {} rows were found: has the table another form?", named.len());
    let missing: Vec<_> = named.difference(&tests).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    let untold: Vec<_> = tests.difference(&named).collect();
    assert!(untold.is_empty(), "not in the table: {untold:?}");
}
