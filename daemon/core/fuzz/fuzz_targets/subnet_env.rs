//! `subnet.env`. Contract: no panic; what is accepted is written so that it is read back as the same.
#![no_main]

use flannel_core::subnet_env::{PreviousSubnets, SubnetEnv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let previous = PreviousSubnets::parse(text);
    assert!(previous.v4.is_none_or(|net| net == net.trunc()));
    if let Ok(env) = SubnetEnv::parse(text) {
        assert_eq!(SubnetEnv::parse(&env.render()), Ok(env));
    }
});
