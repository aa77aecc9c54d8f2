//! Values of leases in etcd. Contract: no panic; what is accepted is written so that it is read back as the same.
#![no_main]

use flannel_core::lease::{LeaseAttrs, VxlanData};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(attrs) = LeaseAttrs::from_json(text) else { return };
    assert_eq!(LeaseAttrs::from_json(&attrs.to_json()).as_ref(), Ok(&attrs));
    for data in attrs.backend_data.iter().chain(&attrs.backend_v6_data) {
        if let Ok(data) = VxlanData::from_json(data) {
            assert_eq!(VxlanData::from_json(&data.to_json()), Ok(data));
        }
    }
});
