//! etcd behind https, with certificates of the test's own: what is enough, and what is said when it is not.

use std::path::Path;

use crate::certificates::{Authority, Certificate};
use crate::support::*;

const HTTPS: &str = "-etcd-endpoints=https://172.31.77.100:2378";

/// A lab whose etcd also speaks https on port 2378; `args` is made from the server's certificate.
fn tls_lab(names: &str, more: impl Fn(&Authority) -> Vec<String>) -> (Lab, Authority) {
    let lab = Lab::without_etcd(&[Segment::Near]).unwrap();
    let authority = Authority::new(lab.host(1).directory(), "authority").unwrap();
    let Certificate { cert, key } = authority.sign("server", names).unwrap();
    let mut args = vec!["--cert-file".to_owned(), cert, "--key-file".to_owned(), key];
    args.extend(more(&authority));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    lab.etcd().start_with(&["https://0.0.0.0:2378"], &args).unwrap();
    lab.configure(&plain("alloc")).unwrap();
    (lab, authority)
}

const OF_ETCD: &str = "IP:172.31.77.100";

fn none(_: &Authority) -> Vec<String> {
    Vec::new()
}

fn wants_client(authority: &Authority) -> Vec<String> {
    vec!["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned(), authority.ca()]
}

/// The daemon tells what is wrong once, with all of `pieces`, keeps trying and is not ready.
fn waits(lab: &Lab, args: &[&str], pieces: &[&str]) -> Result<()> {
    let daemon = lab.host(1).flanneld(FLANNELD).arg(HTTPS).args(args).start()?;
    daemon.says("https://172.31.77.100:2378")?;
    one_line(&daemon.log(), pieces);
    assert!(daemon.process().exited()?.is_none() && !daemon.has_written());
    let exit = daemon.stop()?;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    Ok(())
}

#[test]
fn the_authoritys_file_alone_is_enough() {
    let (lab, authority) = tls_lab(OF_ETCD, none);
    lab.check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[HTTPS, "-etcd-cafile", &authority.ca()])?;
        let own = daemon.ready()?;
        assert!(lab.etcd().get(&own.key())?.is_some());
        Ok(())
    });
}

#[test]
fn another_authority_is_named_with_its_flag() {
    let (lab, _) = tls_lab(OF_ETCD, none);
    lab.check(|lab| {
        let other = Authority::new(lab.host(1).directory(), "other")?;
        waits(lab, &["-etcd-cafile", &other.ca()], &["https://172.31.77.100:2378", "certificate", "-etcd-cafile"])?;
        // Without the flag the system's authorities count, and none of them signed this.
        waits(lab, &[], &["https://172.31.77.100:2378", "certificate", "-etcd-cafile"])
    });
}

#[test]
fn a_certificate_for_another_name_is_named() {
    let (lab, authority) = tls_lab("IP:172.31.77.99,DNS:elsewhere", none);
    lab.check(|lab| {
        waits(lab, &["-etcd-cafile", &authority.ca()], &["https://172.31.77.100:2378", "certificate", "172.31.77.100"])
    });
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (lab, authority) = tls_lab(OF_ETCD, wants_client);
    lab.check(|lab| {
        let client = authority.sign("client", "")?;
        let ca = format!("-etcd-cafile={}", authority.ca());
        let identity = |c: &Certificate| [format!("-etcd-certfile={}", c.cert), format!("-etcd-keyfile={}", c.key)];
        let [cert, key] = identity(&client);
        lab.host(1).up(FLANNELD, &[HTTPS, &ca, &cert, &key])?.stop()?;
        waits(lab, &[&ca], &["https://172.31.77.100:2378", "-etcd-certfile"])?;
        let stranger = Authority::new(lab.host(1).directory(), "stranger")?.sign("client", "")?;
        let [cert, key] = identity(&stranger);
        waits(lab, &[&ca, &cert, &key], &["https://172.31.77.100:2378", "-etcd-certfile"])
    });
}

/// As upstream's own functional tests do it: files given, http used.
#[test]
fn files_are_no_harm_with_http() {
    lab(1, &plain("alloc")).check(|lab| {
        let authority = Authority::new(lab.host(1).directory(), "authority")?;
        let client = authority.sign("client", "")?;
        let args = ["-etcd-cafile", &authority.ca(), "-etcd-certfile", &client.cert, "-etcd-keyfile", &client.key];
        lab.host(1).up(FLANNELD, &args).map(drop)
    });
}

#[test]
fn files_that_are_no_use_are_refused_with_their_flag() {
    let (lab, authority) = tls_lab(OF_ETCD, none);
    lab.check(|lab| {
        let path = |name: &str, content: &str| {
            let path = lab.host(1).directory().join(name);
            std::fs::write(&path, content).context(|| name.to_owned())?;
            Ok::<_, Error>(path.display().to_string())
        };
        let garbage = path("garbage.pem", "this is no certificate\n")?;
        let client = authority.sign("client", "")?;
        let missing = Path::new("/nonexistent/ca.pem").display().to_string();
        let ca = authority.ca();
        for (args, pieces) in [
            (vec!["-etcd-cafile", missing.as_str()], vec!["-etcd-cafile", "/nonexistent/ca.pem"]),
            (vec!["-etcd-cafile", garbage.as_str()], vec!["-etcd-cafile", "garbage.pem"]),
            (
                vec!["-etcd-cafile", ca.as_str(), "-etcd-keyfile", client.key.as_str()],
                vec!["-etcd-keyfile", "-etcd-certfile"],
            ),
            (
                vec!["-etcd-cafile", ca.as_str(), "-etcd-certfile", client.cert.as_str()],
                vec!["-etcd-certfile", "-etcd-keyfile"],
            ),
            (
                vec!["-etcd-certfile", garbage.as_str(), "-etcd-keyfile", client.key.as_str()],
                vec!["-etcd-certfile", "garbage.pem"],
            ),
            (
                vec!["-etcd-certfile", client.cert.as_str(), "-etcd-keyfile", garbage.as_str()],
                vec!["-etcd-keyfile", "garbage.pem"],
            ),
        ] {
            let exit = lab.host(1).flanneld(FLANNELD).arg(HTTPS).args(&args).run(SOON)?;
            assert_eq!(exit.code, Some(1), "{args:?}:\n{}", exit.log);
            one_line(&exit.log, &pieces);
            assert!(!exit.log.contains("panicked"), "{args:?}:\n{}", exit.log);
        }
        Ok(())
    });
}
