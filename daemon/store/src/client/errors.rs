//! Classifies etcd errors: refused, unreachable, or compacted.

use std::error::Error as _;

use etcd_client::Error as EtcdError;

use crate::leases::StoreError;

/// A refusal; waiting does not make a wrong password right.
pub(super) fn refusal(reason: String) -> StoreError {
    if reason.contains("invalid user ID or password") {
        StoreError::Setup("flags -etcd-username and -etcd-password: etcd does not accept them".into())
    } else if reason.contains("user name is empty") {
        StoreError::Refused(format!("{reason}; give a user by -etcd-username and -etcd-password"))
    } else {
        StoreError::Refused(reason)
    }
}

/// Whether the error says that etcd was not reached or cannot serve now, rather than that it refused.
pub(super) fn is_transport(error: &EtcdError) -> bool {
    match error {
        EtcdError::TransportError(_) | EtcdError::IoError(_) | EtcdError::WatchError(_) | EtcdError::Internal(_) => {
            true
        }
        // Unavailable: not connected, or no leader. Unknown and Internal: the connection broke under the call.
        EtcdError::GRpcStatus(status) => matches!(i32::from(status.code()), 1 | 2 | 4 | 13 | 14),
        _ => false,
    }
}

/// The innermost cause, which is the one that means something ("Connection refused").
pub(super) fn reason(error: &EtcdError) -> String {
    let (mut text, mut cause): (String, Option<&dyn std::error::Error>) = match error {
        EtcdError::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        EtcdError::TransportError(error) => (error.to_string(), error.source()),
        other => (other.to_string(), None),
    };
    while let Some(error) = cause {
        let inner = error.to_string();
        if !inner.is_empty() {
            text = inner;
        }
        cause = error.source();
    }
    text
}

/// Whether etcd has compacted the revision asked for.
pub(super) fn is_compacted(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(reason) if reason.contains("has been compacted"))
}
