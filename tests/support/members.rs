//! What tests with several processes share, as one module: members of a crew, what they do, the home of their database,
//! and its store, which can fall and rise. A table of contents.

pub mod crew;
pub mod dice;
pub mod hand;
pub mod home;
pub mod ledger;
pub mod memory;
pub mod proxy;
pub mod remote;
pub mod stand_in;
