//! Keys below `subnets/` in etcd. Contract: no panic; what is accepted names a subnet and is read back as the same.
#![no_main]

use flannel_core::key::SubnetKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = SubnetKey::from_etcd_key(&String::from_utf8_lossy(bytes)) {
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!(key.nets().all(|net| net.prefix_len() > 0));
    }
});
