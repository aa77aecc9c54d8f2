//! The host's packet filter: reads rules, applies what [`flannel_core::filter`] decides, and hears of changes.

use flannel_core::filter::Unreadable;

use crate::program::ProgramError;

pub mod iptables;
pub mod monitor;
pub mod nft;

/// Why rules could not be read or set. That there are no rules is not an error.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The program is missing, failed or did not finish.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It printed something other than rules.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}
