//! The wire: JSON bodies as Docker's Go programs write and read them.
//!
//! Field names are Go's (`NetworkID`, not `NetworkId`), a missing list may be `null`, and fields nobody told us of
//! are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

pub mod ipam;
pub mod network;
pub mod repair;

/// What we are, in answer to `/Plugin.Activate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Activate {
    /// The roles.
    pub implements: [&'static str; 2],
}

/// An answer that says nothing but yes.
#[derive(Debug, Default, Serialize)]
pub struct Empty {}

/// Free-form options.
pub type Options = BTreeMap<String, serde_json::Value>;

/// Go writes an empty list or map as `null` now and then.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
