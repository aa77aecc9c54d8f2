//! A real etcd in a namespace of its own, spoken to as raw JSON through its v3 gateway: what the tests read are the
//! bytes in the store, not some library's view of them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::{Context, Error, Namespace, Process, Result, SOON, Signal, eventually};

const PORT: u16 = 2379;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A key with what etcd keeps about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The etcd lease it hangs on; 0 for none.
    pub lease: i64,
    /// The store's revision when it was made.
    pub create_revision: i64,
    /// The store's revision when it was last written.
    pub mod_revision: i64,
}

/// The etcd process and its data.
#[derive(Debug)]
pub struct Etcd {
    namespace: Namespace,
    address: Ipv4Addr,
    data: PathBuf,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Etcd {
    /// An etcd that will listen on `address` of `namespace` and keep its data below `directory`.
    pub fn new(namespace: Namespace, address: Ipv4Addr, directory: &std::path::Path) -> Self {
        let (data, log) = (directory.join("etcd"), directory.join("etcd.log"));
        Self { namespace, address, data, log, process: Mutex::new(None) }
    }

    /// What `-etcd-endpoints` takes.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{PORT}", self.address)
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts it on its old data, if any, and waits until it answers.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[], &[])
    }

    /// The same, listening on `urls` too, with `args` beside the usual ones. The tests go on speaking plain HTTP to it.
    pub fn start_with(&self, urls: &[&str], args: &[&str]) -> Result<()> {
        let mut command = self.namespace.command("etcd");
        command.arg("--data-dir").arg(&self.data);
        let listen = [&["http://0.0.0.0:2379"], urls].concat().join(",");
        command.args(["--listen-client-urls", &listen, "--advertise-client-urls", &self.endpoint()]);
        // One member wins its election as soon as it checks: short timers, since each test waits for it.
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn", "--logger", "zap"]);
        command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
        // Last, since etcd takes the last of a flag given twice.
        command.args(args);
        let process = Process::start("etcd", command, &self.log)?;
        *self.slot() = Some(process.clone());
        eventually("etcd's first answer", SOON, || {
            if let Some(status) = process.exited()? {
                return Err(Error::new(format!("etcd ended, {status}:\n{}", process.log())));
            }
            self.get("/").map(drop)
        })
        .context(|| format!("etcd's log:\n{}", process.log()))
    }

    /// Runs `etcdctl ARGUMENTS` (words without quotes) against it.
    pub fn ctl(&self, arguments: &str) -> Result<String> {
        let mut command = self.namespace.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://127.0.0.1:{PORT}"));
        crate::output(command.args(arguments.split_whitespace()))
    }

    /// Stops it; the data stays.
    pub fn stop(&self) -> Result<()> {
        let process = self.slot().take().context(|| "etcd does not run".to_owned())?;
        process.signal(Signal::TERM)?;
        process.exit_within(SOON).map(drop)
    }

    /// `kill -9`; the data stays.
    pub fn kill(&self) -> Result<()> {
        self.slot().take().context(|| "etcd does not run".to_owned())?.kill()
    }

    /// Its process.
    pub fn process(&self) -> Result<Process> {
        self.slot().clone().context(|| "etcd does not run".to_owned())
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.slot().as_ref().context(|| "etcd does not run".to_owned())?.signal(signal)
    }

    /// Forgets its data; it must not run.
    pub fn wipe(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.data).context(|| self.data.display().to_string())
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(|e| format!("({e})"), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Writes a key without a lease.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.put_raw(key.as_bytes(), value.as_bytes(), 0)
    }

    /// Writes a key on an etcd lease of `ttl` seconds.
    pub fn put_for(&self, key: &str, value: &str, ttl: u64) -> Result<()> {
        let lease = self.call("lease/grant", &json!({ "TTL": ttl }))?;
        self.put_raw(key.as_bytes(), value.as_bytes(), number(&lease["ID"]))
    }

    /// Writes any bytes.
    pub fn put_raw(&self, key: &[u8], value: &[u8], lease: i64) -> Result<()> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease });
        self.call("kv/put", &body).map(drop)
    }

    /// Writes several keys in one transaction, so that watchers see them in one answer.
    pub fn put_together(&self, pairs: &[(&str, &str)]) -> Result<()> {
        let changes: Vec<_> = pairs.iter().map(|(key, value)| (*key, Some(*value))).collect();
        self.change_together(&changes)
    }

    /// Writes the keys with a value and deletes those without, in one transaction (etcd takes 128 at most).
    pub fn change_together(&self, changes: &[(&str, Option<&str>)]) -> Result<()> {
        let change = |(key, value): &(&str, Option<&str>)| match value {
            Some(value) => json!({ "requestPut": { "key": BASE64.encode(key), "value": BASE64.encode(value) } }),
            None => json!({ "requestDeleteRange": { "key": BASE64.encode(key) } }),
        };
        let operations: Vec<Value> = changes.iter().map(change).collect();
        self.call("kv/txn", &json!({ "success": operations })).map(drop)
    }

    /// Reads a key.
    pub fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        Ok(self.range(&json!({ "key": BASE64.encode(key) }))?.pop())
    }

    /// Reads every key that begins with `prefix`, in order.
    pub fn list(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        self.range(&json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(end_of(prefix)) }))
    }

    /// Deletes a key; whether there was one.
    pub fn delete(&self, key: &str) -> Result<bool> {
        let answer = self.call("kv/deleterange", &json!({ "key": BASE64.encode(key) }))?;
        Ok(number(&answer["deleted"]) > 0)
    }

    /// Deletes every key that begins with `prefix`.
    pub fn delete_all(&self, prefix: &str) -> Result<()> {
        let body = json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(end_of(prefix)) });
        self.call("kv/deleterange", &body).map(drop)
    }

    /// The granted and the remaining seconds of an etcd lease.
    pub fn time_to_live(&self, lease: i64) -> Result<(i64, i64)> {
        let answer = self.call("lease/timetolive", &json!({ "ID": lease }))?;
        Ok((number(&answer["grantedTTL"]), number(&answer["TTL"])))
    }

    /// Forgets all history up to now, so that a watcher who was away cannot resume.
    pub fn compact(&self) -> Result<()> {
        let now = number(&self.call("kv/range", &json!({ "key": BASE64.encode("/") }))?["header"]["revision"]);
        self.call("kv/compaction", &json!({ "revision": now, "physical": true })).map(drop)
    }

    fn range(&self, body: &Value) -> Result<Vec<KeyValue>> {
        let answer = self.call("kv/range", body)?;
        Ok(answer["kvs"].as_array().into_iter().flatten().map(key_value).collect())
    }

    fn call(&self, method: &str, body: &Value) -> Result<Value> {
        let what = || format!("etcd {method}");
        let answer = self.namespace.run(|_| self.post(method, &body.to_string()))?.context(what)?;
        let (head, body) = answer.split_once("\r\n\r\n").context(|| format!("{}: no HTTP: {answer:?}", what()))?;
        if head.split_whitespace().nth(1) != Some("200") {
            return Err(Error::new(format!("{}: {}", what(), body.trim())));
        }
        serde_json::from_str(body).context(what)
    }

    /// HTTP/1.0, so that the answer comes whole and the connection ends with it.
    fn post(&self, method: &str, body: &str) -> std::io::Result<String> {
        let server = SocketAddr::from((self.address, PORT));
        let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let length = body.len();
        stream.write_all(
            format!("POST /v3/{method} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_value(item: &Value) -> KeyValue {
    KeyValue {
        key: text(&item["key"]),
        value: text(&item["value"]),
        lease: number(&item["lease"]),
        create_revision: number(&item["create_revision"]),
        mod_revision: number(&item["mod_revision"]),
    }
}

/// The gateway writes 64-bit numbers as strings and leaves zeros out.
fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn text(value: &Value) -> String {
    let bytes = BASE64.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first key after all that begin with `prefix`: its last byte one higher.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
