//! Compaction, snapshots and retention against a naive model: a list of every state that was ever committed.
//!
//! The real decisions, the real merge and the real restore work on a replica in a folder; only the clock is false, and
//! the process dies where a seed says, between any two calls to the store. The live extension is in `tests/upkeep.rs`.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/dice.rs"]
mod dice;

use dice::Dice;
use litestream_engine::clock::Time;
use litestream_engine::compactor::{self, Inputs};
use litestream_engine::due::{Due, Merge, Remedy, Schedule, Work, due, remedy};
use litestream_engine::error::Error;
use litestream_engine::ltx::{Encoder, FileInfo, Header, Level, Span, Txid};
use litestream_engine::manifest::{Manifest, Proof};
use litestream_engine::page::{PageSize, Pgno};
use litestream_engine::plan::{Plan, Target, plan};
use litestream_engine::restore::{self, Options};
use litestream_engine::retention;
use litestream_engine::store::{Body, Io, ReplicaUrl, Store};
use litestream_engine::verify;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;

/// One committed state.
struct State {
    txid: Txid,
    time: Time,
    image: Vec<u8>,
}

/// A database, its replica, and all that it ever was.
struct World {
    seed: u64,
    dice: Dice,
    folder: TempDir,
    store: Store,
    schedule: Schedule,
    manifest: Manifest,
    now: Time,
    page_size: PageSize,
    states: Vec<State>,
    log: Vec<String>,
    /// Plans of restores that began at a time and are still at work.
    restores: Vec<(Time, Plan)>,
    crashed: bool,
    /// Files that were damaged behind its back.
    hit: usize,
}

const SECOND: i64 = 1000;

impl World {
    fn new(seed: u64, schedule: Schedule) -> World {
        let folder = tempfile::tempdir().unwrap();
        let url = ReplicaUrl::parse(folder.path().join("replica").to_str().unwrap()).unwrap();
        let mut world = World {
            seed,
            dice: Dice::new(seed),
            store: Store::open(&url, &|_| None, &Io::new()).unwrap(),
            folder,
            schedule,
            manifest: Manifest::default(),
            now: Time(1_790_000_000_000),
            page_size: PageSize::new(512).unwrap(),
            states: Vec::new(),
            log: Vec::new(),
            restores: Vec::new(),
            crashed: false,
            hit: 0,
        };
        world.now.0 += world.dice.below(7_200_000) as i64;
        world.commit();
        world.commit();
        world
    }

    fn story(&self) -> String {
        let files: Vec<String> = self
            .manifest
            .files()
            .map(|held| format!("  {} {} {}", held.info.level, held.span().file_name(), held.created().0))
            .collect();
        format!("seed {} at {}\n{}\n{}", self.seed, self.now.0, self.log.join("\n"), files.join("\n"))
    }

    /// A transaction: some pages change, the database grows or shrinks. The first is a snapshot, the next ones are raw.
    fn commit(&mut self) {
        let size = self.page_size.bytes();
        let mut image = self.states.last().map(|state| state.image.clone()).unwrap_or_default();
        let before = (image.len() / size) as u32;
        let commit = match self.dice.below(6) {
            _ if before == 0 => 6,
            0 => before + self.dice.below(6) as u32,
            1 => (before - self.dice.below(6).min(u64::from(before) - 1) as u32).max(1),
            _ => before,
        };
        image.resize(commit as usize * size, 0);
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let changed = if before == 0 { u64::from(commit) * 4 } else { self.dice.below(4) };
        let mut changes: Vec<u32> = (before.min(commit) + 1..=commit).collect();
        changes.extend((0..changed).map(|_| 1 + self.dice.below(u64::from(commit)) as u32));
        for pgno in changes {
            let page: Vec<u8> = (0..size).map(|_| self.dice.below(256) as u8).collect();
            image[(pgno as usize - 1) * size..][..size].copy_from_slice(&page);
            pages.insert(pgno, page);
        }
        let txid = Txid(self.states.len() as u64 + 1);
        let last = self.states.last().map_or(Time(0), |state| state.time);
        let time = self.now.max(Time(last.0 + 1));
        self.now = time;
        let level = if txid == Txid(1) { Level::SNAPSHOT } else { Level::RAW };
        let header = Header::new(self.page_size, commit, Span::one(txid), time);
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        pages.iter().for_each(|(pgno, page)| encoder.page(Pgno(*pgno), page).unwrap());
        let (bytes, size) = encoder.finish().unwrap();
        self.store.put(level, Span::one(txid), time, Body::Bytes(bytes.into())).unwrap();
        self.manifest.add(FileInfo { level, span: Span::one(txid), size, listed: time }, time);
        self.states.push(State { txid, time, image });
    }

