//! The tables of docs/reference/docker-contract.md name the tests that prove each row: every name must be a test's.

use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../docs/reference/docker-contract.md");

/// The files a name like `driver::pools` may mean.
fn files(place: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rest = place[1..].join("/");
    match place[0] {
        "docker" => vec![root.join(format!("tests/docker/{rest}.rs"))],
        "driver" if rest.is_empty() => vec![root.join("src/driver/tests.rs")],
        "driver" => vec![root.join(format!("src/driver/tests/{rest}.rs"))],
        "plugin" => vec![root.join(format!("src/{rest}.rs")), root.join(format!("src/{rest}/tests.rs"))],
        other => panic!("{other:?} is no place for tests"),
    }
}

#[test]
fn every_test_it_names_is_there() {
    let mut names = 0;
    let mut missing = Vec::new();
    for name in TABLE.split('`').filter(|piece| piece.contains("::") && !piece.ends_with("::")) {
        let words: Vec<&str> = name.split("::").collect();
        let (test, place) = words.split_last().expect("split gives one piece at least");
        names += 1;
        let found = files(place).iter().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| {
            // Tests of recordings are made by a macro: `name: "file",`.
            text.contains(&format!("fn {test}(")) || text.contains(&format!("    {test}: \""))
        });
        if !found {
            missing.push(name);
        }
    }
    assert!(names > 40, "only {names} names were found: have the tables another form?");
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_row_names_a_test() {
    let rows = TABLE.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    let bare: Vec<_> = rows.filter(|row| !row.contains("::") && !row.ends_with("| test |")).collect();
    assert!(bare.is_empty(), "{bare:#?}");
}
