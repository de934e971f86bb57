//! One simulated history: processes that come and are killed one after the other, what they do, and what must hold.

use super::actions::{settle, work, write};
use super::app::{App, Kind, World, first_image};
use super::journal::{End, Writer};
use super::machine::{Base, Machine};
use super::oracle::Oracle;
use super::stage::{Crew, Life, Stage};
use super::store::{Quiet, Shop, Weather};
use crate::dice::Dice;
use litestream_engine::db::Db;
use litestream_engine::ltx::Txid;
use litestream_engine::plan::Target;
use litestream_engine::registry::Registry;
use litestream_engine::restore::{self, Options};
use litestream_engine::spool::Spool;
use litestream_engine::store::{Home, Io, ReplicaUrl, Store};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const URL: &str = "s3://bucket/app";
/// Hooks that the last life may pass: more, and something goes in circles.
const HOOKS_MAX: u64 = 300_000;

/// What came of histories.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub commits: usize,
    pub lives: usize,
    pub kills: usize,
    pub stored: u64,
    pub restored: usize,
    pub hooks: u64,
    /// Images after the first: continuity was lost.
    pub images: u64,
    pub calls: u64,
    pub simulated: Duration,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.commits += other.commits;
        self.lives += other.lives;
        self.kills += other.kills;
        self.stored += other.stored;
        self.restored += other.restored;
        self.hooks += other.hooks;
        self.images += other.images;
        self.calls += other.calls;
        self.simulated += other.simulated;
    }
}

/// What may happen in a history beside commits, checkpoints, kills and bad weather.
#[derive(Debug, Clone, Copy)]
struct Plot {
    /// A second process: with the extension and without a replica, or without the extension.
    second: Option<Kind>,
    /// Lists may lack what is new.
    lags: bool,
    /// The machine loses its disk between two lives, and comes back by a restore.
    lost_disk: bool,
    /// The Spool holds next to nothing.
    small_spool: bool,
    /// Long outages with many resets.
    long: bool,
    /// Nobody commits for longer than superfluous files are kept.
    idle: bool,
    /// The wall clock is set now and then, by a minute to a month, forward and back.
    clock_steps: bool,
    /// A rollback-journal mode, and what becomes of the journal.
    journal: Option<End>,
}

impl Plot {
    fn new(dice: &mut Dice) -> Plot {
        let journal = dice.of(&[
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            Some(End::Delete),
            Some(End::Truncate),
            Some(End::Persist),
        ]);
        Plot {
            journal,
            second: dice.of(&[None, None, Some(Kind::KeepsGate), Some(Kind::KeepsGate), Some(Kind::Foreign)]),
            lags: dice.one_in(8),
            lost_disk: dice.one_in(4),
            small_spool: dice.one_in(8),
            long: dice.one_in(12),
            idle: dice.one_in(4),
            clock_steps: dice.one_in(3),
        }
    }
}

fn weather(dice: &mut Dice, plot: &Plot) -> Weather {
    let bad = |dice: &mut Dice, often: u64| if dice.one_in(2) { 0 } else { 2 + dice.below(often) };
    match dice.below(4) {
        0 => Weather::default(),
        1 => Weather { refuses: 1 + dice.below(2), ..Weather::default() },
        _ => Weather {
            refuses: bad(dice, 6),
            hangs: bad(dice, 12),
            loses: bad(dice, 6),
            late: bad(dice, 8),
            lags: if plot.lags { bad(dice, 6) } else { 0 },
        },
    }
}

/// A history under way.
struct History {
    dice: Dice,
    plot: Plot,
    stage: Arc<Stage>,
    shop: Arc<Shop>,
    machine: Arc<Machine>,
    oracle: Arc<Mutex<Oracle>>,
    spool: Spool,
    images: Arc<AtomicU64>,
    params: Vec<(String, String)>,
}

