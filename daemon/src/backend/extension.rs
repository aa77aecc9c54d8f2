//! extension: the operator's own commands connect the hosts. docs/upstream.md, section 5.5.
//!
//! The commands are run by `sh -c`, as upstream documents it. What the pre-startup command prints is kept in the lease
//! and given to the other hosts' commands. The daemon knows nothing of what the commands do, so there are no entries to
//! compare: a [`worker`] runs them as leases come, change and go.

mod command;
mod worker;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use flannel_core::backend_config::Extension as Options;
use flannel_core::config::NetworkConfig;
use flannel_core::entry::Entry;
use flannel_core::family::Families;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, ExtensionData, Lease, LeaseAttrs};
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, Kind};
use crate::error::Error;
use crate::kernel::Scope;
use crate::uplink::ExternalInterface;
use command::Job;
use worker::{Lines, Remote, Times, Worker};

const TIMES: Times = Times { limit: Duration::from_secs(30), look: Duration::from_secs(10) };

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "extension",
    devices: &[],
    read: |fields| {
        let options = Options::read(fields);
        Box::new(move |context| {
            Box::pin(async move { Ok(Box::new(Prepared::new(context, &options).await?) as Box<dyn Backend>) })
        })
    },
};

/// What is there before the lease.
pub struct Prepared {
    options: Options,
    uplink: ExternalInterface,
    data: Option<ExtensionData>,
    /// Once the post-startup command was run.
    worker: Option<Rc<Worker>>,
}

impl Prepared {
    /// Runs the pre-startup command.
    pub async fn new(context: &Context, options: &Options) -> Result<Self, Error> {
        let job = Job { key: "PreStartupCommand", line: &options.pre_startup, variables: Vec::new(), input: "" };
        let data = if options.pre_startup.is_empty() { None } else { Some(ExtensionData(run(&job).await?)) };
        Ok(Self { options: options.clone(), uplink: context.uplink.clone(), data, worker: None })
    }

    /// Runs the post-startup command, once.
    async fn attach(&mut self, Context { config, .. }: &Context, lease: SubnetKey) -> Result<Extension, Error> {
        let worker = match &self.worker {
            Some(worker) => worker.clone(),
            None => {
                if !self.options.post_startup.is_empty() {
                    run(&self.post_startup(config, lease)).await?;
                }
                let lines = Lines { add: self.options.subnet_add.clone(), remove: self.options.subnet_remove.clone() };
                Rc::new(Worker::start(lines, TIMES))
            }
        };
        self.worker = Some(worker.clone());
        Ok(Extension { mtu: self.uplink.mtu, worker })
    }

    fn post_startup(&self, config: &NetworkConfig, lease: SubnetKey) -> Job<'_> {
        fn text(value: Option<impl ToString>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        let variables = vec![
            ("NETWORK", text(config.ranges.v4.map(|range| range.network))),
            ("SUBNET", text(lease.v4())),
            ("PUBLIC_IP", text(self.uplink.v4.map(|a| a.public))),
            ("IPV6NETWORK", text(config.ranges.v6.map(|range| range.network))),
            ("IPV6SUBNET", text(lease.v6())),
            ("PUBLIC_IPV6", text(self.uplink.v6.map(|a| a.public))),
        ];
        Job { key: "PostStartupCommand", line: &self.options.post_startup, variables, input: "" }
    }
}

async fn run(job: &Job<'_>) -> Result<String, Error> {
    job.run(TIMES.limit).await.map_err(|reason| Error::Setup { backend: "extension", reason })
}

impl Backend for Prepared {
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        LeaseAttrs {
            backend_type: "extension".into(),
            backend_data: self.data.as_ref().map(ExtensionData::to_json),
            ..plain
        }
    }

    fn attach<'a>(
        &'a mut self,
        context: &'a Context,
        lease: SubnetKey,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>> {
        Box::pin(async move { Ok(Box::new(self.attach(context, lease).await?) as Box<dyn Attached>) })
    }

    /// What the commands made is the operator's, whatever its name.
    fn replaces_devices(&self) -> bool {
        false
    }
}

/// The backend with its lease.
#[derive(Debug, Clone)]
pub struct Extension {
    mtu: u32,
    worker: Rc<Worker>,
}

impl Attached for Extension {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope::default()
    }

    /// None; but a lease whose data can't be given to a command is said to be bad.
    fn entries(&self, remote: &Lease, _: Families) -> Result<Vec<Entry>, BadLease> {
        data(remote).map(|_| Vec::new())
    }

    fn on_leases(&self, remote: &mut dyn Iterator<Item = &Lease>) {
        let with_data = |lease: &Lease| {
            let data = data(lease).ok()??;
            Some((lease.key, Remote { lease: lease.clone(), data }))
        };
        self.worker.wish(remote.filter_map(with_data).collect::<BTreeMap<_, _>>());
    }
}

/// What a lease of this backend says; nothing for a lease of another.
fn data(remote: &Lease) -> Result<Option<String>, BadLease> {
    if remote.attrs.backend_type != "extension" {
        return Ok(None);
    }
    let data = remote.attrs.backend_data.as_deref().map(ExtensionData::from_json).transpose()?;
    Ok(Some(data.map(|data| data.0).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(value: &str) -> Lease {
        Lease { key: "10.5.1.0-24".parse().unwrap(), attrs: LeaseAttrs::from_json(value).unwrap() }
    }

    #[test]
    fn only_a_text_is_an_extensions_data() {
        let of = |data: &str| data_of(&format!(r#"{{"PublicIP":"192.0.2.1","BackendType":"extension"{data}}}"#));
        fn data_of(value: &str) -> Result<Option<String>, BadLease> {
            data(&lease(value))
        }
        assert_eq!(of(""), Ok(Some(String::new())));
        assert_eq!(of(r#","BackendData":"a \u003cb\u003e""#), Ok(Some("a <b>".into())));
        assert!(of(r#","BackendData":{"VNI":1}"#).is_err());
        assert_eq!(data_of(r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1}}"#), Ok(None));
    }
}
