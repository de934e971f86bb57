//! Limits and defaults by name: every queue, buffer, batch, retry and wait of the engine has one.
//!
//! Values that a person may set stand here as defaults; how they are set is `settings`'s.

use std::time::Duration;

/// Time for a connection to be made, unless the store's patience is shorter.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a byte moving after which a call to a store fails: uploads go on within this time of a fault's end,
/// also where a request is never answered. There is no limit on the whole of a body.
pub const NO_PROGRESS: Duration = Duration::from_secs(10);

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

/// Idle connections kept to one host.
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

/// Bytes of one ranged GET of a stream.
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

/// Threads of a restore, unless the caller says otherwise: each fetches, decodes and writes.
pub const RESTORE_THREADS: usize = 8;
/// Most threads of a restore, whatever a caller says.
pub const MAX_RESTORE_THREADS: usize = 64;

/// Bytes of an LTX file that one thread of a restore fetches at once; smaller files are fetched whole.
pub const RESTORE_PIECE: u64 = 2 << 20;

/// Bytes that a thread of a restore collects before it writes them.
pub const RESTORE_WRITE: usize = 1 << 20;

/// Times that a restore begins anew because a file that it needs was deleted meanwhile.
pub const RESTORE_PLANS: usize = 5;

/// Damaged files that a restore goes around, each by beginning anew.
pub const RESTORE_DETOURS: usize = 100;

/// Files of a replica that somebody complained about and that wait for a second look; what is left out is met again.
pub const DOUBTS: usize = 1000;

/// Segments of a 0.3 replica that are fetched together.
pub const OLDER_BATCH: usize = 64;
/// Bytes of those; a larger segment is streamed by itself.
pub const OLDER_BATCH_BYTES: u64 = 8 << 20;

/// How far a file's time may lie behind its header's before it counts as the time of a copy.
pub const SAME_TIME: Duration = Duration::from_secs(5);

/// Bytes that one frame of an upload hands to the system: how finely progress is seen.
pub const UPLOAD_FRAME: usize = 64 << 10;

/// Bytes of an answer that says no which are read for its code and message.
pub const ERROR_BODY: usize = 64 << 10;

/// Txns that the channel holds; one that finds no room is covered by the next.
pub const CHANNEL_TXNS: usize = 1024;

/// Shortest and longest time between two looks of a worker that nobody calls.
pub const BEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// First and longest pause after a store refused.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Time between two looks at a store that holds what this database never stored.
pub const DIVERGED_LOOK: Duration = Duration::from_secs(30);

/// Time after a put for which the store needs no look before the next one: another writer's files stay as long.
pub const FENCE: Duration = Duration::from_secs(2);

/// Longest time that a validation holds a state of the database still, and its pause between two of those.
pub const VALIDATION_SLICE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(100));

/// Longest time that a validation goes on comparing.
pub const VALIDATION_TIME: Duration = Duration::from_secs(3600);

/// Time between two looks at whether a check of SQLite's should end.
pub const CHECK_LOOK: Duration = Duration::from_millis(50);

/// Steps of such a check between two looks at whether it should rest.
pub const CHECK_STEPS: i32 = 1000;

/// Time that a fork, or the end of the process, waits for such a check to rest.
pub const CHECK_RESTS: Duration = Duration::from_millis(50);

/// Time that a last close, or a fork, waits for such a check to end.
pub const CHECK_ENDS: Duration = Duration::from_secs(1);

/// Times that a validation has SQLite check its copy where something comes between, and the pause after each.
pub const CHECK_TRIES: (u32, Duration) = (5, Duration::from_secs(1));

/// Rows that SQLite's check gives at most, and characters of them that are told.
pub const CHECK_ROWS: (usize, usize) = (10, 600);

/// Memory of the page cache of such a check, in KiB.
pub const CHECK_CACHE: usize = 1024;

/// Threads of a validation's restore.
pub const VALIDATION_THREADS: usize = 2;

/// Time between two looks of a follower for whom somebody waits.
pub const FOLLOWER_LOOK: Duration = Duration::from_millis(10);

/// A pause where a lock was busy.
pub const SHORT: Duration = Duration::from_millis(50);

/// A pause between two readings that disagree.
pub const BLINK: Duration = Duration::from_millis(5);

