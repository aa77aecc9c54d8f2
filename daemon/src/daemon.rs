//! The life of a flannel host: read the config, acquire a lease, connect it to the others, keep it.
//!
//! Start-up order is upstream's (docs/upstream.md, section 0). Above the line "from here on the host is changed" nothing
//! touches the system; `subnet.env`, the sign that the network is ready, is written last.

use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::lease::LeaseAttrs;
use flannel_core::subnet_env::{PreviousSubnets, SubnetEnv};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::backend::{Configured, Context, creates_device, plain_attrs};
use crate::docker_plugin;
use crate::error::Error;
use crate::filter::Filter;
use crate::keeper::Keeper;
use crate::kernel::netlink::Netlink;
use crate::opts::Options;
use crate::ready::{self, Readiness};
use crate::service_manager::ServiceManager;
use crate::subnet::{OwnLease, SubnetManager};
use crate::sync::{Host, Sync};
use crate::uplink;
use flannel_host::backoff::Backoff;
use flannel_host::files;
use flannel_host::say_once::SayOnce;
use flannel_store::etcd::EtcdStore;
use flannel_store::follow::follow;
use flannel_store::leases::{Listed, StoreError, SubnetStore};

/// How many updates may be queued before the watch waits.
const MAX_UPDATES: usize = 1024;

/// What the log and the service manager are told at shutdown.
pub const SHUTTING_DOWN: &str = "shutting down: device, routes, rules and lease stay in effect";

/// Runs the daemon until `shutdown`. Device, routes, rules, lease and `subnet.env` stay behind, so that containers stay
/// connected; only the udp backend's device ends with the daemon.
pub async fn run(options: &Options, manager: &ServiceManager, shutdown: &CancellationToken) -> Result<(), Error> {
    let store = EtcdStore::new(&options.etcd)?;
    let readiness = Readiness::default();
    if let Some(listen) = options.healthz() {
        let served = ready::serve_health(listen, readiness.clone(), shutdown.clone()).await;
        served.map_err(|e| Error::Healthz(listen, e))?;
    }
    let served = async {
        let network = tokio::select! {
            network = start(options, &store, manager) => network?,
            () = shutdown.cancelled() => return Ok(()),
        };
        serve(options, &store, network, &readiness, manager, shutdown).await
    };
    let reported = async {
        let result = served.await;
        match &result {
            Ok(()) => manager.stopping(SHUTTING_DOWN),
            Err(error) => manager.stopping(&error.to_string()),
        }
        result
    };
    if !options.docker_plugin {
        return reported.await;
    }
    // The plugin ends with the daemon, whatever ends the daemon.
    let plugin_shutdown = CancellationToken::new();
    let with_plugin = async {
        let result = reported.await;
        plugin_shutdown.cancel();
        result
    };
    tokio::join!(with_plugin, docker_plugin::supervise(options, &plugin_shutdown)).0
}

/// `-check-config`: checks flags and config and describes them; nothing is changed and nothing waited for.
pub async fn check(options: &Options) -> Result<String, Error> {
    let store = EtcdStore::new(&options.etcd)?;
    let key = store.config_key().to_owned();
    let text = store.config().await?;
    let config = NetworkConfig::parse(&text).map_err(|source| Error::Config { key: key.clone(), source })?;
    let backend = Configured::parse(&config.backend).map_err(|source| Error::Backend { key, source })?;
    let kernel = Netlink::open().map_err(|e| Error::System(e.to_string()))?;
    let uplink = uplink::choose(&kernel, &options.iface, config.ranges.families()).await?;
    Ok(format!("{}; external interface {}, MTU {}", describe(&config, &backend), uplink.name, uplink.mtu))
}

/// A host with its lease and its rules.
struct Network {
    host: Host,
    filter: Filter,
    lease: OwnLease,
    /// The leases as they were when ours was acquired.
    listed: Option<Listed>,
}

async fn start(options: &Options, store: &EtcdStore, manager: &ServiceManager) -> Result<Network, Error> {
    manager.status(&format!("waiting for the config {} in etcd", store.config_key()));
    let config = wait_for_config(store).await?;
    let bad_backend = |source| Error::Backend { key: store.config_key().to_owned(), source };
    let configured = Configured::parse(&config.backend).map_err(bad_backend)?;
    tracing::info!("config: {}", describe(&config, &configured));
    let kernel = Netlink::open().map_err(|e| Error::System(e.to_string()))?;
    let uplink = uplink::choose(&kernel, &options.iface, config.ranges.families()).await?;
    let publics: Vec<_> = uplink.publics().map(|ip| ip.to_string()).collect();
    tracing::info!("external interface {}, MTU {}, public address {}", uplink.name, uplink.mtu, publics.join(" and "));
    let previous = previous_subnets(options);

    // From here on the host is changed.
    let context = Context {
        kernel: kernel.clone(),
        config,
        uplink,
        state_dir: options.state_dir.clone(),
        tx_checksum: options.tx_checksum().map_err(Error::Flag)?,
        descriptors: manager.store().clone(),
    };
    let config = &context.config;
    let mut backend = configured.prepare(&context).await?;
    let attrs = backend.attrs(plain_attrs(&context.uplink));
    manager.status("waiting for a lease");
    let (lease, listed) = acquire(store, &attrs, options.lease_ttl, config, &previous).await?;
    tracing::info!(lease = %lease.key, "lease {} {}", lease.key, lease.ttl);
    let attached = backend.attach(&context, lease.key).await?;
    // A device of an earlier run with another backend goes with its last descriptor.
    manager.store().forget_rest();
    let networks: Vec<_> = config.ranges.values().map(|range| range.network).collect();
    if backend.replaces_devices()
        && let Err(error) = kernel.remove_stale_devices(creates_device, &attached.scope().owned, &networks).await
    {
        tracing::warn!("cannot remove devices of an earlier run: {error}");
    }
    let filter = Filter::set_up(options, config, lease.key).await?;
    let host = Host { context, backend, attached, own: lease.key, attrs, blackhole: options.blackhole };
    Ok(Network { host, filter, lease, listed })
}

