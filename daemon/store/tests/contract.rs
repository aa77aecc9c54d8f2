//! One contract for both stores: the one in memory, which the lease protocol's tests use, and a real etcd on
//! loopback. Whatever is asserted here holds for the fake and for the real thing alike.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flannel_core::key::SubnetKey;
use flannel_core::lease::LeaseAttrs;
use flannel_store::etcd::EtcdStore;
use flannel_store::leases::{Expect, StoreError, SubnetStore, Ttl, WatchEvent, Written};
use flannel_store::memory::MemoryStore;
use flannel_store::options::EtcdOptions;
use futures_util::{Stream, StreamExt};

const DAY: Ttl = Ttl::Expires(Duration::from_secs(86_400));

fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

fn attrs(host: u8) -> LeaseAttrs {
    LeaseAttrs::new([192, 0, 2, host].into())
}

/// The next event of a lease; progress reports are skipped.
async fn happened(watch: &mut (impl Stream<Item = Result<WatchEvent, StoreError>> + Unpin)) -> WatchEvent {
    loop {
        match watch.next().await.expect("the watch goes on").expect("no error") {
            WatchEvent::Progress(_) => {}
            event => return event,
        }
    }
}

async fn contract(store: &impl SubnetStore) {
    assert!(matches!(store.config().await, Err(StoreError::NoConfig(_))));
    let (leases, start) = store.list().await.unwrap();
    assert_eq!(leases, []);
    assert_eq!(store.get(key("10.5.1.0-24")).await, Ok(None));
    let mut watch = Box::pin(store.watch(start).await.unwrap());

    // A write happens only if what it expects is true.
    let Written::Yes { ttl, revision } = store.put(key("10.5.1.0-24"), &attrs(1), DAY, Expect::Absent).await.unwrap()
    else {
        panic!("the key was free")
    };
    assert_eq!(ttl, DAY);
    assert_eq!(store.put(key("10.5.1.0-24"), &attrs(2), DAY, Expect::Absent).await, Ok(Written::Raced));
    let stored = store.get(key("10.5.1.0-24")).await.unwrap().unwrap();
    assert_eq!((&stored.attrs, stored.revision), (&Ok(attrs(1)), revision));
    let renewed = store.put(key("10.5.1.0-24"), &attrs(1), DAY, Expect::Revision(revision)).await.unwrap();
    let Written::Yes { revision: newer, .. } = renewed else { panic!("nobody wrote in between") };
    assert!(newer > revision);
    let stale = store.put(key("10.5.1.0-24"), &attrs(3), DAY, Expect::Revision(revision)).await;
    assert_eq!(stale, Ok(Written::Raced));

    // So does a removal.
    assert_eq!(store.delete(key("10.5.1.0-24"), revision).await, Ok(false));
    assert_eq!(store.delete(key("10.5.1.0-24"), newer).await, Ok(true));
    assert_eq!(store.delete(key("10.5.1.0-24"), newer).await, Ok(false));
    store.put(key("10.5.2.0-24"), &attrs(2), DAY, Expect::Absent).await.unwrap();
    let (leases, _) = store.list().await.unwrap();
    assert_eq!(leases.iter().map(|l| l.key).collect::<Vec<_>>(), [key("10.5.2.0-24")]);

    // A reservation is distinguished from a lease that expires.
    assert!(!leases[0].reserved);
    let forever = store.put(key("10.5.3.0-24"), &attrs(3), Ttl::Never, Expect::Absent).await.unwrap();
    assert!(matches!(forever, Written::Yes { ttl: Ttl::Never, .. }));
    assert!(store.get(key("10.5.3.0-24")).await.unwrap().unwrap().reserved);

    // A watch reports all of it, in order, and nothing else.
    for host in [1, 1] {
        assert!(
            matches!(happened(&mut watch).await, WatchEvent::Put(l) if l.key == key("10.5.1.0-24") && l.attrs == Ok(attrs(host)))
        );
    }
    assert_eq!(happened(&mut watch).await, WatchEvent::Delete(key("10.5.1.0-24")));
    assert!(matches!(happened(&mut watch).await, WatchEvent::Put(l) if l.key == key("10.5.2.0-24")));

    // One that starts in the past reports what happened since.
    let mut late = Box::pin(store.watch(newer).await.unwrap());
    assert_eq!(happened(&mut late).await, WatchEvent::Delete(key("10.5.1.0-24")));
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    contract(&MemoryStore::default()).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let etcd = Etcd::start();
    contract(&etcd.store("/test")).await;
}

#[tokio::test]
async fn both_report_a_compacted_history() {
    let memory = MemoryStore::default();
    let etcd = Etcd::start();
    let real = etcd.store("/test");
    let compact = || {
        memory.compact();
        etcd.ctl(&["compaction", "4"]);
    };
    async fn write_twice(store: &impl SubnetStore) {
        for net in ["10.5.1.0-24", "10.5.2.0-24", "10.5.3.0-24"] {
            store.put(key(net), &attrs(1), DAY, Expect::Absent).await.unwrap();
        }
    }
    let (_, before_memory) = memory.list().await.unwrap();
    let (_, before_real) = real.list().await.unwrap();
    write_twice(&memory).await;
    write_twice(&real).await;
    compact();
    assert_eq!(happened(&mut Box::pin(memory.watch(before_memory).await.unwrap())).await, WatchEvent::Compacted);
    assert_eq!(happened(&mut Box::pin(real.watch(before_real).await.unwrap())).await, WatchEvent::Compacted);
}

#[tokio::test]
async fn a_dead_endpoint_is_skipped() {
    let etcd = Etcd::start();
    let store = store(&format!("http://127.0.0.1:{},{}", free_port(), etcd.url), "/test");
    for _ in 0..3 {
        assert_eq!(store.list().await.map(|(leases, _)| leases), Ok(Vec::new()));
    }
    let dead = format!("http://127.0.0.1:{}", free_port());
    let error = self::store(&dead, "/test").list().await.unwrap_err().to_string();
    assert!(error.contains("-etcd-endpoints") && error.contains(&dead) && error.contains("refused"), "{error}");
}

fn store(endpoints: &str, prefix: &str) -> EtcdStore {
    let options = EtcdOptions { endpoints: endpoints.into(), prefix: prefix.into(), ..EtcdOptions::default() };
    EtcdStore::new(&options).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An etcd of the test's own on loopback.
struct Etcd {
    url: String,
    process: Child,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let url = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
            .args(["--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts: install etcd-server");
        let etcd = Self { url, process, _data: data };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !etcd.try_ctl(&["endpoint", "health"]) {
            assert!(Instant::now() < deadline, "etcd did not come up");
        }
        etcd
    }

    fn store(&self, prefix: &str) -> EtcdStore {
        store(&self.url, prefix)
    }

    fn ctl(&self, args: &[&str]) {
        assert!(self.try_ctl(args), "etcdctl {args:?} failed");
    }

    #[expect(clippy::disallowed_methods, reason = "nothing else is to run meanwhile")]
    fn try_ctl(&self, args: &[&str]) -> bool {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url]).args(args);
        etcdctl
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("etcdctl runs: install etcd-client")
            .success()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().expect("our own child can be killed");
        self.process.wait().expect("our own child can be waited for");
    }
}