/// Longest time that a Gate waits for a Segment that is made ahead of it before it makes its own, and the pause between two looks.
pub const AHEAD: Duration = Duration::from_millis(100);
/// See `AHEAD`.
pub const AHEAD_LOOK: Duration = Duration::from_micros(50);

/// First and longest pause between two images where continuity was lost right after one.
pub const IMAGE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Images in vain after which the next one lets go of the database for no connection that closes.
pub const IMAGES_IN_VAIN: u32 = 3;

/// Time at the end of a process that locks of others, or another process's Leader, are waited for.
pub const LEAVING: Duration = Duration::from_secs(2);

/// Time that a connection waits for an image to let go of the database.
pub const GIVE_WAY: Duration = Duration::from_secs(2);

/// Pause between two looks of a connection that waits for a reader in another process.
pub const WAY_LOOK: Duration = Duration::from_micros(200);

/// Pages that a slice of an image copies at least, whoever waits in another process: it would never end otherwise.
pub const PAGES_A_SLICE: u32 = 256;

/// Pages of an image that are read between two looks at whether somebody needs the database.
pub const PAGES_A_LOOK: u32 = 64;

/// Time from the beginning of a reading of ours for which a checkpoint of this process waits for its end.
pub const CHECKPOINT_WAITS: Duration = Duration::from_millis(50);

/// Longest time that a slice of an image holds SHARED in a rollback-journal mode.
pub const SLICE: Duration = Duration::from_millis(30);

/// Pause between two of those slices.
pub const BETWEEN_SLICES: Duration = Duration::from_millis(10);

/// Bytes of the Spool, or the database's size where that is more.
pub const SPOOL: u64 = 256 << 20;

/// Time for which a measurement of the Spool's size holds.
pub const MEASURE_SPOOL: Duration = Duration::from_secs(1);

/// Segments that wait during an outage before they are made into one.
pub const FOLD_SEGMENTS: usize = 64;

/// Commits of a life of the WAL without a Begin at which a proof is looked for.
pub const PROOFS_A_LIFE: u32 = 64;

/// Size of a WAL at which it may be reset although nothing could be saved: continuity is lost, the disk is not.
pub const HARD_WAL: u64 = 4 << 30;

/// Time that an open of a database that is there waits for one look at its replica.
pub const OPEN_LOOK: Duration = Duration::from_secs(1);

/// Default of `sync-interval`.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Default of `open-timeout`.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `shutdown-sync-timeout`.
pub const SHUTDOWN_SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// The usual `save-ahead`: below it a Gate makes its Segment in less time than waking another thread for it takes.
pub const SAVE_AHEAD: u64 = 1 << 20;
/// Default of `levels`: intervals of level 1, 2 and 3.
pub const LEVELS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(300), Duration::from_secs(3600)];
/// Default of `snapshot-interval`.
pub const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Default of `snapshot-retention`.
pub const SNAPSHOT_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Default of `l0-retention`.
pub const L0_RETENTION: Duration = Duration::from_secs(300);

/// Longest time that a file stays after another one made it superfluous, for restores that planned with it.
pub const GRACE: Duration = Duration::from_secs(3600);

/// Files that one compaction of a level merges.
pub const COMPACTION_INPUTS: usize = 256;

/// Files that one snapshot is made of.
pub const SNAPSHOT_INPUTS: usize = 512;

/// What a snapshot and the compacted files above it may be together, in percent of the database, before the next
/// snapshot is made early. Leaves room below the 120 that a restore may read.
pub const RESTORE_PERCENT: u64 = 115;

/// Bytes that a compaction holds of its inputs, all together.
pub const COMPACTION_MEMORY: u64 = 16 << 20;
/// Least and most bytes that a compaction reads of one input at once.
pub const COMPACTION_CHUNK: (u64, u64) = (64 << 10, 1 << 20);

/// Bytes of stored files that are kept locally until the next level is made of them.
pub const KEPT_LOCALLY: u64 = 64 << 20;

/// Bytes that a compaction leaves free on the disk.
pub const DISK_RESERVE: u64 = 256 << 20;

/// First and longest pause after upkeep of the replica failed.
pub const UPKEEP_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