    /// `None` where an input turned out damaged.
    fn merge(&mut self, merge: &Merge) -> Option<compactor::Merged> {
        let doubted = Cell::new(None);
        let doubt = |info: &FileInfo| doubted.set(Some((info.level, info.span)));
        let inputs = Inputs { store: &self.store, local: &|_| None, go_on: &|| Ok(()), doubt: &doubt };
        let out = self.folder.path().join("merged");
        let _ = std::fs::remove_file(&out);
        match (compactor::merge(&inputs, merge, &out), doubted.get()) {
            (Ok(merged), _) => Some(merged),
            (Err(Error::Corrupt(_)), Some(file)) if self.hit > 0 => {
                self.manifest.judge(file, Proof::Doubted);
                None
            }
            (Err(e), _) => panic!("{e}: {merge:?}: {}", self.story()),
        }
    }

    /// One thing that is due; the process may die before it, in it, or before it knows that it is done.
    fn upkeep(&mut self, may_crash: bool) -> bool {
        let database = self.states.last().unwrap().image.len() as u64;
        let Due::Now(work) = due(&self.manifest, &self.schedule, database, &[], self.now) else { return false };
        let crash = if may_crash { self.dice.below(8) } else { 9 };
        match work {
            Work::Merge(merge) => {
                let Some(merged) = self.merge(&merge) else { return true };
                self.log.push(format!("merge to {} {} crash {crash}", merge.level, merged.header.span.file_name()));
                if crash > 0 {
                    compactor::put(&self.store, merge.level, &merged)
                        .unwrap_or_else(|e| panic!("{e}: {}", self.story()));
                }
                if crash > 1 {
                    let read = merge.inputs[merged.inputs.clone()].iter();
                    read.for_each(|info| self.manifest.judge((info.level, info.span), Proof::Sound));
                    self.manifest.add(merged.info(merge.level), self.now);
                }
            }
            Work::Prove(file) => {
                let proof = match verify::prove(&self.store, &file, &|| Ok(())) {
                    Ok(()) => Proof::Sound,
                    Err(Error::Corrupt(_)) if self.hit > 0 => Proof::Damaged,
                    Err(e) => panic!("{e}: {}", self.story()),
                };
                self.log.push(format!("{} {} is {proof:?}", file.level, file.span.file_name()));
                self.manifest.judge((file.level, file.span), proof);
            }
            Work::Delete(files) => {
                let before = (self.hit > 0).then(|| self.around());
                retention::check(&self.manifest, &files).unwrap_or_else(|e| panic!("{e}: {}", self.story()));
                let done = if crash > 1 { files.len() } else { self.dice.below(files.len() as u64 + 1) as usize };
                self.log.push(format!("delete {done} of {files:?}"));
                retention::delete(&self.store, &files[..done]).unwrap();
                if crash > 1 {
                    self.manifest.remove(&files);
                }
                if crash <= 1 {
                    self.die();
                }
                match before {
                    None => self.check_everything(),
                    Some(None) => {}
                    Some(before) => assert_eq!(self.around(), before, "a deletion took it away: {}", self.story()),
                }
            }
        }
        if crash <= 1 {
            self.die();
        }
        true
    }

