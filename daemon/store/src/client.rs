//! A connection to etcd v3 that survives its endpoints.
//!
//! One endpoint is used at a time; one that does not answer makes the next call go to the next. So a dead endpoint in
//! the list costs one timeout, not every second call.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Client as Connection, Compare, CompareOp, ConnectOptions, Error as EtcdError, EventType, GetOptions, KeyValue,
    PutOptions, ResponseHeader, Txn, TxnOp, WatchOptions, WatchResponse,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;

use crate::leases::{Expect, Revision, StoreError, Ttl, Written};
use crate::metrics::METRICS;
use crate::options::EtcdOptions;
use errors::{is_compacted, is_transport, reason, refusal};

mod errors;
mod tls;

/// How many keys are listed per request: some hundred KiB of leases.
const PAGE: i64 = 1000;
/// The largest response accepted, in bytes; as large as etcd lets its own clients take. A page of large leases, or what a
/// watch missed, exceeds the library's 4 MiB, and asking again would give the same response for ever.
const MAX_RESPONSE: usize = i32::MAX.unsigned_abs() as usize;
/// How often a list is started again because etcd compacted the revision of its first page.
const LIST_ATTEMPTS: u32 = 3;
/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take, at first and at most. An etcd that thousands of hosts ask at once is slow, and giving up
/// and asking again only adds to its load: so the timeout doubles with each call that ran into it.
const CALL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(80));
/// How often a silent connection is probed, and how long the probe's answer may take: a watch notices a black hole only
/// by this.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A key-value pair as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The whole key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
    /// Whether it has no time to live.
    pub permanent: bool,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemEvent {
    /// A key was written.
    Put(Item),
    /// A key was removed or expired.
    Delete(String),
    /// All events up to this revision were delivered.
    Progress(Revision),
    /// The store no longer has the events since the revision asked for: list again.
    Compacted,
}

/// The client. Connects at the first call.
pub struct Client {
    endpoints: Vec<String>,
    options: ConnectOptions,
    user: Option<(String, String)>,
    connected: RefCell<Connected>,
    /// The timeout of the next call.
    timeout: Cell<Duration>,
}

#[derive(Default)]
struct Connected {
    connection: Option<Connection>,
    endpoint: usize,
}

