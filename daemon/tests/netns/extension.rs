//! The backend `extension`: the operator's commands connect the hosts. Here they do what host-gw does, and write down
//! what they were given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::*;

/// A config whose commands are these; each is a shell command line.
fn config(commands: &[(&str, &str)]) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#));
    let commands: Vec<_> = commands.iter().map(|(key, line)| format!(",{}:{}", quote(key), quote(line))).collect();
    format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"extension"{}}}}}"#, commands.concat())
}

/// Each host has a file of its own: the daemon hands its environment on to the commands.
fn log_of(host: &Host) -> PathBuf {
    host.directory().join("commands.log")
}

fn start(host: &Host) -> Result<Daemon> {
    let daemon = host.flanneld(FLANNELD).env("LOG", log_of(host).display().to_string()).start()?;
    daemon.ready()?;
    Ok(daemon)
}

fn written(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn comes_to(log: &Path, lines: &[String]) -> Result<()> {
    eventually(&format!("{lines:#?}"), SOON, || {
        let seen = written(log);
        expect(seen == lines, || format!("{seen:#?}"))
    })
}

fn key(subnet: &str) -> String {
    format!("{SUBNETS}{subnet}")
}

fn lease(last: u8, data: &str) -> String {
    format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"extension","BackendData":"{data}"}}"#)
}