    /// What the database does for a replica with damaged files.
    fn mend(&mut self) -> bool {
        match remedy(&self.manifest) {
            Remedy::Nothing => return false,
            Remedy::Transaction => self.commit(),
            Remedy::Image => {
                self.log.push("image".into());
                let State { txid, image, .. } = self.states.last().unwrap();
                let (txid, image) = (txid.next(), image.clone());
                self.now.0 += 1;
                for (level, min) in [(Level::RAW, txid), (Level::SNAPSHOT, Txid(1))] {
                    let commit = (image.len() / self.page_size.bytes()) as u32;
                    let header = Header::new(self.page_size, commit, Span { min, max: txid }, self.now);
                    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
                    let pages = (1..).map(Pgno).zip(image.chunks(self.page_size.bytes()));
                    pages.for_each(|(pgno, page)| encoder.page(pgno, page).unwrap());
                    let (bytes, size) = encoder.finish().unwrap();
                    self.store.put(level, header.span, self.now, Body::Bytes(bytes.into())).unwrap();
                    self.manifest.add(FileInfo { level, span: header.span, size, listed: self.now }, self.now);
                }
                self.states.push(State { txid, time: self.now, image });
            }
        }
        true
    }

    /// Time passes, and all that is due is done.
    fn wait(&mut self, time: Duration) {
        let end = Time(self.now.0 + time.as_millis() as i64);
        let mut steps = 0;
        loop {
            while self.mend() || self.upkeep(false) {
                steps += 1;
                assert!(steps < 2000, "it does not end: {}", self.story());
            }
            match due(&self.manifest, &self.schedule, 0, &[], self.now) {
                Due::At(time) if time <= end => self.now = time,
                _ => return,
            }
        }
    }

    /// A byte of a stored file turns.
    fn damage(&mut self, only_snapshots: bool) {
        let files: Vec<FileInfo> =
            self.listing().into_iter().filter(|file| !only_snapshots || file.level == Level::SNAPSHOT).collect();
        // The newer, the more depends on it.
        let newest = files.len() - 1 - (self.dice.below(3) as usize).min(files.len() - 1);
        let file = &files[newest];
        let path = self.folder.path().join(format!("replica/ltx/{}/{}", file.level, file.span.file_name()));
        let (mut bytes, time) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
        let at = self.dice.below(bytes.len() as u64) as usize;
        bytes[at] ^= 0x20;
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        self.hit += 1;
        self.log.push(format!("damage to {} {} at {}", file.level, file.span.file_name(), self.now.0));
    }

    /// Where a restore that goes around damage ends.
    fn around(&self) -> Option<Txid> {
        let out = self.folder.path().join("around.db");
        let options = Options { parallelism: 1, around_damage: true, ..Options::default() };
        let restored = restore::run(&self.store, Target::Latest, &out, options).ok()?;
        let image = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        assert!(image == self.states[restored.txid().0 as usize - 1].image, "other pages: {}", self.story());
        Some(restored.txid())
    }

    /// The next Leader knows what a listing says.
    fn die(&mut self) {
        self.log.push("crash".into());
        self.crashed = true;
        self.manifest = Manifest::learnt(self.listing());
    }

    fn listing(&self) -> Vec<FileInfo> {
        Level::all().flat_map(|level| self.store.list(level).unwrap()).collect()
    }

    /// The state that a restore gives.
    fn restored(&self, target: Target) -> Txid {
        let out = self.folder.path().join("restored.db");
        let options = Options { parallelism: 1, ..Options::default() };
        let restored = restore::run(&self.store, target, &out, options)
            .unwrap_or_else(|e| panic!("{target:?}: {e}: {}", self.story()));
        let image = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let state = &self.states[restored.txid().0 as usize - 1];
        assert!(image == state.image, "{target:?} gave Txid {} with other pages: {}", state.txid, self.story());
        assert_eq!(restored.timestamp(), state.time, "{target:?}: {}", self.story());
        state.txid
    }

