//! Where a replica lives, as a person writes it.

/// A parsed replica URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaUrl {}
