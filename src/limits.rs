//! Limits and defaults by name: every queue, buffer, batch, retry and wait of the engine has one.
//!
//! Values that a person may set stand here as defaults; how they are set is `settings`'s.

use std::time::Duration;

/// Time for a connection to be made, unless the store's patience is shorter.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a byte moving after which a call to a store fails. There is no limit on the whole of a body.
pub const NO_PROGRESS: Duration = Duration::from_secs(15);

/// Bytes that the system may hold in its own buffers while an upload seems to stand still.
pub const SEND_BUFFER: u64 = 4 << 20;

/// Bytes a second of the slowest line that an upload must survive.
pub const SLOWEST_LINE: u64 = 64 << 10;

/// Times that one request is sent again inside a call. The worker's own backoff comes after that.
pub const REQUEST_RETRIES: usize = 2;

/// First and longest pause between those.
pub const REQUEST_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Time for one answer of a machine's own metadata service (credentials).
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads of the runtime for name lookups, which block.
pub const BLOCKING_THREADS: usize = 2;

/// Idle connections kept to one host, and for how long.
pub const IDLE_CONNECTIONS: usize = 8;
/// How long an idle connection is kept.
pub const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Largest object that is put as one request.
pub const SINGLE_PUT: u64 = 8 << 20;

/// Bytes of a part above that: the least that S3 takes.
pub const PART: u64 = 5 << 20;

/// Parts of one object: S3's own limit. A larger object gets larger parts.
pub const MAX_PARTS: u64 = 10_000;

/// Parts of one upload in flight.
pub const PARTS_IN_FLIGHT: usize = 2;

/// Bytes of one ranged GET of a stream, and how many run ahead of the reader.
pub const STREAM_CHUNK: u64 = 2 << 20;
/// Ranged GETs of one stream that run ahead of its reader.
pub const STREAM_AHEAD: usize = 4;

/// Times in a row that a stream takes up the same chunk again without having got one byte of it.
pub const STREAM_RETRIES: u32 = 4;
/// First pause of those; doubles each time.
pub const STREAM_BACKOFF: Duration = Duration::from_millis(250);

/// Objects deleted in one request, where the store has batches.
pub const DELETE_BATCH: usize = 1000;

/// Buffer for files read or compared from the start.
pub const FILE_BUFFER: usize = 128 << 10;

/// Age after which a temporary file is removed where nobody can say whether its writer lives.
pub const STALE_TEMPORARY: Duration = Duration::from_secs(24 * 3600);

/// Bytes that one frame of an upload hands to the system: how finely progress is seen.
pub const UPLOAD_FRAME: usize = 64 << 10;

/// Bytes of an answer that says no which are read for its code and message.
pub const ERROR_BODY: usize = 64 << 10;

/// Default of `sync-interval`.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Default of `open-timeout`.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `shutdown-sync-timeout`.
pub const SHUTDOWN_SYNC_TIMEOUT: Duration = Duration::from_secs(30);
