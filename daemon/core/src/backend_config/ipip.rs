//! Options of `ipip`.

use super::Fields;

/// Options of `ipip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipip {
    /// Plain routes to hosts of the same link, the tunnel only to the others.
    pub direct_routing: bool,
}

impl Ipip {
    /// Reads the options.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        Self { direct_routing: fields.get("DirectRouting", "true or false", false) }
    }
}