/// Quotes, `&&`, pipes and variables as in upstream's documentation, both ways, with a real ping.
#[test]
fn commands_that_route_connect_two_hosts() {
    let note = |what: &str| {
        format!(r#"read -r data; echo "{what} $SUBNET via $PUBLIC_IP, data '$data'" | tee -a "$LOG" >/dev/null"#)
    };
    let add = format!(r#"ip route add $SUBNET via "$PUBLIC_IP" && {}"#, note("add"));
    let remove = format!("ip route del $SUBNET; {}", note("remove"));
    let post = r#"printf 'post %s %s %s\n' "$NETWORK" "$SUBNET" "$PUBLIC_IP" >> "$LOG""#;
    let config = config(&[
        ("PreStartupCommand", "ip -o link show dev eth0 | grep -o 'link/ether [^ ]*' && echo warning >&2"),
        ("PostStartupCommand", post),
        ("SubnetAddCommand", &add),
        ("SubnetRemoveCommand", &remove),
    ]);
    lab(2, &config).check(|lab| {
        let (h1, h2) = (lab.host(1), lab.host(2));
        start(h1)?;
        let second = start(h2)?;
        both_know_each_other(h1, h2)?;
        let (env1, env2) = (h1.subnet_env()?, h2.subnet_env()?);
        assert_eq!(env1.mtu, 1500);
        let data = "link/ether 02:ee:00:00:4d:02";
        let value = lab.etcd().list(&env2.key())?[0].value.clone();
        assert_eq!(value, lease(2, data));

        let (one, two) = (h1.pod(1)?, h2.pod(1)?);
        one.ping(two.address(), 5)?.all_answered(62)?;
        two.ping(one.address(), 5)?.all_answered(62)?;

        let mut lines = vec![
            format!("post 10.5.0.0/16 {} 172.31.77.1", env1.subnet()),
            format!("add {} via 172.31.77.2, data '{data}'", env2.subnet()),
        ];
        comes_to(&log_of(h1), &lines)?;
        second.stop()?;
        lab.etcd().delete(&env2.key())?;
        lines.push(format!("remove {} via 172.31.77.2, data '{data}'", env2.subnet()));
        comes_to(&log_of(h1), &lines)?;
        route_goes(h1, &format!("{} via", env2.subnet()))
    });
}

/// A renewal is nothing to do; other data or another address is a removal of the old and an addition of the new.
#[test]
fn a_lease_that_changes_is_removed_and_added() {
    let note = |what: &str| format!(r#"read -r data; echo "{what} $PUBLIC_IP $data" >> "$LOG""#);
    let config = config(&[("SubnetAddCommand", &note("add")), ("SubnetRemoveCommand", &note("remove"))]);
    lab(1, &config).check(|lab| {
        let (host, etcd, key) = (lab.host(1), lab.etcd(), key("10.5.200.0-24"));
        start(host)?;
        let own = host.subnet_env()?.key();
        let value = r#"{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"extension"}"#;
        assert_eq!(etcd.list(&own)?[0].value, value, "without a pre-start command there is no data");
        let mut lines = vec!["add 172.31.77.7 a".to_owned()];
        etcd.put(&key, &lease(7, "a"))?;
        comes_to(&log_of(host), &lines)?;
        etcd.put(&key, &lease(7, "a"))?;
        etcd.put(&key, &lease(7, "b"))?;
        lines.extend(["remove 172.31.77.7 a".into(), "add 172.31.77.7 b".into()]);
        comes_to(&log_of(host), &lines)?;
        etcd.put(&key, &lease(8, "b"))?;
        lines.extend(["remove 172.31.77.7 b".into(), "add 172.31.77.8 b".into()]);
        comes_to(&log_of(host), &lines)?;
        // Another backend's lease is none of ours.
        etcd.put(&key, r#"{"PublicIP":"172.31.77.8","PublicIPv6":null,"BackendType":"host-gw"}"#)?;
        lines.push("remove 172.31.77.8 b".into());
        comes_to(&log_of(host), &lines)
    });
}

/// The failing lease is told once with what its command said, tried again at each look, and good at last; the other
/// lease does not wait for it.
#[test]
fn a_failed_command_is_tried_again() {
    let add = r#"if [ "$PUBLIC_IP" = 172.31.77.7 ] && [ ! -e "$LOG.good" ]; then echo tried >> "$LOG.tries"
        echo 'no way yet' >&2; exit 4; fi; echo "add $PUBLIC_IP" >> "$LOG""#;
    lab(1, &config(&[("SubnetAddCommand", &add.replace('\n', " ;"))])).check(|lab| {
        let host = lab.host(1);
        let daemon = start(host)?;
        let (bad, good) = (key("10.5.200.0-24"), key("10.5.201.0-24"));
        lab.etcd().put_together(&[(&bad, &lease(7, "a")), (&good, &lease(8, "b"))])?;
        let log = log_of(host);
        comes_to(&log, &["add 172.31.77.8".into()])?;
        let tries = host.directory().join("commands.log.tries");
        eventually("a second try", Duration::from_secs(30), || {
            let tried = written(&tries);
            expect(tried.len() >= 2, || format!("{tried:?}"))
        })?;
        one_line(&daemon.log(), &["10.5.200.0-24 of 172.31.77.7", "SubnetAddCommand", "exit status: 4", "no way yet"]);
        std::fs::write(host.directory().join("commands.log.good"), "").context(|| "good".to_owned())?;
        eventually("both added", Duration::from_secs(30), || {
            let seen = written(&log);
            expect(seen == ["add 172.31.77.8", "add 172.31.77.7"], || format!("{seen:#?}"))
        })
    });
}

/// While a command hangs the daemon goes on to answer, and it ends as soon as it is told to, the command with it.
#[test]
fn a_hung_command_holds_nothing_up() {
    let add = r#"echo $$ >> "$LOG"; sleep 1000; echo never >> "$LOG""#;
    lab(1, &config(&[("SubnetAddCommand", add)])).check(|lab| {
        let host = lab.host(1);
        let daemon = start(host)?;
        lab.etcd().put(&key("10.5.200.0-24"), &lease(7, "a"))?;
        let pid = eventually("the command", SOON, || {
            written(&log_of(host)).first().cloned().context(|| "not started".to_owned())
        })?;
        // The own lease, deleted meanwhile, is put back at once.
        let own = host.subnet_env()?.key();
        lab.etcd().delete(&own)?;
        eventually("the own lease again", SOON, || {
            expect(!lab.etcd().list(&own)?.is_empty(), || "no lease".to_owned())
        })?;
        let exit = daemon.stop()?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        eventually("the end of the command", SOON, || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            expect(state.is_empty() || state.contains(") Z "), || state.clone())
        })?;
        assert_eq!(written(&log_of(host)).len(), 1);
        Ok(())
    });
}

/// A failing pre-start command ends the daemon before there is a lease; a failing post-start command after.
#[test]
fn a_failing_start_command_ends_the_daemon_with_one_line() {
    for (command, leases) in [("PreStartupCommand", 0), ("PostStartupCommand", 1)] {
        lab(1, &config(&[(command, "echo 'no such card' >&2; exit 7")])).check(|lab| {
            let exit = lab.host(1).flanneld(FLANNELD).run(SOON)?;
            assert_eq!(exit.code, Some(1), "{}", exit.log);
            one_line(&exit.log, &["backend extension", command, "exit status: 7", "no such card"]);
            assert_eq!(lab.etcd().list(SUBNETS)?.len(), leases);
            assert!(!lab.host(1).subnet_file().exists());
            Ok(())
        });
    }
}

/// Data that is no text is the lease's fault, named once; its neighbours are served.
#[test]
fn a_lease_with_foreign_data_is_named() {
    lab(1, &config(&[("SubnetAddCommand", r#"echo "add $PUBLIC_IP" >> "$LOG""#)])).check(|lab| {
        let host = lab.host(1);
        let daemon = start(host)?;
        let foreign = r#"{"PublicIP":"172.31.77.7","BackendType":"extension","BackendData":{"VNI":1}}"#;
        lab.etcd().put_together(&[(&key("10.5.200.0-24"), foreign), (&key("10.5.201.0-24"), &lease(8, "x"))])?;
        comes_to(&log_of(host), &["add 172.31.77.8".into()])?;
        one_line(&daemon.log(), &["10.5.200.0-24", "BackendData"]);
        Ok(())
    });
}
