//! The config in etcd. Contract: no panic; a good one has ranges inside its networks, from which a subnet that fits is
//! picked in short time.
#![no_main]

use flannel_core::allocate;
use flannel_core::backend_config::{self, Extension, Ipip, Kind, Udp, Vxlan, Wireguard};
use flannel_core::config::NetworkConfig;
use libfuzzer_sys::fuzz_target;

const BACKENDS: &[Kind<()>] = &[
    Kind { name: "vxlan", read: |fields| _ = Vxlan::read(fields) },
    Kind { name: "udp", read: |fields| _ = Udp::read(fields) },
    Kind { name: "extension", read: |fields| _ = Extension::read(fields) },
    Kind { name: "ipip", read: |fields| _ = Ipip::read(fields) },
    Kind { name: "wireguard", read: |fields| _ = Wireguard::read(fields) },
    Kind { name: "alloc", read: |_| () },
];

fuzz_target!(|text: &str| {
    let Ok(config) = NetworkConfig::parse(text) else { return };
    for range in config.ranges.values() {
        assert!(range.network.contains(&range.min) && range.network.contains(&range.max));
        let picked = allocate::pick(range, [], &mut fastrand::Rng::with_seed(1));
        assert!(picked.is_none_or(|net| range.fits(&net)));
    }
    if let Err(bad) = backend_config::parse(&config.backend, BACKENDS) {
        assert!(!bad.to_string().contains('\n'));
    }
});