async fn serve(
    options: &Options,
    store: &EtcdStore,
    network: Network,
    readiness: &Readiness,
    manager: &ServiceManager,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let Network { host, filter, lease, listed } = network;
    let env = SubnetEnv::of(&host.context.config, lease.key, host.attached.mtu(), options.ip_masq);
    let status = format!("lease {}, MTU {}", lease.key, env.mtu);
    let (updates, inbox) = mpsc::channel(MAX_UPDATES);
    let recheck = Notify::new();
    let subnets = SubnetManager::new(store, host.attrs.clone(), options.lease_ttl, fastrand::Rng::new());
    let keeper = Keeper::new(subnets, lease, options.renew_margin(), options.subnet_file.clone());
    let mut sync = Sync::new(host, &recheck).map_err(|e| Error::System(e.to_string()))?;
    sync.install_static().await;
    let announce = async {
        announce(options, &env, readiness).await;
        manager.ready(&status);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sync.run(inbox, manager, shutdown) => Ok(()),
        error = keeper.run(&recheck) => {
            readiness.set(false);
            Err(error)
        }
        () = follow(store, &updates, listed) => Ok(()),
        () = filter.keep(options.resync()) => Ok(()),
        () = announce => Ok(()),
    }
}

/// Reads the config until it is valid; every new fault is logged once.
async fn wait_for_config(store: &EtcdStore) -> Result<NetworkConfig, Error> {
    let key = store.config_key();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut faults = SayOnce::default();
    loop {
        let fault = match store.config().await {
            Ok(text) => match NetworkConfig::parse(&text) {
                Ok(config) => return Ok(config),
                Err(source) if source.fatal => return Err(Error::Config { key: key.to_owned(), source }),
                Err(source) => format!("config {key} in etcd: {source}"),
            },
            Err(error @ StoreError::Setup(_)) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        if faults.is_news((), &fault) {
            tracing::warn!("{fault}; waiting for a valid config");
        }
        backoff.pause().await;
    }
}

/// Acquires the lease; waits for an etcd that is not reachable.
async fn acquire(
    store: &EtcdStore,
    attrs: &LeaseAttrs,
    ttl: Duration,
    config: &NetworkConfig,
    previous: &PreviousSubnets,
) -> Result<(OwnLease, Option<Listed>), Error> {
    let mut manager = SubnetManager::new(store, attrs.clone(), ttl, fastrand::Rng::new());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match manager.acquire(config, previous).await {
            Err(Error::Store(error @ StoreError::Unreachable(_))) => {
                tracing::warn!("no lease yet: {error}; trying again");
            }
            other => return Ok((other?, manager.take_list())),
        }
        backoff.pause().await;
    }
}

/// Writes `subnet.env`, retrying while the file system refuses; only then the host is ready.
async fn announce(options: &Options, env: &SubnetEnv, readiness: &Readiness) {
    let path = &options.subnet_file;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while let Err(error) = files::write(path, &env.render()) {
        tracing::error!("flag -subnet-file: cannot write {}: {error}; trying again", path.display());
        backoff.pause().await;
    }
    readiness.set(true);
    tracing::info!(subnet_file = %path.display(), mtu = env.mtu, "ready: wrote {}", path.display());
}

fn previous_subnets(options: &Options) -> PreviousSubnets {
    match std::fs::read_to_string(&options.subnet_file) {
        Ok(text) => PreviousSubnets::parse(&text),
        Err(error) => {
            tracing::debug!("no earlier subnet from {}: {error}", options.subnet_file.display());
            PreviousSubnets::default()
        }
    }
}

fn describe(config: &NetworkConfig, backend: &Configured) -> String {
    let range =
        |r: &flannel_core::config::Range| format!("{} in /{} from {} to {}", r.network, r.subnet_len, r.min, r.max);
    let ranges: Vec<_> = config.ranges.values().map(range).collect();
    format!("backend {}, network {}", backend.name, ranges.join(" and "))
}
