//! The book alone, and the task with real commands that write down what they were given.

use std::path::Path;

use flannel_core::lease::LeaseAttrs;

use super::*;

fn remote(net: u8, public: u8, data: &str) -> Remote {
    let attrs = LeaseAttrs::new(std::net::Ipv4Addr::new(192, 0, 2, public));
    Remote { lease: Lease { key: format!("10.5.{net}.0-24").parse().unwrap(), attrs }, data: data.into() }
}

fn wished(remotes: &[Remote]) -> Remotes {
    remotes.iter().map(|remote| (remote.lease.key, remote.clone())).collect()
}

fn failure() -> Result<(), String> {
    Err("told to fail".into())
}

/// Works off everything that is to be done; the steps, as `add 1`.
fn work_off(book: &mut Book, wished: &Remotes, result: impl Fn(&Step) -> Result<(), String>) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some(step) = book.next(wished) {
        let what = if matches!(step, Step::Add(_)) { "add" } else { "remove" };
        steps.push(format!("{what} {} {}", step.remote().lease.attrs.public_ip, step.remote().data));
        assert!(steps.len() < 100, "no end: {steps:?}");
        let result = result(&step);
        book.note(step, result);
    }
    steps
}

#[test]
fn a_changed_lease_is_removed_as_it_was_and_added_as_it_is() {
    let mut book = Book::default();
    let good = |_: &Step| Ok(());
    let (one, two) = (remote(1, 1, "a"), remote(2, 2, "b"));
    assert_eq!(work_off(&mut book, &wished(&[one.clone(), two.clone()]), good), ["add 192.0.2.1 a", "add 192.0.2.2 b"]);
    assert_eq!(work_off(&mut book, &wished(&[one, two.clone()]), good), [""; 0]);
    let moved = wished(&[remote(1, 9, "a"), two]);
    assert_eq!(work_off(&mut book, &moved, good), ["remove 192.0.2.1 a", "add 192.0.2.9 a"]);
    let rekeyed = wished(&[remote(1, 9, "c"), remote(2, 2, "b")]);
    assert_eq!(work_off(&mut book, &rekeyed, good), ["remove 192.0.2.9 a", "add 192.0.2.9 c"]);
    assert_eq!(work_off(&mut book, &Remotes::new(), good), ["remove 192.0.2.9 c", "remove 192.0.2.2 b"]);
}

#[test]
fn a_failed_command_waits_for_the_next_look_and_disturbs_no_other() {
    let mut book = Book::default();
    let bad_one = |step: &Step| if step.remote().data == "a" { failure() } else { Ok(()) };
    let both = wished(&[remote(1, 1, "a"), remote(2, 2, "b")]);
    assert_eq!(work_off(&mut book, &both, bad_one), ["add 192.0.2.1 a", "add 192.0.2.2 b"]);
    book.look();
    assert_eq!(work_off(&mut book, &both, bad_one), ["add 192.0.2.1 a"]);
    // Other data is another try at once; what the failed one may have left is removed first.
    let changed = wished(&[remote(1, 1, "c"), remote(2, 2, "b")]);
    assert_eq!(work_off(&mut book, &changed, |_| Ok(())), ["remove 192.0.2.1 a", "add 192.0.2.1 c"]);
}

#[test]
fn a_removal_that_always_fails_is_given_up() {
    let mut book = Book::default();
    let no_removal = |step: &Step| if matches!(step, Step::Remove(_)) { failure() } else { Ok(()) };
    work_off(&mut book, &wished(&[remote(1, 1, "a")]), no_removal);
    let changed = wished(&[remote(1, 1, "c")]);
    for _ in 1..REMOVALS {
        assert_eq!(work_off(&mut book, &changed, no_removal), ["remove 192.0.2.1 a"]);
        book.look();
    }
    assert_eq!(work_off(&mut book, &changed, no_removal), ["remove 192.0.2.1 a", "add 192.0.2.1 c"]);
    book.look();
    assert_eq!(work_off(&mut book, &changed, no_removal), [""; 0]);
    assert!(book.failed.is_empty() && book.complaints.is_empty());
}

/// Waits until the file has these lines.
async fn written(path: &Path, lines: &[&str]) {
    let mut backoff = flannel_host::backoff::Backoff::new(Duration::from_millis(10), Duration::from_millis(10));
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().collect::<Vec<_>>() == lines {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{text}");
        backoff.pause().await;
    }
}

/// The first try for 10.5.1.0/24 hangs, the second is good; 10.5.2.0/24 comes in between.
#[tokio::test]
async fn the_task_survives_a_hung_command() {
    let root = tempfile::tempdir().unwrap();
    let (log, hung) = (root.path().join("log"), root.path().join("hung"));
    let say = |what: &str| format!("read -r data; echo {what} $SUBNET $PUBLIC_IP $data >> {}", log.display());
    let once = format!("if [ $SUBNET = 10.5.1.0/24 ] && mkdir {}; then sleep 1000; fi", hung.display());
    let lines = Lines { add: format!("{once}; {}", say("add")), remove: say("remove") };
    let times = Times { limit: Duration::from_millis(500), look: Duration::from_millis(100) };
    let worker = Worker::start(lines, times);
    worker.wish(wished(&[remote(1, 1, "a"), remote(2, 2, "b c")]));
    let (two, one) = ("add 10.5.2.0/24 192.0.2.2 b c", "add 10.5.1.0/24 192.0.2.1 a");
    written(&log, &[two, one]).await;
    worker.wish(wished(&[remote(1, 1, "a")]));
    written(&log, &[two, one, "remove 10.5.2.0/24 192.0.2.2 b c"]).await;
}
