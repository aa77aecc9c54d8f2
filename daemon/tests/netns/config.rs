//! Every recorded config: upstream's verdict, our words. `again` configs are read again until they are right, `exit`
//! ones end the daemon with 1, the others come up.

use crate::support::*;

/// What upstream made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// Comes up with subnets of this length out of this network, with this MTU.
    Up(&'static str, u8, u32),
    /// Is logged and read again; the log must have this word.
    Again(&'static str),
    /// Exit code 1; the log must have this word.
    Exit(&'static str),
}
use Verdict::{Again, Exit, Up};

// parity: daemon/tests/vectors/recorded/config-validation
const VERDICTS: &[(&str, Verdict)] = &[
    (r#"{}"#, Again("Network")),
    (r#"[]"#, Again("JSON")),
    (r#"null"#, Again("Network")),
    (r#"not json"#, Again("JSON")),
    (r#"{"Network":"10.5.0.0/16"}"#, Up("10.5.0.0/16", 24, 1472)),
    (r#"{"Network":"10.5.0.0"}"#, Again("Network")),
    (r#"{"Network":"10.5.3.7/16","Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/16", 24, 1500)),
    (r#"{"Network":"fd00::/48","Backend":{"Type":"alloc"}}"#, Again("Network")),
    (r#"{"Network":"10.5.0.0/16","Backend":{}}"#, Exit("Type")),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"nope"}}"#, Exit("nope")),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"Alloc"}}"#, Up("10.5.0.0/16", 24, 1500)),
    (r#"{"Network":"10.5.0.0/16","Backend":"alloc"}"#, Again("Backend")),
    (r#"{"Network":"10.5.0.0/16","Backend":null}"#, Exit("Type")),
    (r#"{"network":"10.5.0.0/16","backend":{"type":"alloc"},"unknownkey":1}"#, Up("10.5.0.0/16", 24, 1500)),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":31,"Backend":{"Type":"alloc"}}"#, Again("SubnetLen")),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":30,"Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/16", 30, 1500)),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":17,"Backend":{"Type":"alloc"}}"#, Again("SubnetLen")),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":18,"Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/16", 18, 1500)),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":-1,"Backend":{"Type":"alloc"}}"#, Again("SubnetLen")),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":"24","Backend":{"Type":"alloc"}}"#, Again("SubnetLen")),
    (r#"{"Network":"10.5.0.0/29","Backend":{"Type":"alloc"}}"#, Again("Network")),
    (r#"{"Network":"10.5.0.0/28","Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/28", 30, 1500)),
    (r#"{"Network":"10.5.0.0/23","Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/23", 25, 1500)),
    (r#"{"Network":"10.5.0.0/22","Backend":{"Type":"alloc"}}"#, Up("10.5.0.0/22", 24, 1500)),
    (r#"{"Network":"10.5.0.0/24","SubnetLen":24,"Backend":{"Type":"alloc"}}"#, Again("SubnetLen")),
    (r#"{"Network":"0.0.0.0/0","Backend":{"Type":"alloc"}}"#, Again("Network")),
    (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"alloc"}}"#, Up("10.0.0.0/8", 24, 1500)),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0","Backend":{"Type":"alloc"}}"#, Again("SubnetMin")),
    (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.4.0.0","Backend":{"Type":"alloc"}}"#, Again("SubnetMax")),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.1","Backend":{"Type":"alloc"}}"#, Again("SubnetMin")),
    (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.1","Backend":{"Type":"alloc"}}"#, Again("SubnetMax")),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0","Backend":{"Type":"alloc"}}"#,
        Exit("out of subnets"),
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0","Backend":{"Type":"alloc"}}"#,
        Up("10.5.0.0/16", 24, 1500),
    ),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0/24","Backend":{"Type":"alloc"}}"#, Again("SubnetMin")),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":"","Backend":{"Type":"alloc"}}"#, Again("SubnetMin")),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":null,"Backend":{"Type":"alloc"}}"#, Again("SubnetMin")),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#, Exit("VNI")),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, Exit("VNI")),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":0}}"#, Up("10.5.0.0/16", 24, 1450)),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":99999}}"#, Exit("Port")),
    (
        r#"{"EnableIPv4":false,"EnableIPv6":false,"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#,
        Exit("EnableIPv4"),
    ),
    (r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#, Again("IPv6Network")),
    (
        r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/125","Backend":{"Type":"alloc"}}"#,
        Again("IPv6Network"),
    ),
    (
        r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetLen":127,"Backend":{"Type":"alloc"}}"#,
        Again("IPv6SubnetLen"),
    ),
    (
        r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetLen":49,"Backend":{"Type":"alloc"}}"#,
        Again("IPv6SubnetLen"),
    ),
    (
        r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetMin":"fd01::","Backend":{"Type":"alloc"}}"#,
        Again("IPv6SubnetMin"),
    ),
    (
        r#"{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48","IPv6SubnetMin":"fd00::1","Backend":{"Type":"alloc"}}"#,
        Again("IPv6SubnetMin"),
    ),
];

fn verdicts(kind: impl Fn(&Verdict) -> bool, check: impl Fn(&Lab, &str, Verdict) -> Result<()>) {
    Lab::flat(1).unwrap().check(|lab| {
        let wanted: Vec<_> = VERDICTS.iter().filter(|(_, v)| kind(v)).collect();
        assert!(!wanted.is_empty());
        for (config, verdict) in wanted {
            lab.configure(config)?;
            check(lab, config, *verdict).context(|| format!("config {config}"))?;
            // The next one starts from nothing.
            lab.etcd().delete_all(SUBNETS)?;
            if lab.host(1).subnet_file().exists() {
                std::fs::remove_file(lab.host(1).subnet_file()).context(|| "subnet.env".to_owned())?;
            }
        }
        Ok(())
    });
}

#[test]
fn good_ones_come_up() {
    verdicts(
        |v| matches!(v, Up(..)),
        |lab, config, verdict| {
            let Up(network, length, mtu) = verdict else { return Ok(()) };
            let daemon = lab.host(1).up(FLANNELD, &[])?;
            let env = daemon.ready()?;
            assert_eq!(env.network.to_string(), network, "{config}");
            assert_eq!((env.gateway.prefix_len(), env.mtu), (length, mtu), "{config}");
            assert!(env.network.contains(&env.subnet()), "{config}");
            daemon.stop().map(drop)
        },
    );
}

#[test]
fn bad_ones_are_named_and_read_again() {
    verdicts(
        |v| matches!(v, Again(_)),
        |lab, config, verdict| {
            let Again(word) = verdict else { return Ok(()) };
            let daemon = lab.host(1).flanneld(FLANNELD).start()?;
            let line = daemon.says(CONFIG)?;
            assert!(line.contains(word), "{config}: {word:?} is not in {line:?}");
            assert!(daemon.process().exited()?.is_none() && !daemon.has_written(), "{config}");
            let exit = daemon.stop()?;
            assert_eq!(exit.code, Some(0), "{config}:\n{}", exit.log);
            Ok(())
        },
    );
}

#[test]
fn hopeless_ones_end_the_daemon() {
    verdicts(
        |v| matches!(v, Exit(_)),
        |lab, config, verdict| {
            let Exit(word) = verdict else { return Ok(()) };
            let exit = lab.host(1).flanneld(FLANNELD).run(SOON)?;
            assert_eq!(exit.code, Some(1), "{config}:\n{}", exit.log);
            one_line(&exit.log, &[word]);
            assert_eq!(lab.etcd().list(SUBNETS)?, [], "{config} left a lease");
            Ok(())
        },
    );
}
