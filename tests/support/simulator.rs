//! A replica of sizes only, under a false clock: the real decisions of compaction, snapshots and retention drive it.
//!
//! Each commit changes a few pages that always change and some at random places. How large a merged file is follows
//! from how many different pages its commits change on average. Pages count as if they did not compress.
#![allow(dead_code)] // the example and the test use their own parts of this

use litestream_engine::clock::Time;
use litestream_engine::due::{Due, Merge, Schedule, Work, due};
use litestream_engine::limits::{
    COMPACTION_CHUNK, COMPACTION_MEMORY, KEPT_LOCALLY, MAX_PARTS, PART, SINGLE_PUT, STREAM_CHUNK,
};
use litestream_engine::ltx::{FileInfo, Level, Span, Txid};
use litestream_engine::manifest::{Manifest, Proof};
use litestream_engine::plan::{Target, plan};
use litestream_engine::retention;
use std::collections::BTreeMap;

const PAGE: f64 = 4096.0;
/// Header of a page, its entry in the index.
const PER_PAGE: f64 = 10.0 + 10.0;
const PER_FILE: f64 = 100.0 + 6.0 + 9.0 + 16.0;
/// Pages that every commit changes, and those that it changes anywhere.
const HOT: f64 = 2.0;
const ANYWHERE: f64 = 1.0;

pub const HOUR: i64 = 3_600_000;
pub const DAY: i64 = 24 * HOUR;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scene {
    pub name: &'static str,
    /// Bytes of the database.
    pub database: u64,
    /// Milliseconds between two commits, and commits that one raw file holds (`sync-interval`).
    pub pace: i64,
    pub together: u64,
    pub days: i64,
    pub schedule: Schedule,
}

/// What was sent and fetched.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub puts: u64,
    pub gets: u64,
    /// LIST and HEAD; LIST costs what a PUT costs.
    pub lists: u64,
    pub heads: u64,
    pub deletes: u64,
    pub uploaded: u64,
    pub fetched: u64,
}

impl Traffic {
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.lists + self.heads + self.deletes
    }

    fn since(&self, earlier: &Traffic) -> Traffic {
        Traffic {
            puts: self.puts - earlier.puts,
            gets: self.gets - earlier.gets,
            lists: self.lists - earlier.lists,
            heads: self.heads - earlier.heads,
            deletes: self.deletes - earlier.deletes,
            uploaded: self.uploaded - earlier.uploaded,
            fetched: self.fetched - earlier.fetched,
        }
    }
}

/// What it came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub objects: usize,
    pub stored: u64,
    /// The most that was stored at any hour after the first week.
    pub stored_most: u64,
    pub snapshots: usize,
    /// Average of a day, over the days after the first week.
    pub day: Traffic,
    /// What a restore reads, in bytes: at the end, and the most at any hour.
    pub restore: u64,
    pub restore_files: usize,
    pub restore_most: u64,
    /// Whole copies that were uploaded in the first hour, the first image included.
    pub copies_in_first_hour: usize,
    /// Files that were read for no other reason than to prove them, while it was written to.
    pub proofs: u64,
    /// Requests after everything due was done and nothing was written for ten days.
    pub idle_requests: u64,
    /// Most requests between two commits of the last hour.
    pub manifest: Manifest,
}

struct World {
    scene: Scene,
    manifest: Manifest,
    kept: BTreeMap<(Level, Span), u64>,
    now: Time,
    traffic: Traffic,
    copies: usize,
    proofs: u64,
}

impl World {
    fn pages(&self) -> f64 {
        self.scene.database as f64 / PAGE
    }

    fn size(&self, level: Level, span: Span) -> u64 {
        let all = self.pages();
        let commits = ((span.max.0 - span.min.0 + 1) * self.scene.together) as f64;
        let pages = if level == Level::SNAPSHOT {
            all
        } else {
            (HOT + all * (1.0 - (1.0 - 1.0 / all).powf(commits * ANYWHERE))).min(all)
        };
        (PER_FILE + pages * (PAGE + PER_PAGE)) as u64
    }

    fn put(&mut self, level: Level, span: Span, created: Time) -> u64 {
        let size = self.size(level, span);
        let parts = size.div_ceil(PART.max(size.div_ceil(MAX_PARTS)));
        if size <= SINGLE_PUT {
            self.traffic.puts += 1;
        } else {
            self.traffic.puts += parts + 2;
            self.traffic.heads += 1;
        }
        self.traffic.uploaded += size;
        self.copies += usize::from(level == Level::SNAPSHOT);
        self.manifest.add(FileInfo { level, span, size, listed: created }, self.now);
        let local: u64 = self.kept.values().sum();
        if level < self.scene.schedule.top() && local + size <= KEPT_LOCALLY {
            self.kept.insert((level, span), size);
        }
        size
    }

