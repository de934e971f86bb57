//! What is recorded in tests of power loss: workloads as steps for tests/support/driver.py, and what SQLite promises in
//! each for a commit that returned.

/// What SQLite promises for a commit that returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It is there.
    Kept,
    /// It is there, but the very last may be undone: the deletion of its journal is not synced.
    AllButLast,
    /// Only that what is there is a prefix; what was stored before was made durable by us.
    Prefix,
    /// Nothing: with `synchronous=OFF` the database may be corrupt after it. What was called stored was made durable by us.
    Nothing,
}

pub struct Workload {
    pub name: &'static str,
    pub promise: Promise,
    pub interval: &'static str,
    /// Steps that run, unrecorded, in another folder, and leave a replica behind.
    pub earlier: Option<&'static str>,
    pub steps: &'static str,
}

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "wal-normal",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"],
            ["n", 40, 0.004], ["sync"], ["n", 12, 0], ["sql", "PRAGMA wal_checkpoint(TRUNCATE)"], ["n", 15, 0.004], ["sync"], ["n", 3, 0]]"#,
    },
    Workload {
        name: "wal-full",
        promise: Promise::Kept,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=FULL"],
            ["sql", "PRAGMA wal_autocheckpoint=25"], ["begin"], ["n", 40, 0.004], ["sync"], ["n", 20, 0.002], ["close"],
            ["open"], ["sql", "PRAGMA synchronous=FULL"], ["n", 10, 0.004], ["sync"]]"#,
    },
    Workload {
        name: "wal-resets",
        promise: Promise::Prefix,
        interval: "60ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"],
            ["sql", "PRAGMA wal_autocheckpoint=6"], ["begin"], ["sync"], ["n", 90, 0.003], ["sync"], ["n", 30, 0.001], ["close"]]"#,
    },
    // What is stored ends where a life ends; the next lives change no size, so that only times tell the states apart.
    Workload {
        name: "wal-lives",
        promise: Promise::Prefix,
        interval: "1s",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["times", 8, [
            ["small", 3, 0.005], ["sync"], ["sql", "PRAGMA wal_checkpoint"], ["small", 2, 0.005], ["sql", "PRAGMA wal_checkpoint"],
            ["small", 2, 0.005], ["sql", "PRAGMA wal_checkpoint"], ["small", 1, 0.005]]]]"#,
    },
    // Closed again and again, sometimes long enough to come to rest; nothing changes the size, so only times tell.
    Workload {
        name: "wal-rests",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["begin"], ["sync"], ["close"], ["wait", 0.15], ["times", 6, [
            ["open"], ["small", 2, 0.003], ["sql", "PRAGMA wal_checkpoint"], ["small", 2, 0.003], ["close"], ["wait", 0.15],
            ["open"], ["small", 1, 0], ["close"]]], ["wait", 0.15], ["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["small", 2, 0.01],
            ["close"], ["open"], ["sql", "PRAGMA journal_mode=WAL"], ["small", 3, 0.01], ["close"], ["wait", 0.15]]"#,
    },
    // A close saves a Segment before SQLite has synced the WAL.
    Workload {
        name: "wal-closes",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["begin"], ["sync"], ["close"], ["times", 10, [
            ["open"], ["sql", "PRAGMA synchronous=NORMAL"], ["n", 3, 0.002], ["close"]]],
            ["open"], ["sql", "PRAGMA synchronous=NORMAL"], ["n", 3, 0], ["sync"], ["n", 3, 0], ["close"]]"#,
    },
    Workload {
        name: "vacuum",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["n", 20, 0.002], ["sync"],
            ["sql", "UPDATE log SET pad = x''"], ["sql", "VACUUM"], ["n", 5, 0.004], ["sync"], ["sql", "VACUUM"], ["n", 5, 0.002], ["sql", "PRAGMA wal_checkpoint(TRUNCATE)"],
            ["n", 3, 0.002], ["close"]]"#,
    },
    Workload {
        name: "modes",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA synchronous=FULL"], ["begin"], ["times", 3, [["sql", "PRAGMA journal_mode=WAL"], ["n", 4, 0.003],
            ["sql", "PRAGMA journal_mode=DELETE"], ["n", 4, 0.003], ["sql", "PRAGMA journal_mode=TRUNCATE"], ["n", 3, 0.002], ["sync"]]],
            ["sql", "PRAGMA journal_mode=WAL"], ["n", 3, 0], ["close"]]"#,
    },
    Workload {
        name: "delete-full",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["sql", "PRAGMA synchronous=FULL"], ["begin"],
            ["n", 30, 0.004], ["sync"], ["n", 20, 0.001], ["close"], ["open"], ["sql", "PRAGMA synchronous=FULL"], ["n", 10, 0.004], ["sync"]]"#,
    },
    // Not with NORMAL: SQLite says itself that a rollback journal is then not safe against a loss of power.
    Workload {
        name: "truncate-full",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=TRUNCATE"], ["sql", "PRAGMA synchronous=FULL"], ["begin"],
            ["n", 20, 0.004], ["sync"], ["n", 10, 0.001], ["sql", "PRAGMA journal_mode=PERSIST"], ["n", 20, 0.004], ["sync"]]"#,
    },
    Workload {
        name: "wal-exclusive",
        promise: Promise::Kept,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA locking_mode=EXCLUSIVE"], ["sql", "PRAGMA journal_mode=WAL"],
            ["sql", "PRAGMA synchronous=FULL"], ["sql", "PRAGMA wal_autocheckpoint=12"], ["begin"], ["n", 30, 0.004], ["sync"],
            ["n", 10, 0.002], ["close"]]"#,
    },
    Workload {
        name: "first-image",
        promise: Promise::Kept,
        interval: "10ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=FULL"], ["begin"], ["n", 4, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "image-of-wal",
        promise: Promise::Prefix,
        interval: "10ms",
        earlier: None,
        steps: r#"[["plain"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["n", 30, 0],
            ["open"], ["sql", "PRAGMA synchronous=NORMAL"], ["n", 4, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "image-of-delete",
        promise: Promise::AllButLast,
        interval: "10ms",
        earlier: None,
        steps: r#"[["plain"], ["sql", "PRAGMA journal_mode=DELETE"], ["begin"], ["n", 10, 0], ["open"], ["n", 6, 0.02], ["sync"]]"#,
    },
    Workload {
        name: "restore",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: Some(
            r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["begin"], ["n", 20, 0.002], ["sync"], ["n", 20, 0.002], ["sync"], ["close"]]"#,
        ),
        steps: r#"[["open"], ["n", 10, 0.005], ["sync"], ["sql", "PRAGMA wal_checkpoint(RESTART)"], ["n", 5, 0.005], ["close"]]"#,
    },
    // SQLite syncs nothing: what a checkpoint wrote may be lost with the WAL that held it.
    Workload {
        name: "wal-off",
        promise: Promise::Nothing,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=OFF"], ["sql", "PRAGMA wal_autocheckpoint=8"],
            ["begin"], ["n", 30, 0.004], ["sync"], ["n", 10, 0], ["sql", "PRAGMA wal_checkpoint(TRUNCATE)"], ["n", 15, 0.004], ["sync"],
            ["n", 3, 0], ["close"]]"#,
    },
    Workload {
        name: "delete-off",
        promise: Promise::Nothing,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["sql", "PRAGMA synchronous=OFF"], ["begin"], ["n", 30, 0.004], ["sync"],
            ["n", 20, 0.001], ["close"], ["open"], ["sql", "PRAGMA synchronous=OFF"], ["n", 10, 0.004], ["sync"]]"#,
    },
    // Whoever leads stores what the other commits; the Leader leaves, and the other takes over.
    Workload {
        name: "wal-two",
        promise: Promise::Prefix,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=WAL"], ["sql", "PRAGMA synchronous=NORMAL"], ["begin"], ["n", 8, 0.004],
            ["other", [["open"], ["sql", "PRAGMA synchronous=NORMAL"], ["n", 8, 0.004]]], ["sync"], ["n", 5, 0.002],
            ["other", [["n", 8, 0.002], ["sql", "PRAGMA wal_checkpoint"], ["n", 4, 0], ["sync"]]], ["n", 8, 0.004],
            ["sql", "PRAGMA wal_checkpoint(TRUNCATE)"], ["other", [["n", 6, 0.003]]], ["n", 3, 0], ["close"],
            ["other", [["n", 8, 0.004], ["sync"], ["n", 2, 0]]], ["open"], ["n", 4, 0.004], ["other", [["close"]]], ["n", 4, 0.004], ["sync"]]"#,
    },
    Workload {
        name: "delete-two",
        promise: Promise::AllButLast,
        interval: "20ms",
        earlier: None,
        steps: r#"[["open"], ["sql", "PRAGMA journal_mode=DELETE"], ["sql", "PRAGMA synchronous=FULL"], ["begin"], ["n", 5, 0.004],
            ["other", [["open"], ["sql", "PRAGMA synchronous=FULL"], ["n", 6, 0.004]]], ["sync"], ["n", 6, 0.002],
            ["other", [["n", 6, 0], ["sync"], ["n", 3, 0]]], ["close"], ["other", [["n", 6, 0.004], ["sync"]]]]"#,
    },
];
