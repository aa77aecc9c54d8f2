//! Command lines, a word a line. Contract: no panic; a refusal is one line.
#![no_main]

use flannel_core::flags::{self, Flag, Set};
use libfuzzer_sys::fuzz_target;

const TABLE: &[Flag<()>] = &[
    Flag { name: "text", set: Set::Text(|_, _| {}), default: "", help: "" },
    Flag { name: "list", set: Set::List(|_, _| {}), default: "", help: "" },
    Flag { name: "on", set: Set::Bool(|_, _| {}), default: "", help: "" },
    Flag { name: "number", set: Set::Int(|_, _| {}), default: "", help: "" },
];

fuzz_target!(|text: &str| {
    let words = text.split('\n').map(str::to_owned);
    if let Err(stop) = flags::parse(TABLE, &mut (), words, "X", |_| Some(text.to_owned())) {
        assert!(!stop.to_string().contains('\n'));
    }
});
