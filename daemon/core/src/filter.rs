//! Packet-filter rules as data: rendered to text, compared with what the kernel lists, and repaired.
//!
//! Nothing here runs a program. A caller reads the kernel's rules ([`iptables::Saved`], [`nft::Listing`]), asks what
//! [differs](iptables::Chain::differences) or what text would [repair](iptables::Chain::repair) it, and hands that text
//! to `iptables-restore` or `nft`, which apply it as one transaction.
//!
//! A rule of iptables is recognised by its full text, since `iptables-save` prints rules in one canonical form. How
//! `nft` words a rule depends on its version, so each of our nft rules carries a digest of its own text as a comment.

pub mod iptables;
pub mod network;
pub mod nft;
pub mod recheck;

/// FNV-1a: short, and the same in every run and version.
pub fn digest(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Output of a program that is neither a list of rules nor the absence of one. Acting on it would duplicate or remove
/// rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// iptables refuses to show a table that another program filled through nftables.
    #[error(
        "iptables cannot read table {table}, which holds nftables rules it does not know; remove them, or move them to \
         a table of their own"
    )]
    Incompatible {
        /// The table.
        table: String,
    },
    /// The list has no end.
    #[error("the list of table {table} is truncated")]
    Truncated {
        /// The table.
        table: String,
    },
    /// Something else was printed.
    #[error("not a list of table {table}: \"{line}\"")]
    Unexpected {
        /// The table.
        table: String,
        /// The first line that does not belong there.
        line: String,
    },
}