impl History {
    fn new(seed: u64, folder: &Path) -> History {
        let mut dice = Dice::new(seed);
        let plot = Plot::new(&mut dice);
        let stage = Stage::new(Dice::new(seed ^ 0x5151), 1 + dice.below(12));
        let machine = Machine::new(folder);
        let first = first_image(2 + dice.below(30) as usize, seed, plot.journal.is_none());
        std::fs::write(&machine.database, first.concat()).expect("a disk in memory");
        let mut params = vec![
            ("replica", URL),
            ("sync-interval", dice.of(&["0", "10ms", "100ms", "1s", "3s"])),
            ("levels", dice.of(&["2s,10s", "1s", "30s,300s,3600s"])),
            ("snapshot-interval", dice.of(&["30s", "1h"])),
            ("snapshot-retention", dice.of(&["60s", "2h"])),
            ("l0-retention", dice.of(&["5s", "5m"])),
            ("save-ahead", dice.of(&["1", "1MiB"])),
        ];
        if plot.small_spool {
            params.push(("spool-limit", dice.of(&["1KB", "8KB"])));
        }
        History {
            stage: Arc::clone(&stage),
            shop: Shop::new(stage),
            spool: Spool::of(&machine.database),
            oracle: Arc::new(Mutex::new(Oracle::new(first))),
            images: Arc::default(),
            params: params.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            machine,
            dice,
            plot,
        }
    }

    /// A process that is killed holds no lock any more.
    fn bury(&self) {
        let machine = Arc::clone(&self.machine);
        self.stage.bury(Box::new(move |life| machine.buried(life)));
    }

    /// Looks at each `state` that is written, at the moment it is.
    fn watch(&self) {
        let (oracle, shop, spool) = (Arc::clone(&self.oracle), Arc::clone(&self.shop), self.spool.clone());
        let (stage, images) = (Arc::downgrade(&self.stage), Arc::clone(&self.images));
        let (by_content, out) = (self.plot.journal.is_some(), self.machine.database.with_file_name("looked-at"));
        self.stage.watch(Box::new(move |point| {
            let (true, Some(stage)) = (point == "state-written", stage.upgrade()) else { return };
            let Ok(Some(state)) = spool.state() else { return };
            let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
            let judged = match state.cursor.filter(|_| by_content && state.txid > Txid(0)) {
                Some(_) => content(&shop, state.txid, &out).and_then(|raw| oracle.stored_as(state.txid, &raw)),
                None if by_content => Ok(()),
                None => oracle.stored(&state),
            };
            if let Err(what) = judged {
                stage.trouble(what);
            }
            let number = state.cursor.and_then(|_| oracle.of(state.txid));
            stage.note(|| format!("state {} = commit {number:?}, image {:?}", state.txid, state.image));
            drop(oracle);
            if state.image.is_some() && state.txid > Txid(0) {
                images.fetch_add(1, Ordering::Relaxed);
            }
            if state.cursor.is_some() {
                shop.acknowledged(state.txid);
            }
        }));
    }

    fn world(&self, kind: Kind, life: Life) -> World {
        let io = Io::kept_by(Arc::clone(&self.shop) as Arc<dyn Home>);
        let replica_off = vec![("replica".to_string(), "off".to_string())];
        World {
            kind,
            stage: Arc::clone(&self.stage),
            machine: Arc::clone(&self.machine),
            oracle: Arc::clone(&self.oracle),
            shop: Arc::clone(&self.shop),
            life,
            registry: Arc::new(Registry::with(io, Arc::new(Crew { stage: Arc::clone(&self.stage), life }))),
            params: if kind == Kind::Replicates { self.params.clone() } else { replica_off },
            base: Arc::new(Base { machine: Arc::clone(&self.machine), life }),
            clock_steps: self.plot.clock_steps,
        }
    }

