use std::collections::BTreeMap;

use ipnet::IpNet;

use super::lease::Side;
use super::pool::Pool;
use super::*;

fn pool() -> Pool {
    let net: IpNet = "10.5.72.0/24".parse().unwrap();
    Pool::new(net, net).unwrap()
}

fn network() -> Network {
    Network {
        subnets: vec![Subnet { pool: "10.5.72.0/24".parse().unwrap(), gateway: "10.5.72.1/24".parse().unwrap() }],
        address_space: "LocalDefault".to_owned(),
        mtu_option: None,
        internal: false,
        gateway: false,
        isolated: true,
        flannel: None,
        lease_mtu: 1450,
        lease: vec![Side { network: "10.5.0.0/16".parse().unwrap(), subnet: "10.5.72.0/24".parse().unwrap() }],
        endpoints: BTreeMap::from([(
            "e1".to_owned(),
            Endpoint {
                addresses: vec!["10.5.72.2/24".parse().unwrap()],
                mac: "02:00:0a:05:48:02".parse().unwrap(),
                sandbox: Some("/var/run/docker/netns/6465ec84fc4b".to_owned()),
                ports: Vec::new(),
            },
        )]),
    }
}

async fn fill(store: &Store) {
    let add = |s: &mut State| {
        s.networks.insert("n1".to_owned(), network());
        let id = s.new_pool_id("10.5.72.0/24".parse().unwrap());
        let mut attached = pool();
        attached.network = Some("n1".to_owned());
        s.pools.insert(id, attached);
        let id = s.new_pool_id("10.5.72.0/24".parse().unwrap());
        s.pools.insert(id, pool());
        Ok(())
    };
    store.change(add).await.unwrap();
}

#[tokio::test]
async fn survives_a_restart_but_for_pools_whose_network_never_came() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    fill(&store).await;
    let before = store.read(State::clone);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let after = store.read(State::clone);
    assert_eq!(after.networks, before.networks);
    assert_eq!((before.pools.len(), after.pools.len()), (2, 1));
    let fresh = store.change(|s| Ok(s.new_pool_id("10.5.72.0/24".parse().unwrap()))).await.unwrap();
    assert!(!before.pools.contains_key(&fresh), "{fresh} came twice");
}

#[tokio::test]
async fn a_damaged_file_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    for (content, kept) in [("{\"version\":1,", "state.json.damaged-1"), ("", "state.json.damaged-2")] {
        fs::write(dir.path().join("state.json"), content).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.read(|s| s.networks.is_empty()));
        assert_eq!(fs::read_to_string(dir.path().join(kept)).unwrap(), content);
    }
}

#[test]
fn a_newer_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    fs::write(&path, "{\"version\":2,\"new\":[]}").unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("newer flannel-docker"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"version\":2,\"new\":[]}");
}

#[test]
fn belongs_to_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("in use by another flannel-docker"), "{error}");
}

#[tokio::test]
async fn a_change_the_disk_refuses_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let block = dir.path().join(format!(".state.json.{}", std::process::id()));
    fs::create_dir(&block).unwrap();
    let add = |s: &mut State| {
        s.networks.insert("n1".to_owned(), network());
        Ok(())
    };
    let error = store.change(add).await.unwrap_err().to_string();
    assert!(error.contains("state.json") && error.contains("cannot write"), "{error}");
    assert!(store.read(|s| s.networks.is_empty()));
    fs::remove_dir(&block).unwrap();
    store.change(add).await.unwrap();
    assert!(dir.path().join("state.json").exists());
}

#[tokio::test]
async fn changes_made_together_are_all_on_the_disk_when_they_return() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let tasks: Vec<_> = (0..40)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let name = format!("n{i}");
                let add = |s: &mut State| {
                    s.networks.insert(name.clone(), network());
                    Ok(())
                };
                store.change(add).await.unwrap();
                let text = fs::read_to_string(&store.file.path).unwrap();
                assert!(text.contains(&format!("\"{name}\"")), "{name} was answered and not written");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
