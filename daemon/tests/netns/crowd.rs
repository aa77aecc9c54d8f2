//! Thousands of hosts that are not there: their leases in etcd, and what they ask of the kernel by a model of the tests'
//! own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::*;

/// A network large enough, whose upper half is left to the crowd.
pub(crate) const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"vxlan"}}"#;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many keys go into one transaction of etcd.
const TOGETHER: usize = 100;

/// The hosts: number, and how often each changed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Crowd {
    pub(crate) lives: BTreeMap<u32, u8>,
    /// So much is added to the data of each lease, in bytes.
    pub(crate) padding: usize,
}

impl Crowd {
    pub(crate) fn new(numbers: std::ops::Range<u32>) -> Self {
        Self { lives: numbers.map(|number| (number, 0)).collect(), padding: 0 }
    }

    /// Writes the crowd's hosts among `numbers` and deletes the others of them.
    pub(crate) fn write(&self, lab: &Lab, numbers: impl IntoIterator<Item = u32>) -> Result<()> {
        let change = |number| (key(number), self.lives.get(&number).map(|life| self.value(number, *life)));
        let changes: Vec<(String, Option<String>)> = numbers.into_iter().map(change).collect();
        for some in changes.chunks(TOGETHER) {
            let some: Vec<(&str, Option<&str>)> =
                some.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            lab.etcd().change_together(&some)?;
        }
        Ok(())
    }

    pub(crate) fn write_all(&self, lab: &Lab) -> Result<()> {
        self.write(lab, self.lives.keys().copied())
    }

    fn value(&self, number: u32, life: u8) -> String {
        format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}","Padding":"{}"}}}}"#,
            public(number),
            mac(number, life),
            "x".repeat(self.padding)
        )
    }

    /// What iproute2 would say.
    fn wanted(&self) -> BTreeSet<String> {
        let lines = |(number, life): (&u32, &u8)| {
            let (base, mac) = (base(*number), mac(*number, *life));
            [
                format!("{base}/24 via {base} dev flannel.1 onlink"),
                format!("{base} lladdr {mac} PERMANENT"),
                format!("{mac} dst {} self permanent", public(*number)),
            ]
        };
        self.lives.iter().flat_map(lines).collect()
    }

    /// Waits until the kernel has what the crowd asks for, and nothing else.
    pub(crate) fn stands(&self, host: &Host) -> Result<()> {
        let wanted = self.wanted();
        eventually("the kernel as the model", PATIENCE, || {
            let routes = host.routes()?.into_iter().filter(|r| r.contains("dev flannel.1"));
            let all = routes.chain(host.neighbours("flannel.1")?).chain(host.forwarding("flannel.1")?);
            let seen: BTreeSet<String> = all.collect();
            let (less, more) = (wanted.difference(&seen).count(), seen.difference(&wanted).count());
            expect(less + more == 0, || {
                let examples: Vec<_> = wanted.symmetric_difference(&seen).take(4).collect();
                format!("{less} entries are missing, {more} too many, as {examples:?}")
            })
        })
    }
}

pub(crate) fn base(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) + (100 << 16) + (number << 8))
}

pub(crate) fn key(number: u32) -> String {
    format!("{SUBNETS}{}-24", base(number))
}

fn mac(number: u32, life: u8) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("02:00:{life:02x}:{a:02x}:{b:02x}:{c:02x}")
}

fn public(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((192 << 24) + (168 << 16) + number)
}
