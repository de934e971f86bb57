//! A host that commits and asks at the Gate beside a Leader that saves ahead of it, stores and forgets (`src/ahead.rs`).

use crate::ahead::Ahead;
use crate::explore::below;
use crate::limits;
use crate::sync::{Mutex, lock};
use crate::threads::{Body, Threads};
use crate::wal::{Cursor, Salt};
use shuttle::thread::{spawn, yield_now};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// What is on the disk. No other thread comes in between while one has it.
#[derive(Default)]
struct Disk {
    folder: PathBuf,
    segments: Vec<Segment>,
    /// Files that were made, for their names.
    made: u32,
    /// Up to where each life is in the store.
    stored: BTreeMap<Salt, u32>,
    /// Times that the Leader began to save ahead, and came to an end.
    begun: u32,
    ended: u32,
}

struct Segment {
    from: Cursor,
    to: Cursor,
    path: PathBuf,
    /// Of which time that the Leader saved ahead; `None` of a Gate.
    ahead: Option<u32>,
}

impl Disk {
    fn durable(&self, salt: Salt) -> Cursor {
        Cursor { frame: self.stored.get(&salt).copied().unwrap_or(0), ..Cursor::start(salt) }
    }

    fn save(&mut self, from: Cursor, to: Cursor, ahead: Option<u32>) -> PathBuf {
        self.made += 1;
        let path = self.folder.join(self.made.to_string());
        std::fs::write(&path, "").expect("a test's folder takes files");
        self.segments.push(Segment { from, to, path: path.clone(), ahead });
        path
    }

    /// Up to where everything of a life is in the store or in Segments.
    fn held(&self, salt: Salt) -> u32 {
        let mut end = self.durable(salt).frame;
        let of_life = || self.segments.iter().filter(|segment| segment.to.salt == salt);
        while let Some(next) = of_life().find(|segment| segment.from.frame <= end && segment.to.frame > end) {
            end = next.to.frame;
        }
        end
    }

    fn store(&mut self) {
        for salt in self.segments.iter().map(|segment| segment.to.salt).collect::<Vec<_>>() {
            self.stored.insert(salt, self.held(salt));
        }
    }

    fn remove(&mut self, is_superfluous: impl Fn(&Disk, &Segment) -> bool) {
        let (gone, kept): (Vec<_>, _) =
            std::mem::take(&mut self.segments).into_iter().partition(|segment| is_superfluous(self, segment));
        self.segments = kept;
        for Segment { path, .. } in gone {
            std::fs::remove_file(path).expect("it was written");
        }
    }
}

struct World {
    ahead: Ahead,
    /// Up to where the WAL's running life is committed.
    wal: Mutex<Cursor>,
    disk: std::sync::Mutex<Disk>,
}

impl World {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, deeds: &[u64]) {
        for deed in deeds {
            match deed {
                0 | 1 => lock(&self.wal).frame += 1, // a commit
                2 => self.gate(),                    // and no reset after all
                _ => {
                    self.gate();
                    let mut wal = lock(&self.wal);
                    let life = u64::from_be_bytes(wal.salt.0) + 1;
                    *wal = Cursor::start(Salt(life.to_be_bytes()));
                }
            }
        }
    }

    /// As `Conn` does: what is not held is saved.
    fn gate(&self) {
        let end = *lock(&self.wal); // nobody commits while somebody is at the Gate
        let durable = self.disk().durable(end.salt);
        let begun = self.disk().begun;
        let came = Instant::now();
        let from = self.ahead.from(durable, &end, &Steps);
        let waited = came.elapsed() < limits::AHEAD;
        let mut disk = self.disk();
        assert_eq!(from.salt, end.salt, "the Gate begins in another life");
        assert!(durable.frame <= from.frame && from.frame <= end.frame, "the Gate begins outside of what is there");
        assert!(from.frame <= disk.held(end.salt), "the Gate leaves out what nobody saved");
        assert!(!waited || disk.ended >= begun, "the Gate does not wait while the Leader saves");
        let known = disk.segments.iter().filter(|segment| {
            segment.to.salt == end.salt && segment.ahead.is_some_and(|number| number <= begun.min(disk.ended))
        });
        let known = known.map(|segment| segment.to.frame).max().unwrap_or(0);
        assert!(!waited || from.frame >= known, "the Gate does not know what the Leader saved");
        if from.frame < end.frame {
            disk.save(from, end, None);
        }
    }

    fn leader(&self, deeds: &[u64]) {
        for deed in deeds {
            match deed {
                0 | 1 => self.save_ahead(),
                2 => self.store(),
                // Continuity is lost: an image follows, and no Segment of before counts.
                _ => self.disk().remove(|_, _| true),
            }
        }
    }

    /// As `Leading::save_ahead`.
    fn save_ahead(&self) {
        let saved = self.ahead.save(|| {
            self.disk().begun += 1;
            let saved = self.saved_ahead();
            self.disk().ended += 1;
            Ok::<_, ()>(saved)
        });
        saved.expect("the disk takes it");
    }

    fn saved_ahead(&self) -> Option<(Cursor, PathBuf)> {
        let to = *lock(&self.wal);
        let durable = self.disk().durable(to.salt);
        let from = self.ahead.newest(durable, &to);
        if from.frame >= to.frame || lock(&self.wal).salt != to.salt {
            return None;
        }
        let mut disk = self.disk();
        let number = disk.begun;
        Some((to, disk.save(from, to, Some(number))))
    }

    fn store(&self) {
        self.disk().store();
        yield_now();
        self.disk().remove(|disk, segment| segment.to.frame <= disk.durable(segment.to.salt).frame);
    }
}

/// A pause is one step.
struct Steps;

impl Threads for Steps {
    fn run(&self, _: &'static str, _: Body) -> std::io::Result<()> {
        unreachable!("nothing here begins a thread")
    }

    fn rest(&self, _: Instant, _: &mut dyn FnMut()) {
        unreachable!("nothing here rests")
    }

    fn pause(&self, _: std::time::Duration) {
        yield_now();
    }
}

/// One host and one Leader, with files in this folder.
pub fn save_beside_each_other(folder: &Path) {
    let disk = Disk { folder: folder.to_path_buf(), ..Disk::default() };
    let world = Arc::new(World { ahead: Ahead::default(), wal: Mutex::default(), disk: std::sync::Mutex::new(disk) });
    let deeds = |most: u64| (0..2 + below(most)).map(|_| below(4)).collect::<Vec<_>>();
    let (hosts, leaders) = (deeds(6), deeds(4));
    let (host, leader) = (Arc::clone(&world), Arc::clone(&world));
    let threads = [spawn(move || host.host(&hosts)), spawn(move || leader.leader(&leaders))];
    for thread in threads {
        thread.join().expect("a panic is the schedule's end");
    }
    world.disk().remove(|_, _| true);
}
