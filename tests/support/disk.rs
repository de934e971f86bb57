//! What a disk may hold after a power loss: a log of every change of files, and the states that a crash at any point of
//! it may leave. What was synced is there; of the rest any part, in any order, torn anywhere.
//!
//! The model: a file's unsynced writes and cuts are each there, lost, or torn at sectors of 512 or 4,096 bytes; creates,
//! renames and unlinks are lost or kept one by one until their folder is synced (each name in its own order, a rename
//! whole); a file's time is that of any moment since it was last synced in full. It knows nothing of SQLite.
#![allow(dead_code, clippy::unwrap_used)]

use crate::dice::Dice;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, FileTimes};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of a record before its strings: `struct record` of tests/c/record.c.
const HEADER_BYTES: usize = 40;

/// Times of a file from which one is taken that never got to the disk.
const RECENT: usize = 8;

/// One change, as the recorder saw it. Files are numbered: an inode may come again.
#[derive(Debug, Clone)]
enum Change {
    Create { name: String, file: usize },
    Write { file: usize, offset: usize, bytes: Vec<u8> },
    Cut { file: usize, size: usize },
    SyncFile { file: usize, full: bool },
    SyncFolder { folder: String },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Unlink { name: String },
    Mkdir { name: String },
    Rmdir { name: String },
}

/// A file with its content and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub file: usize,
    pub bytes: Vec<u8>,
    pub modified: i64,
}

/// What lies below a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub files: BTreeMap<String, Held>,
    pub folders: BTreeSet<String>,
}

/// Everything that happened, in order.
pub struct Log {
    changes: Vec<(Change, i64)>,
    names: Vec<String>,
    before: Disk,
    files: usize,
}

/// What a loss of power left.
pub struct Crash {
    pub disk: Disk,
    /// What was lost, in words.
    pub story: Vec<String>,
    /// Files, by the names that they had first, of whose unsynced writes some are there and others are not.
    pub in_part: BTreeSet<String>,
}

