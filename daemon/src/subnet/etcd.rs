//! The store in etcd v3, with upstream's keys and values (docs/upstream.md, section 2).
//!
//! One endpoint is used at a time; one that does not answer makes the next call go to the next. So a dead endpoint in
//! the list costs one time limit, not every second call.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error as EtcdError, EventType, GetOptions, Identity,
    KeyValue, PutOptions, TlsOptions, Txn, TxnOp, WatchOptions, WatchResponse,
};
use flannel_core::key::{SubnetKey, etcd_key};
use flannel_core::lease::{BadLease, LeaseAttrs};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;

use errors::{is_compacted, is_transport, reason, refusal};

use super::store::{Expect, Life, News, Revision, StoreError, Stored, SubnetStore, Written};
use crate::metrics::METRICS;
use crate::opts::EtcdOptions;

mod errors;

/// How many leases are asked for at a time: some hundred KiB, unless their backends have much to say.
const PAGE: i64 = 1000;
/// How large an answer may be, in bytes; as large as etcd lets its own clients take. A page of leases with much data, or
/// what a watch missed meanwhile, passes the library's 4 MiB, and the same question would have the same answer for ever.
const LARGEST: usize = i32::MAX.unsigned_abs() as usize;
/// How often a list is begun again because etcd forgot the moment of its first page.
const LISTS: u32 = 3;
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take, at first and at most. An etcd that thousands of hosts ask at once is slow, and what is
/// given up and asked again only keeps it from answering anybody: so each answer that did not come in time is waited for
/// twice as long.
const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(80));
/// How often a silent connection is probed, and how long the probe's answer may take: a watch learns of a black hole
/// only by this.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The store under one prefix.
pub struct EtcdStore {
    endpoints: Vec<String>,
    options: ConnectOptions,
    user: Option<(String, String)>,
    config_key: String,
    subnets_key: String,
    connected: RefCell<Connected>,
    /// How long the next answer may take.
    patience: Cell<Duration>,
    /// Keys that were already complained about, so that each is named once.
    named: RefCell<HashSet<String>>,
}

#[derive(Default)]
struct Connected {
    client: Option<Client>,
    endpoint: usize,
}

