//! Docker's own API, asked by the plugin: which networks there are, and one network that is always to be there.

pub mod default_network;
pub mod engine;
