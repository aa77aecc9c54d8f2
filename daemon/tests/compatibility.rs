//! The table docs/reference/compatibility.md names the test that proves each row: every name must be a test's.

use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../docs/reference/compatibility.md");

/// The files a name like `core::config` may mean, below this package.
fn files(place: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (start, rest) = (place[0], place[1..].join("/"));
    match start {
        "netns" => vec![root.join(format!("tests/netns/{rest}.rs"))],
        "core" => {
            vec![
                root.join(format!("core/src/{rest}.rs")),
                root.join(format!("core/src/{rest}/tests.rs")),
                root.join(format!("core/tests/{rest}.rs")),
            ]
        }
        "host" | "store" => {
            vec![root.join(format!("{start}/src/{rest}.rs")), root.join(format!("{start}/src/{rest}/tests.rs"))]
        }
        "daemon_tests" => vec![root.join(format!("tests/{rest}.rs"))],
        "daemon" => vec![root.join(format!("src/{rest}.rs")), root.join(format!("src/{rest}/tests.rs"))],
        other => panic!("{other:?} is not a place of tests"),
    }
}

#[test]
fn every_test_it_names_is_there() {
    let mut names = 0;
    let mut missing = Vec::new();
    for name in TABLE.split('`').filter(|piece| piece.contains("::") && !piece.ends_with("::")) {
        let words: Vec<&str> = name.split("::").collect();
        // Addresses have two colons, too.
        if !["netns", "core", "host", "store", "daemon", "daemon_tests"].contains(&words[0]) {
            continue;
        }
        names += 1;
        let (test, place) = words.split_last().expect("split gives one piece at least");
        let found = files(place).iter().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| {
            let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("#["));
            lines.any(|line| line.contains(&format!("fn {test}(")))
        });
        if !found {
            missing.push(name);
        }
    }
    assert!(names > 100, "only {names} names were found: has the table another form?");
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_row_has_a_verdict() {
    let rows = TABLE.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{row}");
        assert!(["", "same", "better", "not done"].contains(&cells[1]), "{row}");
        // A heading has no verdict; what is not the same says how.
        let heading = cells[1].is_empty() && cells[3] == "test";
        assert!(heading || cells[1] == "same" || !cells[2].is_empty() || cells[1] == "not done", "{row}");
    }
}
