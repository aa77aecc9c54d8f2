//! Options of `extension`.

use super::Fields;

/// Options of `extension`: command lines for `sh -c`, empty for nothing to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// `PreStartupCommand`: run before the lease is taken; its output is what the lease tells the other hosts.
    pub pre_startup: String,
    /// `PostStartupCommand`: run once the lease is there.
    pub post_startup: String,
    /// `SubnetAddCommand`: run for each remote lease that comes.
    pub subnet_add: String,
    /// `SubnetRemoveCommand`: run for each remote lease that goes.
    pub subnet_remove: String,
}

impl Extension {
    /// Reads the options.
    pub fn read(fields: &mut Fields<'_>) -> Self {
        let mut command = |name: &str| fields.get(name, "a command line in a text", String::new());
        Self {
            pre_startup: command("PreStartupCommand"),
            post_startup: command("PostStartupCommand"),
            subnet_add: command("SubnetAddCommand"),
            subnet_remove: command("SubnetRemoveCommand"),
        }
    }
}
