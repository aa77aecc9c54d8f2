//! The story of a flannel host: read the config, take a lease, connect it to the others, keep it.
//!
//! Start-up order is upstream's (docs/upstream.md, section 0). Above the line "from here on the host is changed" nothing
//! touches the system; `subnet.env`, which tells the host that its network is ready, is written last of all.

use std::time::Duration;

use flannel_core::backend_config::BackendConfig;
use flannel_core::config::NetworkConfig;
use flannel_core::lease::LeaseAttrs;
use flannel_core::subnet_env::{PreviousSubnets, SubnetEnv};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::backend::vxlan::{MacFiles, VtepOptions};
use crate::docker_plugin;
use crate::error::Error;
use crate::filter::Filter;
use crate::keeper::Keeper;
use crate::kernel::netlink::Netlink;
use crate::opts::Options;
use crate::programme::{Host, Programme};
use crate::ready::{self, Readiness};
use crate::service_manager::ServiceManager;
use crate::subnet::{OwnLease, SubnetManager};
use crate::uplink;
use flannel_host::backoff::Backoff;
use flannel_host::files;
use flannel_store::etcd::EtcdStore;
use flannel_store::follow::follow;
use flannel_store::leases::{Listed, StoreError, SubnetStore};

/// How many updates may wait for the programming before the watch waits.
const UPDATES: usize = 1024;

/// Runs the daemon until `shutdown`. Device, routes, rules, lease and `subnet.env` stay behind, so that containers go
/// on talking; only the udp backend's device ends with the daemon.
pub async fn run(options: &Options, manager: &ServiceManager, shutdown: &CancellationToken) -> Result<(), Error> {
    let store = EtcdStore::new(&options.etcd)?;
    let readiness = Readiness::default();
    if let Some(listen) = options.healthz() {
        let served = ready::serve_health(listen, readiness.clone(), shutdown.clone()).await;
        served.map_err(|e| Error::Healthz(listen, e))?;
    }
    let daemon = async {
        let network = tokio::select! {
            network = start(options, &store, manager) => network?,
            () = shutdown.cancelled() => return Ok(()),
        };
        serve(options, &store, network, &readiness, manager, shutdown).await
    };
    let daemon = async {
        let result = daemon.await;
        match &result {
            Ok(()) => manager.stopping("told to end: device, routes, rules and lease stay in force"),
            Err(error) => manager.stopping(&error.to_string()),
        }
        result
    };
    if !options.docker_plugin {
        return daemon.await;
    }
    // The plugin ends with the daemon, whatever ends the daemon.
    let plugin_shutdown = CancellationToken::new();
    let daemon = async {
        let result = daemon.await;
        plugin_shutdown.cancel();
        result
    };
    tokio::join!(daemon, docker_plugin::supervise(options, &plugin_shutdown)).0
}

/// `-check-config`: the verdict on flags and config in words; nothing is changed and nothing waited for.
pub async fn check(options: &Options) -> Result<String, Error> {
    let store = EtcdStore::new(&options.etcd)?;
    let key = store.config_key().to_owned();
    let text = store.config().await?;
    let config = NetworkConfig::parse(&text).map_err(|source| Error::Config { key: key.clone(), source })?;
    let backend = BackendConfig::parse(&config.backend).map_err(|source| Error::Backend { key, source })?;
    let kernel = Netlink::open().map_err(|e| Error::System(e.to_string()))?;
    let uplink = uplink::choose(&kernel, &options.iface, config.ranges.families()).await?;
    Ok(format!("{}; external interface {}, MTU {}", describe(&config, &backend), uplink.name, uplink.mtu))
}

/// A host with its lease and its rules.
struct Network {
    host: Host,
    filter: Filter,
    held: OwnLease,
    /// The leases as they were when ours was taken.
    listed: Option<Listed>,
}