impl EtcdStore {
    /// Checks the options and reads the certificates; nothing is connected yet.
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let endpoints = options.endpoints.split(',').map(str::trim).filter(|e| !e.is_empty()).map(endpoint);
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(StoreError::Setup(
                "flag -etcd-endpoints: give at least one URL like http://10.0.0.1:2379".into(),
            ));
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PROBE.0, PROBE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if endpoints.iter().any(|e| e.starts_with("https://")) {
            connect = connect.with_tls(tls(options)?);
            if let Some(plain) = endpoints.iter().find(|e| e.starts_with("http://")) {
                return Err(StoreError::Setup(format!(
                    "flag -etcd-endpoints: {plain} beside https endpoints: use one scheme for all"
                )));
            }
        }
        let both = !options.username.is_empty() && !options.password.is_empty();
        Ok(Self {
            endpoints,
            options: connect,
            user: both.then(|| (options.username.clone(), options.password.clone())),
            config_key: etcd_key(&options.prefix, "config"),
            subnets_key: etcd_key(&options.prefix, "subnets"),
            connected: RefCell::default(),
            patience: Cell::new(ANSWER.0),
            named: RefCell::default(),
        })
    }

    /// The config's key.
    pub fn config_key(&self) -> &str {
        &self.config_key
    }

    fn lease_key(&self, key: SubnetKey) -> String {
        format!("{}/{key}", self.subnets_key)
    }

    /// Runs `operation` on the endpoint in use, or on the next that answers.
    async fn call<T, F>(&self, operation: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let mut reasons = Vec::new();
        for _ in &self.endpoints {
            METRICS.etcd_calls.inc();
            let attempt = async { operation(self.client().await?).await };
            let (patience, asked) = (self.patience.get(), Instant::now());
            let reason = match tokio::time::timeout(patience, attempt).await {
                Ok(Ok(value)) => {
                    // The next page comes about as quickly as this one.
                    self.patience.set((asked.elapsed() * 4).clamp(ANSWER.0, ANSWER.1));
                    return Ok(value);
                }
                Ok(Err(error)) if !is_transport(&error) => return Err(refusal(reason(&error))),
                Ok(Err(error)) => self.with_remedy(reason(&error)),
                Err(_) => {
                    self.patience.set((patience * 2).min(ANSWER.1));
                    format!("no answer within {} s", patience.as_secs())
                }
            };
            reasons.push(format!("{}: {reason}", self.give_up_endpoint()));
        }
        Err(StoreError::Unreachable(reasons.join("; ")))
    }

    async fn client(&self) -> Result<Client, EtcdError> {
        let endpoint = {
            let connected = self.connected.borrow();
            if let Some(client) = &connected.client {
                return Ok(client.clone());
            }
            self.endpoints[connected.endpoint].clone()
        };
        let connect = |user: Option<&(String, String)>| {
            let options = match user {
                Some((name, password)) => self.options.clone().with_user(name, password),
                None => self.options.clone(),
            };
            Client::connect([endpoint.clone()], Some(options))
        };
        let client = match connect(self.user.as_ref()).await {
            // A user is no harm where etcd has authentication switched off.
            Err(error) if self.user.is_some() && reason(&error).contains("authentication is not enabled") => {
                connect(None).await?
            }
            other => other?,
        };
        self.connected.borrow_mut().client = Some(client.clone());
        Ok(client)
    }

    /// A reason that has to do with certificates, with the flag to look at. What etcd does with a client certificate it
    /// does not like is seen as an alert or as a closed connection, whichever comes first: both are told alike.
    fn with_remedy(&self, reason: String) -> String {
        let secure = self.endpoints.iter().any(|e| e.starts_with("https://"));
        let broken_off = ["received fatal alert", "connection closed", "onnection reset", "roken pipe"];
        if reason.contains("UnknownIssuer") {
            format!("{reason}; give the authority that signed etcd's certificate by -etcd-cafile")
        } else if secure && broken_off.iter().any(|sign| reason.contains(sign)) {
            "etcd breaks off the connection; if it asks for a client certificate, give one it accepts by -etcd-certfile \
             and -etcd-keyfile"
                .into()
        } else {
            reason
        }
    }

    /// Drops the connection in use and moves on; returns the endpoint it was.
    fn give_up_endpoint(&self) -> &str {
        let mut connected = self.connected.borrow_mut();
        let was = connected.endpoint;
        *connected = Connected { client: None, endpoint: (was + 1) % self.endpoints.len() };
        &self.endpoints[was]
    }

    /// All leases as they were at one moment, page by page: one answer with tens of thousands would be too large.
    async fn pages(&self) -> Result<(Vec<Stored>, Revision), StoreError> {
        let end = end_of(&self.subnets_key);
        let mut from = self.subnets_key.clone().into_bytes();
        let mut leases = Vec::new();
        let mut moment = None;
        loop {
            let page = || {
                let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
                moment.map_or(options.clone(), |moment| options.with_revision(moment))
            };
            let ask = |client: Client| {
                let (from, page) = (from.clone(), page());
                async move { client.kv_client().max_decoding_message_size(LARGEST).get(from, Some(page)).await }
            };
            let response = self.call(ask).await?;
            let revision = *moment.get_or_insert(response.header().map_or(0, etcd_client::ResponseHeader::revision));
            leases.extend(response.kvs().iter().filter_map(|kv| self.stored(kv)));
            match response.kvs().last() {
                Some(last) if response.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok((leases, Revision(revision))),
            }
        }
    }

    fn stored(&self, kv: &KeyValue) -> Option<Stored> {
        let key = self.subnet_key(kv.key())?;
        let attrs = std::str::from_utf8(kv.value())
            .map_err(|_| BadLease("no UTF-8 text".into()))
            .and_then(LeaseAttrs::from_json);
        Some(Stored { key, attrs, revision: Revision(kv.mod_revision()), reserved: kv.lease() == 0 })
    }

    fn subnet_key(&self, key: &[u8]) -> Option<SubnetKey> {
        let key = String::from_utf8_lossy(key);
        match SubnetKey::from_etcd_key(&key) {
            Ok(key) => Some(key),
            Err(error) => {
                METRICS.undecodable.inc();
                if self.named.borrow_mut().insert(key.into_owned()) {
                    tracing::warn!("etcd key is skipped: {error}; delete it if nothing needs it");
                }
                None
            }
        }
    }

    fn news(&self, response: &WatchResponse) -> Vec<Result<News, StoreError>> {
        if response.compact_revision() > 0 {
            return vec![Ok(News::Compacted)];
        }
        if response.canceled() {
            return vec![Err(StoreError::Unreachable(format!("etcd ended the watch: {}", response.cancel_reason())))];
        }
        let events = response.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            match event.event_type() {
                EventType::Put => self.stored(kv).map(News::Put),
                EventType::Delete => self.subnet_key(kv.key()).map(News::Delete),
            }
        });
        let progress = response.header().map(|header| News::Progress(Revision(header.revision())));
        events.chain(progress).map(Ok).collect()
    }
}

impl SubnetStore for EtcdStore {
    async fn config(&self) -> Result<String, StoreError> {
        let response = self.call(|mut c| async move { c.get(self.config_key.as_str(), None).await }).await?;
        let kv = response.kvs().first().ok_or_else(|| StoreError::NoConfig(self.config_key.clone()))?;
        Ok(String::from_utf8_lossy(kv.value()).into_owned())
    }

    async fn list(&self) -> Result<(Vec<Stored>, Revision), StoreError> {
        let mut tries = 1..LISTS;
        loop {
            match self.pages().await {
                Err(error) if is_compacted(&error) && tries.next().is_some() => {}
                other => return other,
            }
        }
    }

