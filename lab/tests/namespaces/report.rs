//! The report in a browser: headless Chromium, a phone's width and a desk's, light and dark, no network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flannel_lab::bench::{Bench, Line};
use flannel_lab::faults::{Measured, Outcome};
use flannel_lab::holder;
use flannel_lab::report::page;
use flannel_lab::results::Results;
use flannel_lab::topology::Topology;

/// What the page tells of itself: added for the test, which has no other way into the browser.
const PROBE: &str = "<script>addEventListener('load', () => {
  const style = getComputedStyle(document.body), root = document.documentElement, wide = root.scrollWidth;
  root.style.width = '360px';
  const phone = Math.max(...[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll'))
    .map(e => e.getBoundingClientRect().right));
  document.title = JSON.stringify({
    ground: style.backgroundColor, text: style.color, wide, window: innerWidth, phone,
    sections: document.querySelectorAll('section').length, faults: document.querySelectorAll('details').length,
    cells: document.querySelectorAll('td:not(.none)').length, drawings: document.querySelectorAll('svg').length,
    resources: performance.getEntriesByType('resource').length });
})</script>";

fn outcome(fault: &str, lost: usize) -> Outcome {
    let broken = if lost > 0 { vec![format!("{lost} pings lost")] } else { Vec::new() };
    let measured = Measured {
        cause: 1.0,
        cured: Some(2.0),
        length: 4.0,
        lost,
        sent: 400,
        bystander_lost: 0,
        gap: 0.4,
        heal: Some(0.4),
        share: 10.0,
        lost_outside: 0,
        tcp_gap: 0.5,
        tcp_broken: None,
        new_container: None,
        new_host: None,
        timeline: (0..40).map(|step| (10, u16::from(step == 12) * 9, 0.2)).collect(),
    };
    Outcome {
        fault: fault.to_owned(),
        what: "a thing with a very long name that a phone's screen must not be made wider by".repeat(2),
        backend: "vxlan".to_owned(),
        promise: "it heals".to_owned(),
        measured: Some(measured),
        broken,
        evidence: None,
        seconds: 4.0,
    }
}

/// A page of a real matrix, and of faults as they can be.
fn written(directory: &Path) -> PathBuf {
    let topology = Topology::load("two-segments").unwrap();
    let world = super::world(&topology).unwrap();
    let results = Results {
        matrices: vec![holder::try_all(&world, std::time::Instant::now()).unwrap()],
        topologies: vec![topology],
        faults: vec![outcome("etcd-kill", 0), outcome("host-cut", 9)],
        bench: Some(Bench {
            lines: vec![Line { backend: "vxlan".to_owned(), containers: 900.0, hosts: 1500.0, ping: 0.1 }],
        }),
        settings: vec![("kernel".to_owned(), "x".repeat(200))],
    };
    let path = directory.join("report.html");
    std::fs::write(&path, page(&results).replace("</body>", &format!("{PROBE}</body>"))).unwrap();
    path
}

fn chromium(directory: &Path, flags: &[&str], page: &Path) -> String {
    let program = "chromium";
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    // Nothing of the page may come from elsewhere, nor the browser's own errands.
    command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]);
    command.arg(format!("--user-data-dir={}", directory.join("profile").display()));
    command.args(flags).arg(format!("file://{}", page.display())).stdin(Stdio::null());
    #[expect(clippy::disallowed_methods, reason = "a test on a plain thread")]
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}: apt-get install chromium"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the page reports of itself.
fn look(directory: &Path, flags: &[&str], page: &Path) -> serde_json::Value {
    let text = chromium(directory, &[flags, &["--dump-dom"]].concat(), page);
    let title = text.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
    serde_json::from_str(&title.replace("&quot;", "\"")).unwrap_or_else(|error| panic!("{error}: {title}"))
}

#[test]
fn on_a_phone_and_on_a_desk_light_and_dark() {
    let directory = tempfile::tempdir().unwrap();
    let page = written(directory.path());
    for (size, scheme, dark) in
        [("500,900", "1", false), ("500,900", "0", true), ("1200,900", "1", false), ("1200,900", "0", true)]
    {
        let flags = [format!("--window-size={size}"), format!("--blink-settings=preferredColorScheme={scheme}")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let seen = look(directory.path(), &flags, &page);
        assert_eq!(
            (&seen["sections"], &seen["faults"], &seen["resources"]),
            (&4.into(), &2.into(), &0.into()),
            "{seen}"
        );
        assert_eq!(seen["drawings"], 3, "{seen}");
        assert!(seen["cells"].as_u64().unwrap() > 100, "{seen}");
        // Tables may scroll, the page must not.
        assert!(seen["wide"].as_u64() <= seen["window"].as_u64(), "wider than its window: {seen}");
        // A window is never narrower than 500 here; a phone is.
        assert!(seen["phone"].as_f64().unwrap() <= 360.5, "wider than a phone: {seen}");
        let ground = if dark { "rgb(22, 24, 26)" } else { "rgb(252, 252, 251)" };
        assert_eq!(seen["ground"], ground, "{seen}");
        assert_ne!(seen["text"], seen["ground"], "{seen}");
    }
    let picture = directory.path().join("page.png");
    chromium(directory.path(), &["--window-size=500,900", &format!("--screenshot={}", picture.display())], &page);
    assert!(std::fs::metadata(picture).unwrap().len() > 10_000, "an empty picture");
}