impl Client {
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
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if endpoints.iter().any(|e| e.starts_with("https://")) {
            connect = connect.with_tls(tls::options(options)?);
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
            connected: RefCell::default(),
            timeout: Cell::new(CALL_TIMEOUT.0),
        })
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let response = self.call(|mut c| async move { c.get(key, None).await }).await?;
        Ok(response.kvs().first().map(item))
    }

    /// All keys that begin with `prefix` as they were at one revision, page by page: one response with tens of thousands
    /// would be too large.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<Item>, Revision), StoreError> {
        let mut retries = 1..LIST_ATTEMPTS;
        loop {
            match self.pages(prefix).await {
                Err(error) if is_compacted(&error) && retries.next().is_some() => {}
                other => return other,
            }
        }
    }

    async fn pages(&self, prefix: &str) -> Result<(Vec<Item>, Revision), StoreError> {
        let end = range_end(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let mut items = Vec::new();
        let mut at = None;
        loop {
            let page = || {
                let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
                at.map_or(options.clone(), |revision| options.with_revision(revision))
            };
            let get = |connection: Connection| {
                let (from, page) = (from.clone(), page());
                async move { connection.kv_client().max_decoding_message_size(MAX_RESPONSE).get(from, Some(page)).await }
            };
            let response = self.call(get).await?;
            let revision = *at.get_or_insert(response.header().map_or(0, ResponseHeader::revision));
            items.extend(response.kvs().iter().map(item));
            match response.kvs().last() {
                Some(last) if response.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok((items, Revision(revision))),
            }
        }
    }

    /// Writes a key, if `expect` is true.
    pub async fn put(&self, key: &str, value: &str, ttl: Ttl, expect: Expect) -> Result<Written, StoreError> {
        let condition = match expect {
            Expect::Absent => Compare::version(key, CompareOp::Equal, 0),
            Expect::Revision(Revision(at)) => Compare::mod_revision(key, CompareOp::Equal, at),
        };
        self.call(|mut connection| {
            let condition = condition.clone();
            async move {
                let lease = match ttl {
                    Ttl::Expires(ttl) => {
                        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
                        Some(connection.lease_grant(seconds, None).await?)
                    }
                    Ttl::Never => None,
                };
                let options = lease.as_ref().map(|lease| PutOptions::new().with_lease(lease.id()));
                let put = TxnOp::put(key, value, options);
                let response = connection.txn(Txn::new().when([condition]).and_then([put])).await?;
                if !response.succeeded() {
                    if let Some(lease) = lease {
                        connection.lease_revoke(lease.id()).await?;
                    }
                    return Ok(Written::Raced);
                }
                let granted = lease.map(|lease| Ttl::Expires(Duration::from_secs(lease.ttl().unsigned_abs())));
                let revision = Revision(response.header().map_or(0, ResponseHeader::revision));
                Ok(Written::Yes { ttl: granted.unwrap_or(Ttl::Never), revision })
            }
        })
        .await
    }

    /// Removes a key last written at `revision`; false when it was written since or is gone.
    pub async fn delete(&self, key: &str, revision: Revision) -> Result<bool, StoreError> {
        let delete = |mut connection: Connection| {
            let unchanged = Compare::mod_revision(key, CompareOp::Equal, revision.0);
            let delete = TxnOp::delete(key, None);
            async move { connection.txn(Txn::new().when([unchanged]).and_then([delete])).await }
        };
        Ok(self.call(delete).await?.succeeded())
    }

    /// Everything that happens to keys below `prefix` after `after`. Ends or fails when the connection breaks.
    pub async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<impl Stream<Item = Result<ItemEvent, StoreError>> + Unpin + use<'_>, StoreError> {
        let options = || Some(WatchOptions::new().with_prefix().with_start_revision(after.0 + 1));
        let start = |connection: Connection| async move {
            let mut watch = connection.watch_client().max_decoding_message_size(MAX_RESPONSE);
            watch.watch(prefix, options()).await
        };
        let watch = self.call(start).await?;
        Ok(watch.flat_map(move |response| {
            stream::iter(match response {
                // A store younger than the revision we know has lost its data, and with it the history we follow. It
                // would report nothing until it has caught up.
                Ok(response) if response.created() && response.header().is_some_and(|h| h.revision() < after.0) => {
                    vec![Ok(ItemEvent::Compacted)]
                }
                Ok(response) => events(&response),
                Err(error) => {
                    let reason = reason(&error);
                    vec![Err(StoreError::Unreachable(format!("{}: {reason}", self.give_up_endpoint())))]
                }
            })
        }))
    }

    /// Runs `operation` on the endpoint in use, or on the next that answers.
    async fn call<T, F>(&self, operation: impl Fn(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let mut reasons = Vec::new();
        for _ in &self.endpoints {
            METRICS.etcd_calls.inc();
            let attempt = async { operation(self.connection().await?).await };
            let (timeout, started) = (self.timeout.get(), Instant::now());
            let reason = match tokio::time::timeout(timeout, attempt).await {
                Ok(Ok(value)) => {
                    // The next page takes about as long as this one.
                    self.timeout.set((started.elapsed() * 4).clamp(CALL_TIMEOUT.0, CALL_TIMEOUT.1));
                    return Ok(value);
                }
                Ok(Err(error)) if !is_transport(&error) => return Err(refusal(reason(&error))),
                Ok(Err(error)) => self.with_remedy(reason(&error)),
                Err(_) => {
                    self.timeout.set((timeout * 2).min(CALL_TIMEOUT.1));
                    format!("no answer within {} s", timeout.as_secs())
                }
            };
            reasons.push(format!("{}: {reason}", self.give_up_endpoint()));
        }
        Err(StoreError::Unreachable(reasons.join("; ")))
    }

    async fn connection(&self) -> Result<Connection, EtcdError> {
        let endpoint = {
            let connected = self.connected.borrow();
            if let Some(connection) = &connected.connection {
                return Ok(connection.clone());
            }
            self.endpoints[connected.endpoint].clone()
        };
        let connect = |user: Option<&(String, String)>| {
            let options = match user {
                Some((name, password)) => self.options.clone().with_user(name, password),
                None => self.options.clone(),
            };
            Connection::connect([endpoint.clone()], Some(options))
        };
        let connection = match connect(self.user.as_ref()).await {
            // Credentials do no harm where etcd has authentication switched off.
            Err(error) if self.user.is_some() && reason(&error).contains("authentication is not enabled") => {
                connect(None).await?
            }
            other => other?,
        };
        self.connected.borrow_mut().connection = Some(connection.clone());
        Ok(connection)
    }

    /// Adds the flag to look at, where the reason has to do with certificates. How etcd rejects a client certificate shows
    /// as an alert or as a closed connection, whichever comes first: both are reported alike.
    fn with_remedy(&self, reason: String) -> String {
        let secure = self.endpoints.iter().any(|e| e.starts_with("https://"));
        let closed = ["received fatal alert", "connection closed", "onnection reset", "roken pipe"];
        if reason.contains("UnknownIssuer") {
            format!("{reason}; give the authority that signed etcd's certificate by -etcd-cafile")
        } else if secure && closed.iter().any(|sign| reason.contains(sign)) {
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
        *connected = Connected { connection: None, endpoint: (was + 1) % self.endpoints.len() };
        &self.endpoints[was]
    }
}

fn item(kv: &KeyValue) -> Item {
    Item {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        revision: Revision(kv.mod_revision()),
        permanent: kv.lease() == 0,
    }
}

fn events(response: &WatchResponse) -> Vec<Result<ItemEvent, StoreError>> {
    if response.compact_revision() > 0 {
        return vec![Ok(ItemEvent::Compacted)];
    }
    if response.canceled() {
        return vec![Err(StoreError::Unreachable(format!("etcd ended the watch: {}", response.cancel_reason())))];
    }
    let events = response.events().iter().filter_map(|event| {
        let item = item(event.kv()?);
        Some(match event.event_type() {
            EventType::Put => ItemEvent::Put(item),
            EventType::Delete => ItemEvent::Delete(item.key),
        })
    });
    let progress = response.header().map(|header| ItemEvent::Progress(Revision(header.revision())));
    events.chain(progress).map(Ok).collect()
}

/// The first key behind all that begin with `prefix`.
fn range_end(prefix: &str) -> Vec<u8> {
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
        Err(StoreError::Setup(format!("flag -etcd-endpoints: {text:?} is not a URL like http://10.0.0.1:2379")))
    }
}
