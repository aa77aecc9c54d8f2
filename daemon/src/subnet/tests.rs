use std::net::Ipv4Addr;

use super::*;
use flannel_store::memory::MemoryStore;

const NETWORK: &str = r#"{"Network":"10.5.0.0/28"}"#;

fn config() -> NetworkConfig {
    NetworkConfig::parse(NETWORK).unwrap()
}

fn attrs(host: u8) -> LeaseAttrs {
    LeaseAttrs::new(Ipv4Addr::new(192, 0, 2, host))
}

fn manager(store: &MemoryStore, host: u8) -> SubnetManager<'_, MemoryStore> {
    SubnetManager::new(store, attrs(host), TTL, fastrand::Rng::with_seed(u64::from(host)))
}

fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

async fn acquire(store: &MemoryStore, host: u8, previous: Option<&str>) -> Result<SubnetKey, Error> {
    let previous = PreviousSubnets { v4: previous.map(|p| p.parse().unwrap()), v6: None };
    manager(store, host).acquire(&config(), &previous).await.map(|held| held.key)
}

#[tokio::test(start_paused = true)]
async fn each_host_gets_its_own_until_none_is_left() {
    let store = MemoryStore::default();
    let mut taken = Vec::new();
    for host in 1..=3 {
        taken.push(acquire(&store, host, None).await.unwrap());
    }
    taken.sort();
    assert_eq!(taken, [key("10.5.0.4-30"), key("10.5.0.8-30"), key("10.5.0.12-30")]);
    let error = acquire(&store, 4, None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "out of subnets: 3 leases leave no free subnet; the range is 10.5.0.4 .. 10.5.0.12 of 10.5.0.0/28 in /30: \
         widen SubnetMin/SubnetMax or Network, lengthen SubnetLen, or delete dead leases"
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_public_address_gets_the_same_lease() {
    let store = MemoryStore::default();
    let first = acquire(&store, 1, None).await.unwrap();
    assert_eq!(acquire(&store, 1, Some("10.5.0.12/30")).await.unwrap(), first);
    assert_eq!(store.values().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_no_longer_fits_is_replaced() {
    let store = MemoryStore::default();
    store.write(key("10.5.0.0-30"), &attrs(1).to_json());
    let got = acquire(&store, 1, None).await.unwrap();
    assert_ne!(got, key("10.5.0.0-30"));
    assert_eq!(store.values().keys().collect::<Vec<_>>(), [&got]);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_subnet_is_reused_if_free_and_fitting() {
    let store = MemoryStore::default();
    assert_eq!(acquire(&store, 1, Some("10.5.0.8/30")).await.unwrap(), key("10.5.0.8-30"));
    assert_ne!(acquire(&store, 2, Some("10.5.0.8/30")).await.unwrap(), key("10.5.0.8-30"));
    assert_ne!(acquire(&store, 3, Some("10.9.0.8/30")).await.unwrap(), key("10.9.0.8-30"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_lease_still_takes_its_subnet() {
    let store = MemoryStore::default();
    store.write(key("10.5.0.4-30"), "reserved");
    store.write(key("10.5.0.8-29"), "reserved");
    assert!(matches!(acquire(&store, 1, None).await, Err(Error::OutOfSubnets { taken: 2, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_retried() {
    let store = MemoryStore::default();
    store.write(key("10.5.0.4-30"), &attrs(8).to_json());
    // Whatever host 1 is about to take, host 9 takes just before it: 10.5.0.8 and 10.5.0.12 are left.
    *store.before_put.borrow_mut() = Some(Box::new(|store| store.write(key("10.5.0.8-30"), &attrs(9).to_json())));
    assert_eq!(acquire(&store, 1, Some("10.5.0.8/30")).await.unwrap(), key("10.5.0.12-30"));
}

/// Two keys of two families each are two keys, though they share a subnet: the later one goes.
#[tokio::test(start_paused = true)]
async fn a_subnet_of_one_family_shared_with_an_earlier_writer_is_withdrawn() {
    let store = MemoryStore::default();
    let text = r#"{"Network":"10.5.0.0/28","EnableIPv6":true,"IPv6Network":"fd05::/48"}"#;
    let config = NetworkConfig::parse(text).unwrap();
    let theirs = key("10.5.0.8-30&fd05:0:0:9::-64");
    *store.before_put.borrow_mut() = Some(Box::new(move |store| store.write(theirs, &attrs(9).to_json())));
    let previous = PreviousSubnets { v4: Some("10.5.0.8/30".parse().unwrap()), v6: None };
    let held = manager(&store, 1).acquire(&config, &previous).await.unwrap();
    let mut keys: Vec<_> = store.values().into_keys().collect();
    keys.retain(|key| *key != theirs);
    assert_eq!(keys, [held.key]);
    assert!(held.key.nets().all(|net| theirs.nets().all(|other| !other.contains(&net))), "{}", held.key);
}

#[tokio::test(start_paused = true)]
async fn renewal_restores_a_removed_lease_and_respects_a_new_owner() {
    let store = MemoryStore::default();
    let own = acquire(&store, 1, None).await.unwrap();
    let manager = manager(&store, 1);
    assert_eq!(manager.renew(own).await, Ok(Renewed::Ours(Ttl::Expires(TTL))));
    store.remove(own);
    assert_eq!(manager.renew(own).await, Ok(Renewed::Ours(Ttl::Expires(TTL))));
    assert_eq!(store.values()[&own], attrs(1).to_json());
    for changed in ["nonsense", r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan"}"#] {
        store.write(own, changed);
        assert_eq!(manager.renew(own).await, Ok(Renewed::Ours(Ttl::Expires(TTL))));
        assert_eq!(store.values()[&own], attrs(1).to_json());
    }
    store.write(own, &attrs(9).to_json());
    assert_eq!(manager.renew(own).await, Ok(Renewed::Foreign("192.0.2.9".into())));
    assert_eq!(store.values()[&own], attrs(9).to_json());
}

#[tokio::test(start_paused = true)]
async fn renewal_never_overwrites_the_winner_of_a_race() {
    let store = MemoryStore::default();
    let own = acquire(&store, 1, None).await.unwrap();
    *store.before_put.borrow_mut() = Some(Box::new(move |store| store.write(own, &attrs(9).to_json())));
    assert_eq!(manager(&store, 1).renew(own).await, Ok(Renewed::Foreign("192.0.2.9".into())));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_acquired_and_stays_one() {
    let store = MemoryStore::default();
    let reserved = key("10.5.0.8-30");
    store.reserve(reserved, r#"{"PublicIP":"192.0.2.1"}"#);
    let held = manager(&store, 1).acquire(&config(), &PreviousSubnets::default()).await.unwrap();
    assert_eq!(held, OwnLease { key: reserved, ttl: Ttl::Never });
    assert_eq!(manager(&store, 1).renew(reserved).await, Ok(Renewed::Ours(Ttl::Never)));
    assert_eq!(store.reservations(), [reserved]);
    // One made from a running lease is left alone too, and a changed one is restored.
    store.reserve(reserved, r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan"}"#);
    assert_eq!(manager(&store, 1).renew(reserved).await, Ok(Renewed::Ours(Ttl::Never)));
    assert_eq!(store.values()[&reserved], attrs(1).to_json());
    assert_eq!(store.reservations(), [reserved]);
}