    fn check_newest(&self) {
        assert_eq!(self.restored(Target::Latest), self.states.last().unwrap().txid, "{}", self.story());
    }

    /// A time in the window, as `due` promises it.
    fn check_time(&self, time: Time) {
        let before = |limit: Time| self.states.iter().rev().find(|state| state.time < limit).map(|state| state.txid);
        let Some(newest) = before(time) else { return };
        let interval = self.schedule.levels[0].as_millis() as i64;
        let least = before(Time(time.0.div_euclid(interval) * interval));
        let raw = time.0 >= self.now.0 - self.schedule.l0_retention.as_millis() as i64;
        let least = if raw { Some(newest) } else { least };
        if least.is_none() {
            return;
        }
        let reached = self.restored(Target::Time(time));
        assert!(
            reached <= newest && Some(reached) >= least,
            "{} promises {least:?} to {newest}, gave {reached}: {}",
            time.0,
            self.story()
        );
    }

    /// Every Txid that a kept file ends at, and times all over the window.
    fn check_everything(&mut self) {
        self.check_newest();
        let listing = self.listing();
        let oldest = listing.iter().filter(|file| file.level == Level::SNAPSHOT).map(|file| file.span.max).min();
        let mut ends: Vec<Txid> = listing.iter().map(|file| file.span.max).filter(|max| Some(*max) >= oldest).collect();
        ends.sort();
        ends.dedup();
        for end in ends {
            assert_eq!(self.restored(Target::Txid(end)), end, "{}", self.story());
        }
        let raw = self.now.0 - self.schedule.l0_retention.as_millis() as i64;
        for state in self.states.iter().rev().take_while(|state| state.time.0 >= raw).take(20) {
            assert_eq!(self.restored(Target::Txid(state.txid)), state.txid, "{}", self.story());
            self.check_time(Time(state.time.0 + 1));
        }
        let window = self.schedule.snapshot_retention.as_millis() as u64;
        for _ in 0..12 {
            let time = Time(self.now.0 - self.dice.below(window + 1) as i64);
            self.check_time(time);
        }
    }

    /// Restores that planned a while ago still find their files.
    fn check_restores(&mut self) {
        let grace = self.schedule.l0_retention.as_millis() as i64;
        self.restores.retain(|(began, _)| self.now.0 - began.0 < grace);
        if self.crashed {
            // A listing does not say since when a file is there; a restore then plans again.
            self.restores.clear();
        }
        self.crashed = false;
        let listing = self.listing();
        for (began, plan) in &self.restores {
            for file in &plan.files {
                let is_there = listing.iter().any(|there| (there.level, there.span) == (file.level, file.span));
                assert!(is_there, "a restore of {} misses {file:?}: {}", began.0, self.story());
            }
        }
        self.restores.push((self.now, plan(&listing, Target::Latest).unwrap()));
    }

    fn step(&mut self) {
        match self.dice.below(10) {
            0..=4 => {
                self.now.0 += self.dice.below(4 * SECOND as u64) as i64;
                self.commit();
                self.log.push(format!("commit {} at {}", self.states.len(), self.now.0));
            }
            5 => {
                let far = [20, 200, 2000, 9000][self.dice.below(4) as usize];
                self.now.0 += self.dice.below(far * SECOND as u64) as i64;
                self.log.push(format!("clock {}", self.now.0));
            }
            6 => self.now.0 += SECOND * 5,
            _ => {
                self.upkeep(true);
            }
        }
        self.check_newest();
        self.check_restores();
    }
}

fn quick() -> Schedule {
    Schedule {
        levels: [10, 60, 300].map(Duration::from_secs).to_vec(),
        snapshot_interval: Duration::from_secs(1800),
        snapshot_retention: Duration::from_secs(3600),
        l0_retention: Duration::from_secs(25),
        retention_enabled: true,
    }
}

