//! etcd with users and passwords.

use crate::support::*;

const PASSWORD: &str = "correct-horse-battery";

/// Switches authentication on, with a user `flannel` who may do all.
fn auth_lab() -> Lab {
    let lab = lab(1, &plain("alloc"));
    let etcd = lab.etcd();
    for line in [
        "user add root:rootword",
        "user grant-role root root",
        &format!("user add flannel:{PASSWORD}"),
        "user grant-role flannel root",
        "auth enable",
    ] {
        etcd.ctl(line).unwrap();
    }
    lab
}

fn keys(lab: &Lab) -> Result<String> {
    lab.etcd().ctl(&format!("--user root:rootword get --prefix --keys-only {SUBNETS}"))
}

#[test]
fn a_user_with_the_right_password_gets_a_lease_and_follows_the_others() {
    auth_lab().check(|lab| {
        let password = format!("-etcd-password={PASSWORD}");
        lab.etcd().ctl(&format!("--user root:rootword put {CONFIG} {}", plain("host-gw")))?;
        let daemon = lab.host(1).up(FLANNELD, &["-etcd-username=flannel", &password, "-v=10"])?;
        assert!(keys(lab)?.contains(&daemon.ready()?.key()));
        let lease = r#"{"PublicIP":"172.31.77.7","PublicIPv6":null,"BackendType":"host-gw"}"#;
        lab.etcd().ctl(&format!("--user root:rootword put {SUBNETS}10.5.200.0-24 {lease}"))?;
        route_comes(lab.host(1), "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        assert!(!daemon.log().contains(PASSWORD), "the password is in the log");
        Ok(())
    });
}

#[test]
fn the_environment_carries_them_too() {
    auth_lab().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).env("FLANNELD_ETCD_USERNAME", "flannel");
        daemon.env("FLANNELD_ETCD_PASSWORD", PASSWORD).start()?.ready().map(drop)
    });
}

#[test]
fn a_wrong_password_ends_it_with_one_line() {
    auth_lab().check(|lab| {
        for (user, word) in [("flannel", "wrong-horse"), ("nobody", "wrong-horse")] {
            let args = [format!("-etcd-username={user}"), format!("-etcd-password={word}"), "-v=10".to_owned()];
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let exit = lab.host(1).flanneld(FLANNELD).args(&args).run(SOON)?;
            assert_eq!(exit.code, Some(1), "{user}:\n{}", exit.log);
            one_line(&exit.log, &["ERROR", "-etcd-username", "-etcd-password"]);
            assert!(!exit.log.contains(word), "the password is in the log");
        }
        assert_eq!(keys(lab)?.trim(), "");
        Ok(())
    });
}

/// Told once, asked again: the operator may switch authentication off, or give the daemon a user and restart it.
#[test]
fn no_user_where_one_is_needed_is_told_and_tried_again() {
    auth_lab().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).start()?;
        daemon.says("-etcd-username")?;
        assert!(daemon.process().exited()?.is_none() && !daemon.has_written());
        lab.etcd().ctl("--user root:rootword auth disable")?;
        daemon.ready()?;
        one_line(&daemon.log(), &["-etcd-username"]);
        Ok(())
    });
}

#[test]
fn a_user_where_none_is_needed_is_no_harm() {
    lab(1, &plain("alloc"))
        .check(|lab| lab.host(1).up(FLANNELD, &["-etcd-username=flannel", "-etcd-password=anything"]).map(drop));
}

/// A user who may read and not write can't take a lease; which key, and that it is a matter of permission, is said.
#[test]
fn a_user_who_may_not_write_is_named() {
    let lab = lab(1, &plain("alloc"));
    for line in [
        "user add root:rootword",
        "user grant-role root root",
        "role add reader",
        "role grant-permission reader --prefix=true read /",
        "user add reader:readword",
        "user grant-role reader reader",
        "auth enable",
    ] {
        lab.etcd().ctl(line).unwrap();
    }
    lab.check(|lab| {
        let daemon =
            lab.host(1).flanneld(FLANNELD).args(&["-etcd-username=reader", "-etcd-password=readword"]).start()?;
        daemon.says("permission denied")?;
        assert!(!daemon.has_written());
        assert_eq!(keys(lab)?.trim(), "");
        Ok(())
    });
}
