//! A store that does what stores do to their clients: refuses, hangs, loses its answer, stores late, stops in the middle
//! of a list. What it says is stored, it keeps; objects are never replaced. It knows what was acknowledged, and cries
//! where the replica no longer leads there.

use super::stage::{self, Stage};
use bytes::Bytes;
use litestream_engine::clock::Time;
use litestream_engine::error::{Error, Result};
use litestream_engine::ltx::{Decoder, Level, Span, Txid};
use litestream_engine::plan::{Target, plan};
use litestream_engine::store::{Body, FileInfo, Home, Put};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Name = (Level, Span);

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    created: Time,
    since: Instant,
}

/// How often a call goes wrong, one in so many; 0 is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Answered at once by an error, and nothing happened.
    pub refuses: u64,
    /// No answer for as long as a client waits.
    pub hangs: u64,
    /// It happened, and the answer is lost.
    pub loses: u64,
    /// It happens some time after the client has given up.
    pub late: u64,
    /// A list lacks what is new.
    pub lags: u64,
}

#[derive(Default)]
struct Shelf {
    objects: BTreeMap<Name, Object>,
    late: Vec<(Instant, Name, Object)>,
    weather: Weather,
    /// The newest transaction that was called stored.
    acknowledged: Txid,
    counts: BTreeMap<&'static str, u64>,
}

/// The store of one replica, over all lives.
pub struct Shop {
    stage: Arc<Stage>,
    shelf: Mutex<Shelf>,
}

/// What becomes of a call.
enum Fate {
    Done,
    Refused,
    Hung,
    Lost,
    Late,
}

impl Shop {
    pub fn new(stage: Arc<Stage>) -> Arc<Shop> {
        Arc::new(Shop { stage, shelf: Mutex::default() })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn weather(&self, weather: Weather) {
        self.shelf().weather = weather;
    }

    /// From now on the store has to lead there.
    pub fn acknowledged(&self, txid: Txid) {
        let mut shelf = self.shelf();
        shelf.acknowledged = shelf.acknowledged.max(txid);
        self.judge(&mut shelf, "was acknowledged");
    }

    pub fn listing(&self) -> Vec<FileInfo> {
        self.arrive();
        infos(&self.shelf().objects)
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.shelf().counts.clone()
    }

    /// Whatever is under way arrives.
    pub fn settle(&self) {
        let mut shelf = self.shelf();
        for (due, _, _) in &mut shelf.late {
            *due = Instant::now();
        }
        drop(shelf);
        self.arrive();
    }

    /// Times of files never go back: what ends later was captured later.
    fn judge_time(&self, shelf: &Shelf, (level, span): Name, bytes: &Bytes) {
        let time = |bytes: &Bytes| Decoder::new(&bytes[..]).map(|file| file.header().timestamp);
        let Ok(mine) = time(bytes) else {
            return self.stage.trouble(format!("{level} {} is put, and no LTX file", span.file_name()));
        };
        let before = shelf.objects.iter().filter(|(name, _)| name.1.max < span.max).max_by_key(|(name, _)| name.1.max);
        let after = shelf.objects.iter().filter(|(name, _)| name.1.max > span.max).min_by_key(|(name, _)| name.1.max);
        let at = |found: Option<(&Name, &Object)>| found.and_then(|(_, object)| time(&object.bytes).ok());
        if at(before).is_some_and(|before| before >= mine) || at(after).is_some_and(|after| after <= mine) {
            let (before, after) = (before.map(|found| found.0), after.map(|found| found.0));
            let name = span.file_name();
            self.stage
                .trouble(format!("{level} {name} of {mine:?} is put between {before:?} and {after:?}: time went back"));
        }
    }

    /// The replica leads to what was acknowledged, without a gap.
    fn judge(&self, shelf: &mut Shelf, what: &str) {
        if shelf.acknowledged == Txid(0) {
            return;
        }
        let reach = plan(&infos(&shelf.objects), Target::Latest).map(|plan| plan.txid());
        if !reach.as_ref().is_ok_and(|reach| *reach >= shelf.acknowledged) {
            let reach = reach.map_or_else(|e| e.to_string(), |txid| txid.to_string());
            self.stage.trouble(format!(
                "{} was called stored, {what}, and the replica leads to: {reach}",
                shelf.acknowledged
            ));
        }
    }

    /// What was late is there now, unless something stands there already.
    fn arrive(&self) {
        let now = Instant::now();
        let mut shelf = self.shelf();
        let (due, rest) = std::mem::take(&mut shelf.late).into_iter().partition(|(due, _, _)| *due <= now);
        shelf.late = rest;
        let due: Vec<(Instant, Name, Object)> = due;
        for (_, name, object) in due {
            shelf.objects.entry(name).or_insert(Object { since: now, ..object });
        }
    }

    /// A call takes its time, and something may happen to it.
    fn fate(&self, what: &'static str) -> Fate {
        *self.shelf().counts.entry(what).or_default() += 1;
        if !stage::is_actor() {
            return Fate::Done;
        }
        stage::hook(what);
        stage::takes(Duration::from_micros(500 + self.stage.below(20_000)));
        let weather = self.shelf().weather;
        self.arrive();
        let hit = |n: u64| n > 0 && self.stage.below(n) == 0;
        if hit(weather.refuses) {
            Fate::Refused
        } else if hit(weather.hangs) {
            Fate::Hung
        } else if hit(weather.loses) {
            Fate::Lost
        } else if hit(weather.late) {
            Fate::Late
        } else {
            Fate::Done
        }
    }

    /// The client's patience.
    fn patience(&self) {
        stage::takes(Duration::from_secs(10));
        self.arrive();
    }

    /// Reads know only one way of failing.
    fn ask(&self, what: &'static str) -> Result<()> {
        match self.fate(what) {
            Fate::Done => Ok(()),
            Fate::Refused => Err(refused(what)),
            _ => {
                self.patience();
                Err(silent(what))
            }
        }
    }

    fn place(&self, name: Name, object: Object) -> Result<Put> {
        let mut shelf = self.shelf();
        if let Some(there) = shelf.objects.get(&name) {
            return if there.bytes == object.bytes {
                Ok(Put::AlreadyThere)
            } else {
                Err(Error::Conflict(format!("{} {} has other bytes", name.0, name.1.file_name())))
            };
        }
        shelf.objects.insert(name, object);
        self.judge(&mut shelf, "a file was put");
        Ok(Put::Stored)
    }
}

fn infos(objects: &BTreeMap<Name, Object>) -> Vec<FileInfo> {
    let info = |(name, object): (&Name, &Object)| FileInfo {
        level: name.0,
        span: name.1,
        size: object.bytes.len() as u64,
        listed: object.created,
    };
    objects.iter().map(info).collect()
}

fn refused(what: &str) -> Error {
    Error::Unreachable(format!("{what}: 503 (simulated)"))
}

fn silent(what: &str) -> Error {
    Error::Unreachable(format!("{what}: no answer (simulated)"))
}

impl Home for Shop {
    fn holds(&self, level: Level, span: Span) -> Result<bool> {
        self.ask("head")?;
        Ok(self.shelf().objects.contains_key(&(level, span)))
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        self.ask("list")?;
        let lags = self.shelf().weather.lags;
        let hidden = if lags > 0 && stage::is_actor() && self.stage.below(lags) == 0 { self.stage.below(5) } else { 0 };
        let before = Instant::now() - Duration::from_secs(hidden);
        let shelf = self.shelf();
        let seen = shelf.objects.iter().filter(|(name, object)| name.0 == level && object.since <= before);
        Ok(infos(&seen.map(|(name, object)| (*name, object.clone())).collect()))
    }

