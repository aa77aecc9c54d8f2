//! What the etcd client counts.

flannel_host::metrics! {
    etcd_calls: Counter = "flannel_etcd_calls", "Calls of etcd; a watch is one.";
    watch_restarts: Counter = "flannel_watch_restarts", "Times the watch of etcd broke.";
    undecodable: Counter = "flannel_undecodable", "Keys and values in etcd that are not leases.";
}