    /// The files are gone, all or all but the Spool.
    fn lose_disk(&mut self) {
        self.shop.settle();
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner).lost();
        let folder = self.machine.database.parent().expect("it is in one");
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(folder.join(format!("app.db{suffix}"))); // where it was
        }
        if self.dice.one_in(2) {
            let _ = std::fs::remove_dir_all(self.spool.folder()); // where it was
        }
        self.stage.note(|| "the disk is lost".into());
    }

    /// One process that replicates, and perhaps another one beside it; the lives that they were.
    fn round(&mut self, last: bool) -> Vec<Life> {
        let restores = self.plot.lost_disk
            && self.dice.one_in(2)
            && self.spool.state().is_ok_and(|state| state.is_some_and(|state| state.txid > Txid(0)));
        if restores {
            self.lose_disk();
        }
        let ends = if self.dice.one_in(2) { 300 } else { 4000 };
        let life = self.stage.life(if last { HOOKS_MAX } else { 1 + self.dice.below(ends) });
        let changes = weather(&mut self.dice, &self.plot);
        self.shop.weather(if restores { Weather { lags: 0, ..changes } } else { changes });
        let journal = self.plot.journal;
        let actions = |dice: &mut Dice, plot: &Plot| 3 + dice.below(if plot.long { 300 } else { 40 });
        let world = self.world(Kind::Replicates, life);
        let mut lives = vec![life];
        if let Some(kind) = self.plot.second.filter(|_| !restores && journal.is_none() && self.dice.one_in(2)) {
            let ends = if self.dice.one_in(3) { 1 + self.dice.below(2000) } else { HOOKS_MAX };
            let beside = self.stage.life(ends);
            lives.push(beside);
            let (world, dice) = (self.world(kind, beside), Dice::new(self.dice.below(1 << 40)));
            let actions = actions(&mut self.dice, &self.plot);
            self.stage.act("other", beside, move || {
                super::stage::takes(Duration::from_millis(actions));
                if let Some(app) = work(&world, dice, actions) {
                    app.close();
                }
            });
        }
        if !restores && self.dice.one_in(3) {
            let (world, dice) = (world.clone(), Dice::new(self.dice.below(1 << 40)));
            let actions = actions(&mut self.dice, &self.plot);
            self.stage.act("second", life, move || {
                super::stage::takes(Duration::from_millis(100));
                if let Some(end) = journal {
                    if let Some(writer) = write(&world, end, dice, actions) {
                        writer.close();
                    }
                } else if let Some(app) = work(&world, dice, actions) {
                    app.close();
                }
            });
        }
        let (dice, actions) = (Dice::new(self.dice.below(1 << 40)), actions(&mut self.dice, &self.plot));
        let (shop, changes) = (Arc::clone(&self.shop), weather(&mut self.dice, &self.plot));
        let idles = self.plot.idle && self.dice.one_in(2);
        self.stage.act("app", life, move || {
            let mut one = match journal {
                Some(end) => write(&world, end, dice, actions).map(One::Writer),
                None => work(&world, dice, actions).map(One::App),
            };
            let Some(mut one) = one.take() else { return };
            if idles {
                super::stage::takes(Duration::from_secs(4000));
            }
            shop.weather(if last { Weather::default() } else { changes });
            if last {
                shop.settle();
                settle(&world, one.db(), &["other", "second"], || one.look());
            }
            one.close();
            if !last {
                // The worker goes on as long as the store lets it wait.
                world.stage.ends_soon(life, 400);
            }
        });
        self.stage.play();
        lives
    }
}

/// The connection of a life that comes last.
enum One {
    App(App),
    Writer(Writer),
}

impl One {
    fn db(&self) -> Arc<Db> {
        Arc::clone(match self {
            One::App(app) => app.db(),
            One::Writer(writer) => writer.db(),
        })
    }

    fn look(&mut self) {
        match self {
            One::App(app) => app.look(),
            One::Writer(writer) => drop(writer.look()),
        }
    }

    fn close(self) {
        match self {
            One::App(app) => app.close(),
            One::Writer(writer) => writer.close(),
        }
    }
}

/// What a transaction that is stored restores to, seen from outside of the simulation.
fn content(shop: &Arc<Shop>, txid: Txid, out: &Path) -> Result<Vec<u8>, String> {
    let look = || {
        let io = Io::kept_by(Arc::new(Quiet(Arc::clone(shop))) as Arc<dyn Home>);
        let store = Store::open(&ReplicaUrl::parse(URL).expect("a URL"), &|_| None, &io).expect("it asks nothing");
        let _ = std::fs::remove_file(out); // of the one before
        restore::run(&store, Target::Txid(txid), out, Options { parallelism: 1, ..Options::default() })
            .map_err(|e| format!("{txid} was called stored and does not restore: {e}"))?;
        std::fs::read(out).map_err(|e| e.to_string())
    };
    std::thread::scope(|scope| scope.spawn(look).join().unwrap_or_else(|_| Err("a look panicked".into())))
}

