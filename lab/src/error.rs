//! What can go wrong in the lab; each message names the object and, where there is one, the remedy.

use std::time::Duration;

/// The lab's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something in the lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}; `flannel-lab help` lists what there is")]
    Usage(String),
    /// Docker refused a request or does not answer.
    #[error("Docker: {doing}: {source}")]
    Docker {
        /// What was asked of it.
        doing: String,
        /// Its answer.
        source: bollard::errors::Error,
    },
    /// A command in a container ended with an error.
    #[error("{container}: `{command}` ended with exit code {code}: {output}")]
    Command {
        /// The container it ran in.
        container: String,
        /// The command line.
        command: String,
        /// Its exit code.
        code: i64,
        /// What it said, stderr first.
        output: String,
    },
    /// A program of this machine could not be run or failed.
    #[error("`{command}`: {reason}")]
    Program {
        /// The command line.
        command: String,
        /// Exit code and last lines, or why it could not be started.
        reason: String,
    },
    /// A condition did not come true in time.
    #[error("{what}: not after {} s: {last}", .within.as_secs())]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        within: Duration,
        /// What the last check found.
        last: String,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    State(String),
}

impl From<flannel_testbed::Error> for Error {
    fn from(error: flannel_testbed::Error) -> Self {
        Self::State(error.to_string())
    }
}

impl Error {
    /// For `map_err`: an error of Docker while `doing` something.
    pub fn docker(doing: impl Into<String>) -> impl FnOnce(bollard::errors::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Docker { doing, source }
    }
}