    async fn get(&self, key: SubnetKey) -> Result<Option<Stored>, StoreError> {
        let response = self.call(|mut c| async move { c.get(self.lease_key(key), None).await }).await?;
        Ok(response.kvs().first().and_then(|kv| self.stored(kv)))
    }

    async fn put(&self, key: SubnetKey, attrs: &LeaseAttrs, life: Life, expect: Expect) -> Result<Written, StoreError> {
        let (path, value) = (self.lease_key(key), attrs.to_json());
        let condition = match expect {
            Expect::Absent => Compare::version(path.as_str(), CompareOp::Equal, 0),
            Expect::Revision(Revision(at)) => Compare::mod_revision(path.as_str(), CompareOp::Equal, at),
        };
        self.call(|mut client| {
            let (path, value, condition) = (path.clone(), value.clone(), condition.clone());
            async move {
                let lease = match life {
                    Life::For(ttl) => {
                        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
                        Some(client.lease_grant(seconds, None).await?)
                    }
                    Life::Reserved => None,
                };
                let options = lease.as_ref().map(|lease| PutOptions::new().with_lease(lease.id()));
                let put = TxnOp::put(path, value, options);
                let response = client.txn(Txn::new().when([condition]).and_then([put])).await?;
                if !response.succeeded() {
                    if let Some(lease) = lease {
                        client.lease_revoke(lease.id()).await?;
                    }
                    return Ok(Written::Raced);
                }
                let granted = lease.map(|lease| Life::For(Duration::from_secs(lease.ttl().unsigned_abs())));
                let revision = Revision(response.header().map_or(0, etcd_client::ResponseHeader::revision));
                Ok(Written::Yes { life: granted.unwrap_or(Life::Reserved), revision })
            }
        })
        .await
    }

    async fn delete(&self, key: SubnetKey, revision: Revision) -> Result<bool, StoreError> {
        let path = self.lease_key(key);
        let response = self
            .call(|mut client| {
                let unchanged = Compare::mod_revision(path.as_str(), CompareOp::Equal, revision.0);
                let delete = TxnOp::delete(path.as_str(), None);
                async move { client.txn(Txn::new().when([unchanged]).and_then([delete])).await }
            })
            .await?;
        Ok(response.succeeded())
    }

    async fn watch(&self, after: Revision) -> Result<impl Stream<Item = Result<News, StoreError>> + Unpin, StoreError> {
        let options = || Some(WatchOptions::new().with_prefix().with_start_revision(after.0 + 1));
        let ask = |client: Client| async move {
            let mut client = client.watch_client().max_decoding_message_size(LARGEST);
            client.watch(self.subnets_key.as_str(), options()).await
        };
        let watch = self.call(ask).await?;
        Ok(watch.flat_map(move |response| {
            stream::iter(match response {
                // A store younger than what we know of it has lost its data: the history we follow is gone. It would
                // tell nothing until it is as old again.
                Ok(response) if response.created() && response.header().is_some_and(|h| h.revision() < after.0) => {
                    vec![Ok(News::Compacted)]
                }
                Ok(response) => self.news(&response),
                Err(error) => {
                    let reason = reason(&error);
                    vec![Err(StoreError::Unreachable(format!("{}: {reason}", self.give_up_endpoint())))]
                }
            })
        }))
    }
}

/// The first key behind all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // A key is text, whose bytes are never 255.
        *last += 1;
    }
    end
}

fn endpoint(text: &str) -> Result<String, StoreError> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    if host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
        Ok(text.to_owned())
    } else {
        Err(StoreError::Setup(format!("flag -etcd-endpoints: {text:?} is no URL like http://10.0.0.1:2379")))
    }
}

fn tls(options: &EtcdOptions) -> Result<TlsOptions, StoreError> {
    // The TLS library takes a file without any certificate for one with none to trust, and says nothing.
    let read = |flag: &str, path: &str, wanted: &str| {
        let pem = std::fs::read_to_string(path)
            .map_err(|e| StoreError::Setup(format!("flag -{flag}: can't read {path}: {e}")))?;
        if pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(wanted)) {
            return Ok(pem);
        }
        Err(StoreError::Setup(format!("flag -{flag}: {path} holds no {wanted} in PEM form")))
    };
    let mut tls = TlsOptions::new();
    if options.cafile.is_empty() {
        tls = tls.with_native_roots();
    } else {
        tls = tls.ca_certificate(Certificate::from_pem(read("etcd-cafile", &options.cafile, "CERTIFICATE")?));
    }
    match (options.certfile.as_str(), options.keyfile.as_str()) {
        ("", "") => Ok(tls),
        ("", _) => Err(StoreError::Setup("flag -etcd-keyfile needs -etcd-certfile beside it".into())),
        (_, "") => Err(StoreError::Setup("flag -etcd-certfile needs -etcd-keyfile beside it".into())),
        (cert, key) => {
            let cert = read("etcd-certfile", cert, "CERTIFICATE")?;
            Ok(tls.identity(Identity::from_pem(cert, read("etcd-keyfile", key, "PRIVATE KEY")?)))
        }
    }
}
