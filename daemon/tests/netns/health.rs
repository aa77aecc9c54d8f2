//! `/healthz` and `/readyz`.

use std::net::{Ipv4Addr, TcpListener};

use crate::support::*;

const PORT: u16 = 8081;

#[test]
fn healthy_from_the_start_and_ready_with_the_file() {
    Lab::flat(1).unwrap().check(|lab| {
        let host = lab.host(1);
        let daemon = host.flanneld(FLANNELD).arg(format!("-healthz-port={PORT}")).start()?;
        let get = |path: &str| http_get(host, Ipv4Addr::LOCALHOST, PORT, path);
        let healthy = eventually("an answer", SOON, || get("/healthz"))?;
        assert_eq!(healthy, (200, "flanneld is running".to_owned()));
        assert_eq!(get("/readyz")?, (503, "flanneld is not ready yet".to_owned()));
        assert_eq!(get("/nothing")?.0, 404);
        lab.configure(&plain("alloc"))?;
        daemon.ready()?;
        eventually("ready", SOON, || {
            let seen = get("/readyz")?;
            expect(seen == (200, "flanneld is ready".to_owned()), || format!("{seen:?}"))
        })?;
        assert_eq!(get("/healthz")?.0, 200);
        // On every address unless told otherwise.
        assert_eq!(http_get(host, host.address(), PORT, "/healthz")?.0, 200);
        Ok(())
    });
}

#[test]
fn only_on_the_address_given() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-healthz-ip=127.0.0.1", "-healthz-port", "8081"])?;
        assert_eq!(http_get(host, Ipv4Addr::LOCALHOST, PORT, "/healthz")?.0, 200);
        assert!(http_get(host, host.address(), PORT, "/healthz").is_err());
        Ok(())
    });
}

#[test]
fn nothing_listens_without_a_port() {
    lab(1, &plain("alloc")).check(|lab| {
        lab.host(1).up(FLANNELD, &[])?;
        let listening = lab.host(1).exec("ss -Hltn")?;
        assert_eq!(listening, "");
        Ok(())
    });
}

#[test]
fn a_port_taken_is_one_clear_line() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let holder = host.run(|_| TcpListener::bind(("0.0.0.0", PORT)))?.context(|| "listener".to_owned())?;
        let exit = host.flanneld(FLANNELD).arg(format!("-healthz-port={PORT}")).run(SOON)?;
        assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
        one_line(&exit.log, &["-healthz-port", "8081"]);
        assert!(!exit.log.contains("panicked"), "{}", exit.log);
        // Before anything was claimed.
        assert_eq!(lab.etcd().list(SUBNETS)?, []);
        drop(holder);
        Ok(())
    });
}