    fn upkeep(&mut self) -> Due {
        loop {
            match due(&self.manifest, &self.scene.schedule, self.scene.database, &[], self.now) {
                Due::Now(Work::Merge(merge)) => self.merge(&merge),
                Due::Now(Work::Delete(files)) => {
                    if self.traffic.deletes.is_multiple_of(50) {
                        retention::check(&self.manifest, &files).expect("what stays restores the newest state");
                    }
                    self.traffic.deletes += 1;
                    self.manifest.remove(&files);
                }
                Due::Now(Work::Prove(file)) => {
                    self.traffic.gets += file.size.div_ceil(STREAM_CHUNK);
                    self.traffic.fetched += file.size;
                    self.proofs += 1;
                    self.manifest.judge((file.level, file.span), Proof::Sound);
                }
                other => return other,
            }
        }
    }

    fn merge(&mut self, merge: &Merge) {
        let inputs = &merge.inputs;
        let (least, most) = COMPACTION_CHUNK;
        let chunk = (COMPACTION_MEMORY / inputs.len() as u64).clamp(least, most);
        let largest = inputs.iter().map(|info| info.size).max().expect("a merge has inputs");
        for info in inputs.iter().filter(|info| !self.kept.contains_key(&(info.level, info.span))) {
            let at_once = if info.size == largest && info.size > most { STREAM_CHUNK } else { chunk };
            self.traffic.gets += info.size.div_ceil(at_once);
            self.traffic.fetched += info.size;
            self.manifest.judge((info.level, info.span), Proof::Sound);
        }
        let last = inputs.last().expect("a merge has inputs");
        let span = Span { min: inputs[0].span.min, max: last.span.max };
        self.put(merge.level, span, last.listed);
        if merge.level != Level::SNAPSHOT {
            let below = Level::new(merge.level.get() - 1).expect("one less than a level above 0");
            self.kept.retain(|(level, kept), _| *level != below || kept.max > span.max);
        }
    }

    fn restore(&self) -> (u64, usize) {
        let files: Vec<FileInfo> = self.manifest.files().map(|held| held.info.clone()).collect();
        let plan = plan(&files, Target::Latest).expect("the newest state restores");
        (plan.bytes(), plan.files.len())
    }
}

/// Runs it.
pub fn run(scene: Scene) -> Outcome {
    let start = Time(1_790_000_000_000 / DAY * DAY + 23 * HOUR + HOUR / 2);
    let mut world = World {
        scene,
        manifest: Manifest::default(),
        kept: BTreeMap::new(),
        now: start,
        traffic: Traffic { lists: 10, ..Traffic::default() },
        copies: 0,
        proofs: 0,
    };
    world.put(Level::SNAPSHOT, Span::one(Txid(1)), start);
    world.put(Level::RAW, Span::one(Txid(2)), start);
    let mut txid = Txid(2);
    let pace = world.scene.pace * world.scene.together as i64;
    let mut commit = Time(start.0 + pace);
    let end = Time(start.0 + world.scene.days * DAY);
    let week = Time(start.0 + 7 * DAY);
    let (mut hour, mut restore_most, mut stored_most, mut copies_in_first_hour) = (start, 0, 0, 0);
    let mut before = world.traffic;
    loop {
        let next = match world.upkeep() {
            Due::At(time) => commit.min(time),
            _ => commit,
        };
        if world.now.0 - hour.0 >= HOUR {
            if hour == start {
                copies_in_first_hour = world.copies;
            }
            if hour <= week && world.now > week {
                before = world.traffic;
            }
            hour = world.now;
            restore_most = world.restore().0.max(restore_most);
            if hour > week {
                stored_most = stored_most.max(world.manifest.files().map(|held| held.info.size).sum());
            }
        }
        if next > end {
            break;
        }
        world.now = next.max(world.now);
        if next == commit {
            txid = txid.next();
            world.put(Level::RAW, Span::one(txid), commit);
            commit.0 += pace;
        }
    }
    let since = world.traffic.since(&before);
    let days = (world.scene.days - 7) as u64;
    let day = Traffic {
        puts: since.puts / days,
        gets: since.gets / days,
        lists: since.lists / days,
        heads: since.heads / days,
        deletes: since.deletes / days,
        uploaded: since.uploaded / days,
        fetched: since.fetched / days,
    };
    let (restore, restore_files) = world.restore();
    let objects = world.manifest.files().count();
    let stored = world.manifest.files().map(|held| held.info.size).sum();
    let snapshots = world.manifest.snapshots().count();
    let proofs = world.proofs;
    let idle_requests = idle(&mut world);
    Outcome {
        objects,
        stored,
        stored_most,
        snapshots,
        day,
        restore,
        restore_files,
        restore_most,
        copies_in_first_hour,
        proofs,
        idle_requests,
        manifest: world.manifest,
    }
}

/// Nothing is written any more: what is due is done, and after ten days nothing may be asked for.
fn idle(world: &mut World) -> u64 {
    let quiet = Time(world.now.0 + 10 * DAY);
    while let Due::At(time) = world.upkeep() {
        if time > quiet {
            break;
        }
        world.now = time.max(world.now);
    }
    world.now = Time(quiet.0 + 1);
    let before = world.traffic.requests();
    for _ in 0..30 {
        world.upkeep();
        world.now.0 += DAY;
    }
    world.traffic.requests() - before
}