/// Goal: what is promised restores to the right state, after any commits, compactions, snapshots, deletions and crashes.
/// Method: random sequences; after each deletion every boundary and many times are restored and compared with the model.
#[test]
fn every_promised_txid_and_time_restores_after_anything() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = number("LITESTREAM_SEED").unwrap_or(1);
    let count: u64 = number("LITESTREAM_HISTORIES").unwrap_or(16);
    println!("seeds {first}..{}", first + count);
    let mut deletions = 0;
    for seed in first..first + count {
        let mut world = World::new(seed, quick());
        for _ in 0..150 {
            world.step();
        }
        while world.upkeep(false) {}
        world.check_everything();
        deletions += world.log.iter().filter(|line| line.starts_with("delete")).count();
    }
    assert!(deletions > 0, "the sequences reach retention");
}

/// Goal: after the last write what is due is done, and then nothing is ever due again. Method: follow the timers only.
#[test]
fn after_the_last_write_everything_due_is_done_and_then_silence() {
    for seed in 1..20 {
        let mut world = World::new(seed, quick());
        for _ in 0..40 {
            world.commit();
            world.now.0 += world.dice.below(20 * SECOND as u64) as i64;
        }
        let mut steps = 0;
        loop {
            while world.upkeep(false) {
                steps += 1;
            }
            match due(&world.manifest, &world.schedule, 0, &[], world.now) {
                Due::At(time) => world.now = time,
                Due::Never => break,
                Due::Now(_) => unreachable!("the loop above took it"),
            }
            assert!(steps < 200, "{}", world.story());
        }
        world.check_newest();
        let last = Some(world.states.last().unwrap().txid);
        let snapshot = world.manifest.snapshots().next_back().map(|held| held.span().max);
        assert_eq!(snapshot, last, "the last snapshot holds everything: {}", world.story());
        let files = world.manifest.files().count();
        assert!(files <= 2 + 3 + 1, "one snapshot and the newest of each level stay, {files}: {}", world.story());
    }
}

/// Goal: retention never deletes what a restore needs because of a damaged snapshot, and the replica mends itself, so that
/// in the end anybody restores the newest state. Method: random sequences in which snapshots rot, or any file does, also in
/// nights in which nothing else happens; a restore around the damage stays possible; at last the timers only.
#[test]
fn a_replica_with_damaged_files_loses_nothing_more_and_mends_itself() {
    let (levels, long) = ([5, 30].map(Duration::from_secs).to_vec(), Duration::from_secs(300));
    let schedule = Schedule { levels, snapshot_interval: long, snapshot_retention: long * 2, ..quick() };
    let mut met = 0;
    for seed in 1..=8 {
        let only_snapshots = seed % 2 == 0;
        let mut world = World::new(seed, schedule.clone());
        let mut restores = true;
        for step in 0..100 {
            let hit = world.hit;
            match world.dice.below(30) {
                0 => world.damage(only_snapshots),
                1..=14 => {
                    world.now.0 += world.dice.below(30 * SECOND as u64) as i64;
                    world.commit();
                }
                _ => {
                    world.now.0 += world.dice.below(20 * SECOND as u64) as i64;
                    let _ = world.mend() || world.upkeep(true);
                }
            }
            if step % 25 == 24 {
                world.wait(long * 2);
                world.damage(only_snapshots);
                world.now.0 += 10 * long.as_millis() as i64;
            }
            if only_snapshots {
                let restored = world.around() == world.states.last().map(|state| state.txid);
                assert!(restored || !restores || world.hit > hit, "no way around any more: {}", world.story());
                restores = restored;
            }
        }
        world.wait(Duration::from_secs(1 << 30));
        met += world.log.iter().filter(|line| line.contains("is Damaged")).count();
        world.check_newest();
    }
    println!("{met} damaged files were met");
    assert!(met > 10, "only {met} damaged files were met");
}
