//! A deterministic simulation of the engine: the code that ships, under a clock, a store and a SQLite that a seed drives.
#![allow(dead_code)]

pub mod actions;
pub mod app;
pub mod checkpoint;
pub mod history;
pub mod journal;
pub mod machine;
pub mod oracle;
pub mod stage;
pub mod store;