/// Which of the unsynced changes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Lost,
    Kept,
    /// What happened before that change, as if the system had just written everything back.
    Before(usize),
    Mixed,
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Log {
    /// Reads what the recorder wrote; `before` is what lay there when it began, all of it durable. The last record may be cut
    /// short: by the end of the process, while another thread of it was writing.
    pub fn read(path: &Path, before: Disk) -> Log {
        let raw = std::fs::read(path).unwrap();
        let mut log = Log { changes: Vec::new(), names: Vec::new(), files: before.files.len(), before: before.clone() };
        let mut named: HashMap<String, usize> =
            before.files.iter().map(|(name, held)| (name.clone(), held.file)).collect();
        let mut inodes: HashMap<u64, usize> = HashMap::new();
        let mut folders = before.folders;
        let mut at = 0;
        while at < raw.len() {
            let number = |from: usize| u32::from_le_bytes(raw[at + from..at + from + 4].try_into().unwrap()) as usize;
            let long = |from: usize| u64::from_le_bytes(raw[at + from..at + from + 8].try_into().unwrap());
            if raw.len() < at + HEADER_BYTES || raw.len() < at + HEADER_BYTES + number(4) + number(8) {
                break;
            }
            let (kind, from, more) = (number(0), number(4), number(8));
            let (inode, offset, modified) = (long(16), long(24) as usize, long(32) as i64);
            let text = |from: usize, n: usize| String::from_utf8(raw[from..from + n].to_vec()).unwrap();
            let name = text(at + HEADER_BYTES, from);
            let rest = at + HEADER_BYTES + from;
            let mut known = |files: &mut usize| {
                *inodes.entry(inode).or_insert_with(|| {
                    named.get(&name).copied().unwrap_or_else(|| {
                        *files += 1;
                        *files - 1
                    })
                })
            };
            let change = match kind {
                1 => {
                    inodes.insert(inode, log.files);
                    log.files += 1;
                    named.insert(name.clone(), log.files - 1);
                    Change::Create { name: name.clone(), file: log.files - 1 }
                }
                2 => Change::Write { file: known(&mut log.files), offset, bytes: raw[rest..rest + more].to_vec() },
                3 => Change::Cut { file: known(&mut log.files), size: offset },
                // SQLite syncs folders by fdatasync.
                4 | 5 if folders.contains(&name) => Change::SyncFolder { folder: name.clone() },
                4 | 5 => Change::SyncFile { file: known(&mut log.files), full: kind == 4 },
                6 | 7 => {
                    let to = text(rest, more);
                    let file = if kind == 6 { named.remove(&name) } else { named.get(&name).copied() };
                    named.extend(file.map(|file| (to.clone(), file)));
                    match kind {
                        6 => Change::Rename { from: name.clone(), to },
                        _ => Change::Link { from: name.clone(), to },
                    }
                }
                8 => {
                    named.remove(&name);
                    Change::Unlink { name: name.clone() }
                }
                9 => {
                    folders.insert(name.clone());
                    Change::Mkdir { name: name.clone() }
                }
                10 => {
                    folders.remove(&name);
                    Change::Rmdir { name: name.clone() }
                }
                other => panic!("record kind {other} at byte {at}"),
            };
            log.changes.push((change, modified));
            log.names.push(name);
            at = rest + more;
        }
        log
    }

    /// The number of a file that was there when it began.
    pub fn before(&self, name: &str) -> Option<usize> {
        self.before.files.get(name).map(|held| held.file)
    }

    /// Changes in it.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Positions right after a change below one of these folders: where things are most likely to go wrong.
    pub fn after(&self, folders: &[&str]) -> Vec<usize> {
        let below = |name: &String| folders.iter().any(|folder| name.starts_with(folder));
        (1..=self.len()).filter(|at| below(&self.names[at - 1])).collect()
    }

    /// Everything up to there, as a process sees it that did not die.
    pub fn whole(&self, at: usize, below: &str) -> Disk {
        let kept: Vec<Option<Vec<(usize, usize)>>> = vec![None; at];
        self.replay(&vec![true; at], &kept, &HashMap::new(), below)
    }

    /// A state that a power loss at that point may leave below `folder`.
    pub fn crash(&self, at: usize, folder: &str, dice: &mut Dice) -> Crash {
        let far = dice.of(&[8, 40, 200, at as u64]);
        let before = Style::Before(at.saturating_sub(dice.below(far.min(at as u64)) as usize));
        let style = dice.of(&[Style::Lost, Style::Kept, before, before, Style::Mixed, Style::Mixed, Style::Mixed]);
        let mut story = vec![format!("{style:?}")];
        let mut keep = vec![true; at];
        let mut torn: Vec<Option<Vec<(usize, usize)>>> = vec![None; at];
        let in_part = self.lose_data(at, folder, style, dice, &mut keep, &mut torn, &mut story);
        self.lose_names(at, folder, style, dice, &mut keep, &mut story);
        let times = self.times(at, folder, style, dice, &mut story);
        Crash { disk: self.replay(&keep, &torn, &times, folder), story, in_part }
    }

    fn is_below(&self, i: usize, folder: &str) -> bool {
        self.names[i].starts_with(folder)
    }

    #[allow(clippy::too_many_arguments)] // three tables that are filled together
    fn lose_data(
        &self,
        at: usize,
        folder: &str,
        style: Style,
        dice: &mut Dice,
        keep: &mut [bool],
        torn: &mut [Option<Vec<(usize, usize)>>],
        story: &mut Vec<String>,
    ) -> BTreeSet<String> {
        let mut in_part = BTreeSet::new();
        let mut unsynced: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for i in (0..at).filter(|i| self.is_below(*i, folder)) {
            match &self.changes[i].0 {
                Change::Write { file, .. } | Change::Cut { file, .. } => unsynced.entry(*file).or_default().push(i),
                Change::SyncFile { file, .. } => drop(unsynced.remove(file)),
                _ => {}
            }
        }
        for changes in unsynced.into_values() {
            let sector = dice.of(&[512, 4096]);
            let way = match style {
                Style::Lost => 0,
                Style::Kept => 1,
                Style::Before(_) => 2,
                Style::Mixed => dice.below(5),
            };
            let prefix = match style {
                Style::Before(then) => changes.iter().filter(|i| **i < then).count(),
                _ => dice.below(changes.len() as u64 + 1) as usize,
            };
            for (n, &i) in changes.iter().enumerate() {
                keep[i] = match way {
                    0 => false,
                    1 => true,
                    2 => n < prefix,
                    _ => dice.one_in(2),
                };
                if let (4, Change::Write { offset, bytes, .. }) = (way, &self.changes[i].0)
                    && dice.one_in(2)
                {
                    keep[i] = true;
                    torn[i] = Some(sectors(*offset, bytes.len(), sector, dice));
                }
            }
            let lost = changes.iter().filter(|i| !keep[**i]).count();
            let cut = changes.iter().filter(|i| torn[**i].is_some()).count();
            let first = &self.names[changes[0]];
            if cut > 0 || (lost > 0 && lost < changes.len()) {
                in_part.insert(first.clone());
            }
            story.push(format!("{first}: {lost} of {} unsynced writes lost, {cut} torn at {sector}", changes.len()));
        }
        in_part
    }

    fn lose_names(
        &self,
        at: usize,
        below: &str,
        style: Style,
        dice: &mut Dice,
        keep: &mut [bool],
        story: &mut Vec<String>,
    ) {
        let mut unsynced: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for i in (0..at).filter(|i| self.is_below(*i, below)) {
            match &self.changes[i].0 {
                Change::SyncFolder { folder } => drop(unsynced.remove(folder.as_str())),
                Change::Rename { to: name, .. }
                | Change::Link { to: name, .. }
                | Change::Create { name, .. }
                | Change::Unlink { name }
                | Change::Mkdir { name }
                | Change::Rmdir { name } => unsynced.entry(parent(name)).or_default().push(i),
                Change::Write { .. } | Change::Cut { .. } | Change::SyncFile { .. } => {}
            }
        }
        let mut all: Vec<usize> = unsynced.values().flatten().copied().collect();
        all.sort_unstable();
        let way = match style {
            Style::Lost => 0,
            Style::Kept => 1,
            Style::Before(_) => 2,
            Style::Mixed => dice.below(4),
        };
        let prefix = match style {
            Style::Before(then) => all.iter().filter(|i| **i < then).count(),
            _ => dice.below(all.len() as u64 + 1) as usize,
        };
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for (n, &i) in all.iter().enumerate() {
            let names = self.changes[i].0.names();
            let wanted = match way {
                0 => false,
                1 => true,
                2 => n < prefix,
                _ => dice.one_in(2),
            };
            // What happened to a name later needs what happened to it, or to its folder, before.
            keep[i] = wanted && !names.iter().any(|name| gone.contains(name) || gone.contains(parent(name)));
            if !keep[i] {
                gone.extend(names);
                story.push(format!("lost: {:?}", self.changes[i].0));
            }
        }
    }

    /// The times of files that differ from what they were last: from any moment since the last full sync.
    fn times(
        &self,
        at: usize,
        folder: &str,
        style: Style,
        dice: &mut Dice,
        story: &mut Vec<String>,
    ) -> HashMap<usize, i64> {
        let mut since: BTreeMap<usize, (String, Vec<(usize, i64)>)> = BTreeMap::new();
        for i in (0..at).filter(|i| self.is_below(*i, folder)) {
            let (change, modified) = &self.changes[i];
            match change {
                Change::Create { file, .. } | Change::Write { file, .. } | Change::Cut { file, .. } => {
                    since.entry(*file).or_insert_with(|| (self.names[i].clone(), Vec::new())).1.push((i, *modified));
                }
                Change::SyncFile { file, full: true } => {
                    since.insert(*file, (self.names[i].clone(), vec![(i, *modified)]));
                }
                _ => {}
            }
        }
        let mut times = HashMap::new();
        for (file, (name, mut possible)) in since {
            possible.dedup_by_key(|(_, modified)| *modified);
            let last = *possible.last().expect("each entry has one");
            let (_, then) = match (style, dice.below(4)) {
                (Style::Before(then), _) => *possible.iter().rev().find(|(i, _)| *i < then).unwrap_or(&possible[0]),
                (Style::Kept, _) | (_, 0 | 1) => last,
                (_, 2) => possible[0],
                // Most likely what a moment ago was true.
                _ => dice.of(&possible[possible.len().saturating_sub(RECENT)..]),
            };
            if then != last.1 {
                story.push(format!("{name}: its time is {} ns older", last.1 - then));
                times.insert(file, then);
            }
        }
        times
    }

    fn replay(
        &self,
        keep: &[bool],
        torn: &[Option<Vec<(usize, usize)>>],
        times: &HashMap<usize, i64>,
        below: &str,
    ) -> Disk {
        let mut names: BTreeMap<String, usize> =
            self.before.files.iter().map(|(name, held)| (name.clone(), held.file)).collect();
        let mut folders = self.before.folders.clone();
        let mut held: Vec<(Vec<u8>, i64)> = vec![(Vec::new(), 0); self.files];
        for there in self.before.files.values() {
            held[there.file] = (there.bytes.clone(), there.modified);
        }
        for i in (0..keep.len()).filter(|i| keep[*i]) {
            let (change, modified) = &self.changes[i];
            match change {
                Change::Create { name, file } => {
                    names.insert(name.clone(), *file);
                    held[*file].1 = *modified;
                }
                Change::Write { file, offset, bytes } => {
                    let whole = [(*offset, offset + bytes.len())];
                    for &(from, to) in torn[i].as_deref().unwrap_or(&whole) {
                        let content = &mut held[*file].0;
                        content.resize(content.len().max(to), 0);
                        content[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                    }
                    held[*file].1 = *modified;
                }
                Change::Cut { file, size } => {
                    held[*file].0.resize(*size, 0);
                    held[*file].1 = *modified;
                }
                Change::Rename { from, to } => {
                    let file = names.remove(from);
                    names.extend(file.map(|file| (to.clone(), file)));
                }
                Change::Link { from, to } => {
                    let file = names.get(from).copied();
                    names.extend(file.map(|file| (to.clone(), file)));
                }
                Change::Unlink { name } => drop(names.remove(name)),
                Change::Mkdir { name } => drop(folders.insert(name.clone())),
                Change::Rmdir { name } => drop(folders.remove(name)),
                Change::SyncFile { .. } | Change::SyncFolder { .. } => {}
            }
        }
        let files = names.into_iter().filter(|(name, _)| name.starts_with(below) && folders.contains(parent(name)));
        let files = files.map(|(name, file)| {
            let (bytes, modified) = held[file].clone();
            (name, Held { file, bytes, modified: times.get(&file).copied().unwrap_or(modified) })
        });
        Disk { files: files.collect(), folders: folders.into_iter().filter(|name| name.starts_with(below)).collect() }
    }
}

impl Change {
    fn names(&self) -> Vec<&str> {
        match self {
            Change::Create { name, .. } | Change::Unlink { name } | Change::Mkdir { name } | Change::Rmdir { name } => {
                vec![name]
            }
            Change::Rename { from, to } | Change::Link { from, to } => vec![from, to],
            _ => Vec::new(),
        }
    }
}

/// Some of the sectors that a write touches, as ranges of the file.
fn sectors(offset: usize, len: usize, sector: usize, dice: &mut Dice) -> Vec<(usize, usize)> {
    let end = offset + len;
    let mut parts = Vec::new();
    let mut from = offset;
    while from < end {
        let to = ((from / sector + 1) * sector).min(end);
        if dice.one_in(2) {
            parts.push((from, to));
        }
        from = to;
    }
    parts
}

impl Disk {
    /// What lies below `root` now, by names relative to it.
    pub fn read(root: &Path) -> Disk {
        let mut disk = Disk::default();
        disk.folders.insert(String::new());
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let mut entries: Vec<_> = std::fs::read_dir(root.join(&folder)).unwrap().map(Result::unwrap).collect();
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name().into_string().unwrap();
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let about = entry.metadata().unwrap();
                if about.is_dir() {
                    disk.folders.insert(name.clone());
                    folders.push(name);
                } else {
                    let modified = about.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
                    let bytes = std::fs::read(entry.path()).unwrap();
                    disk.files.insert(name, Held { file: disk.files.len(), bytes, modified });
                }
            }
        }
        disk
    }

    /// Writes it below `to`, with the times; `take` may give a file that stands for one of its own (the same inode).
    pub fn write(&self, to: &Path, mut take: impl FnMut(&str, usize) -> Option<std::path::PathBuf>) {
        for folder in &self.folders {
            std::fs::create_dir_all(to.join(folder)).unwrap();
        }
        for (name, held) in &self.files {
            let path = to.join(name);
            if let Some(inode) = take(name, held.file) {
                std::fs::rename(inode, &path).unwrap();
            }
            let mut file = File::options().write(true).create(true).truncate(true).open(&path).unwrap();
            file.write_all(&held.bytes).unwrap();
            let time = UNIX_EPOCH + Duration::from_nanos(held.modified as u64);
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
    }
}