    fn put(&self, level: Level, span: Span, created: Time, body: &Body<'_>) -> Result<Put> {
        let bytes = match body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::File(path) => std::fs::read(path).map_err(|e| Error::io("read", path, e))?.into(),
        };
        self.judge_time(&self.shelf(), (level, span), &bytes);
        let object = Object { bytes, created, since: Instant::now() };
        let fate = self.fate("put");
        self.stage.note(|| {
            let fate = match fate {
                Fate::Done => "done",
                Fate::Refused => "refused",
                Fate::Hung => "hung",
                Fate::Lost => "lost",
                Fate::Late => "late",
            };
            format!("put {level} {} {fate}", span.file_name())
        });
        match fate {
            Fate::Done => self.place((level, span), object),
            Fate::Refused => Err(refused("put")),
            Fate::Hung => {
                self.patience();
                Err(silent("put"))
            }
            Fate::Lost => {
                // The client sends it again by itself now and then: the second meets the first.
                let placed = self.place((level, span), object.clone());
                if self.stage.below(3) == 0 {
                    return self.place((level, span), object);
                }
                stage::hook("answer-lost");
                placed.and(Err(silent("put")))
            }
            Fate::Late => {
                let due = Instant::now() + Duration::from_millis(100 + self.stage.below(30_000));
                self.shelf().late.push((due, (level, span), object));
                self.patience();
                Err(silent("put"))
            }
        }
    }

    fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes> {
        self.ask("get")?;
        let shelf = self.shelf();
        let missing = || Error::NoBackup(format!("{level} {} is not there", span.file_name()));
        let bytes = shelf.objects.get(&(level, span)).ok_or_else(missing)?.bytes.clone();
        match range {
            Some(range) if range.end > bytes.len() as u64 => Err(Error::Corrupt("shorter than the range".into())),
            Some(range) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            None => Ok(bytes),
        }
    }

    fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.read(file.level, file.span, None)?)))
    }

    fn delete(&self, files: &[Name]) -> Result<()> {
        for (level, span) in files {
            let fate = self.fate("delete");
            self.stage.note(|| format!("delete {level} {}", span.file_name()));
            if matches!(fate, Fate::Refused) {
                return Err(refused("delete"));
            }
            let mut shelf = self.shelf();
            shelf.objects.remove(&(*level, *span));
            self.judge(&mut shelf, "a file was deleted");
            drop(shelf);
            if !matches!(fate, Fate::Done) {
                self.patience();
                return Err(silent("delete"));
            }
        }
        Ok(())
    }
}

/// The same shelves, for whoever only looks: no call fails, takes time or lets others act.
pub struct Quiet(pub Arc<Shop>);

impl Home for Quiet {
    fn holds(&self, level: Level, span: Span) -> Result<bool> {
        Ok(self.0.shelf().objects.contains_key(&(level, span)))
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        Ok(infos(&self.0.shelf().objects).into_iter().filter(|info| info.level == level).collect())
    }

    fn put(&self, _: Level, _: Span, _: Time, _: &Body<'_>) -> Result<Put> {
        Err(refused("put"))
    }

    fn read(&self, level: Level, span: Span, range: Option<Range<u64>>) -> Result<Bytes> {
        let shelf = self.0.shelf();
        let bytes = shelf.objects.get(&(level, span)).ok_or_else(|| refused("get"))?.bytes.clone();
        Ok(range.map_or(bytes.clone(), |range| bytes.slice(range.start as usize..range.end as usize)))
    }

    fn stream(&self, file: &FileInfo) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.read(file.level, file.span, None)?)))
    }

    fn delete(&self, _: &[Name]) -> Result<()> {
        Err(refused("delete"))
    }
}