/// Plays the history of a seed in an empty folder. `Err`: what must not be, and how it came.
pub fn play(seed: u64, folder: &Path) -> Result<Outcome, String> {
    let mut history = History::new(seed, folder);
    history.watch();
    history.bury();
    let began = Instant::now();
    let rounds = 1 + history.dice.below(5);
    let (mut hooks, mut kills) = (0, 0);
    for n in 1..=rounds {
        let last = n == rounds;
        history.stage.note(|| format!("round {n} of {rounds} begins"));
        let lives = history.round(last);
        let stage = &history.stage;
        for life in &lives {
            history.machine.buried(*life);
            hooks += stage.passed(*life);
            kills += usize::from(stage.is_dead(*life));
        }
        if last && stage.is_dead(lives[0]) {
            stage.trouble(format!("still at work after {HOOKS_MAX} hooks: {}", stage.names()));
        }
    }
    let mut outcome = check(&history, folder);
    let simulated = began.elapsed();
    outcome = Outcome { lives: rounds as usize, kills, hooks, simulated, ..outcome };
    let (trouble, trace) = history.stage.failures();
    if trouble.is_empty() {
        return Ok(outcome);
    }
    Err(format!("{}\n\n{:?}\n{}", trace.join("\n"), history.plot, trouble.join("\n")))
}

/// At the end: everything is stored, the Spool holds nothing that waits, and every transaction that was called stored and is
/// still kept restores to the very database of that moment.
fn check(history: &History, folder: &Path) -> Outcome {
    let History { stage, shop, spool, .. } = history;
    let oracle = history.oracle.lock().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = Outcome { commits: oracle.commits(), ..Outcome::default() };
    let state = match spool.state() {
        Ok(Some(state)) => state,
        other => {
            stage.trouble(format!("no state at the end: {other:?}"));
            return outcome;
        }
    };
    outcome.stored = state.txid.0;
    if !oracle.is_newest(state.txid) {
        let of = oracle.of(state.txid);
        stage.trouble(format!("at the end {} is commit {of:?} of {}", state.txid, oracle.commits()));
    }
    for waiting in [spool.waiting(), spool.segments()] {
        match waiting {
            Ok(none) if none.is_empty() => {}
            other => stage.trouble(format!("the Spool is not empty: {other:?}")),
        }
    }
    let url = ReplicaUrl::parse(URL).expect("a URL");
    let io = Io::kept_by(Arc::clone(shop) as Arc<dyn Home>);
    let store = Store::open(&url, &|_| None, &io).expect("it asks nothing");
    for (txid, number) in oracle.all_stored() {
        let out = folder.join("restored");
        let _ = std::fs::remove_file(&out); // of the one before
        match restore::run(&store, Target::Txid(*txid), &out, Options { parallelism: 1, ..Options::default() }) {
            Ok(restored) if restored.txid() == *txid => {
                outcome.restored += 1;
                let is = std::fs::read(&out).expect("it was restored");
                if is != oracle.image(*number).concat() {
                    stage.trouble(format!("{txid} restores to another database than commit {number}"));
                }
            }
            // Its file was merged and deleted; the newest never is.
            _ if *txid < state.txid => {}
            other => stage.trouble(format!("{txid}, the newest, does not restore: {other:?}")),
        }
    }
    outcome.images = history.images.load(Ordering::Relaxed);
    // Who dies right at the end of a transaction that the Spool had no room for leaves nothing to go on from.
    let without_contents = history.plot.small_spool && history.plot.journal.is_some();
    if outcome.images > 0 && !history.plot.lags && !oracle.had_strangers() && !without_contents {
        stage.trouble(format!("{} images without need", outcome.images));
    }
    outcome.calls = shop.counts().values().sum();
    outcome
}
