//! The config in etcd. Contract: no panic; a good one has ranges inside its networks, from which a subnet that fits is
//! picked in short time.
#![no_main]

use flannel_core::allocate;
use flannel_core::backend_config::BackendConfig;
use flannel_core::config::NetworkConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(config) = NetworkConfig::parse(text) else { return };
    for range in config.ranges.values() {
        assert!(range.network.contains(&range.min) && range.network.contains(&range.max));
        let picked = allocate::pick(range, [], &mut fastrand::Rng::with_seed(1));
        assert!(picked.is_none_or(|net| range.fits(&net)));
    }
    if let Err(bad) = BackendConfig::parse(&config.backend) {
        assert!(!bad.to_string().contains('\n'));
    }
});
