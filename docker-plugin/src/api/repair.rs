//! The one method that is not Docker's: `flannel-docker doctor -fix` has the running plugin repair what it can.

use serde::{Deserialize, Serialize};

/// Its name.
pub const METHOD: &str = "FlannelDocker.Repair";

/// Its answer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Repaired {
    /// What was repaired.
    pub done: Vec<String>,
    /// What could not be repaired, and why.
    pub left: Vec<String>,
}