async fn start(options: &Options, store: &EtcdStore, manager: &ServiceManager) -> Result<Network, Error> {
    manager.status(&format!("waiting for the config {} in etcd", store.config_key()));
    let config = wait_for_config(store).await?;
    let bad_backend = |source| Error::Backend { key: store.config_key().to_owned(), source };
    let backend_config = BackendConfig::parse(&config.backend).map_err(bad_backend)?;
    tracing::info!("config: {}", describe(&config, &backend_config));
    let kernel = Netlink::open().map_err(|e| Error::System(e.to_string()))?;
    let uplink = uplink::choose(&kernel, &options.iface, config.ranges.families()).await?;
    let publics: Vec<_> = uplink.publics().map(|ip| ip.to_string()).collect();
    tracing::info!("external interface {}, MTU {}, public address {}", uplink.name, uplink.mtu, publics.join(" and "));
    let previous = previous_subnets(options);

    // From here on the host is changed.
    let vteps = VtepOptions {
        macs: MacFiles(options.state_dir.clone()),
        tx_checksum: options.tx_checksum().map_err(Error::Flag)?,
    };
    let mut prepared = backend::prepare(&kernel, &config, &backend_config, &uplink, vteps, manager.store()).await?;
    let attrs = prepared.attrs(&uplink);
    manager.status("waiting for a lease");
    let (held, listed) = acquire(store, &attrs, options.lease_ttl, &config, &previous).await?;
    tracing::info!(lease = %held.key, "lease {} {}", held.key, held.ttl);
    let backend = prepared.attach(&kernel, &config, held.key).await?;
    // A device of an earlier run with another backend goes with its last descriptor.
    manager.store().forget_rest();
    let networks: Vec<_> = config.ranges.values().map(|range| range.network).collect();
    // What an extension's commands made is the operator's, whatever its name.
    if !matches!(backend_config, BackendConfig::Extension(_))
        && let Err(error) = kernel.remove_stale_devices(&backend.scope().owned, &networks).await
    {
        tracing::warn!("devices of an earlier run stay: {error}");
    }
    let filter = Filter::set_up(options, &config, held.key).await?;
    let host = Host { kernel, config, prepared, backend, own: held.key, attrs, blackhole: options.blackhole };
    Ok(Network { host, filter, held, listed })
}

async fn serve(
    options: &Options,
    store: &EtcdStore,
    network: Network,
    readiness: &Readiness,
    manager: &ServiceManager,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let Network { host, filter, held, listed } = network;
    let env = SubnetEnv::of(&host.config, held.key, host.backend.mtu(), options.ip_masq);
    let status = format!("lease {}, MTU {}", held.key, env.mtu);
    let (updates, inbox) = mpsc::channel(UPDATES);
    let doubt = Notify::new();
    let subnets = SubnetManager::new(store, host.attrs.clone(), options.lease_ttl, fastrand::Rng::new());
    let keeper = Keeper::new(subnets, held, options.renew_margin(), options.subnet_file.clone());
    let mut programme = Programme::new(host, &doubt).map_err(|e| Error::System(e.to_string()))?;
    programme.stand().await;
    let announce = async {
        announce(options, &env, readiness).await;
        manager.ready(&status);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = programme.run(inbox, manager, shutdown) => Ok(()),
        error = keeper.run(&doubt) => {
            readiness.set(false);
            Err(error)
        }
        () = follow(store, &updates, listed) => Ok(()),
        () = filter.keep(options.resync()) => Ok(()),
        () = announce => Ok(()),
    }
}

/// Reads the config until it is good; every new fault is told once.
async fn wait_for_config(store: &EtcdStore) -> Result<NetworkConfig, Error> {
    let key = store.config_key();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut told = String::new();
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
        if fault != told {
            tracing::warn!("{fault}; waiting for a good config");
            told = fault;
        }
        backoff.pause().await;
    }
}

/// Takes the lease; an etcd that does not answer is waited for.
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

/// Writes `subnet.env`, trying again while the file system refuses; only then the host is ready.
async fn announce(options: &Options, env: &SubnetEnv, readiness: &Readiness) {
    let path = &options.subnet_file;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while let Err(error) = files::write(path, &env.render()) {
        tracing::error!("flag -subnet-file: can't write {}: {error}; trying again until it works", path.display());
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

fn describe(config: &NetworkConfig, backend: &BackendConfig) -> String {
    let range =
        |r: &flannel_core::config::Range| format!("{} in /{} from {} to {}", r.network, r.subnet_len, r.min, r.max);
    let ranges: Vec<_> = config.ranges.values().map(range).collect();
    format!("backend {}, network {}", backend.name(), ranges.join(" and "))
}
