//! One simulated history: processes that come and are killed one after the other, what they do, and what must hold.

use super::app::{App, World, first_image};
use super::checkpoint::Mode;
use super::machine::{Base, Machine};
use super::oracle::Oracle;
use super::stage::{self, Crew, Stage};
use super::store::{Shop, Weather};
use crate::dice::Dice;
use litestream_engine::ltx::Txid;
use litestream_engine::plan::Target;
use litestream_engine::registry::Registry;
use litestream_engine::restore::{self, Options};
use litestream_engine::spool::Spool;
use litestream_engine::store::{Home, Io, ReplicaUrl, Store};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const URL: &str = "s3://bucket/app";
/// Longest simulated time, with a store that works, until everything is stored.
const SETTLES: Duration = Duration::from_secs(60);
/// Hooks that the last life may pass: more, and something goes in circles.
const HOOKS_MAX: u64 = 200_000;

/// What came of a history.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub commits: usize,
    pub lives: usize,
    pub stored: u64,
    pub restored: usize,
    pub hooks: u64,
    pub images: u64,
    pub calls: u64,
    pub simulated: Duration,
}

fn weather(dice: &mut Dice) -> Weather {
    let bad = |dice: &mut Dice, often: u64| if dice.one_in(2) { 0 } else { 2 + dice.below(often) };
    match dice.below(4) {
        0 => Weather::default(),
        1 => Weather { refuses: 1 + dice.below(2), ..Weather::default() },
        _ => Weather {
            refuses: bad(dice, 6),
            hangs: bad(dice, 12),
            loses: bad(dice, 6),
            late: bad(dice, 8),
            lags: bad(dice, 6),
        },
    }
}

/// What one connection does in its life.
fn work(world: &World, mut dice: Dice, actions: u64) -> Option<App> {
    let mut app = match App::open(world.clone()) {
        Ok(app) => app,
        Err(e) => {
            world.stage.trouble(format!("an open failed: {e}"));
            return None;
        }
    };
    let mut reads = None;
    for _ in 0..actions {
        let pages: Vec<u64> = (0..1 + dice.below(6)).map(|_| dice.below(1 << 20)).collect();
        let size = app.pages();
        match dice.below(20) {
            0..=8 => drop(app.commit(&pages, size, true)),
            9 => drop(app.commit(&pages, size + dice.below(5) as usize, true)),
            10 => drop(app.commit(&pages, (size - (size / 3).min(dice.below(4) as usize)).max(2), true)),
            11 => drop(app.commit(&pages, size, false)),
            12 | 13 => drop(app.checkpoint(Mode::Passive)),
            14 => drop(app.checkpoint(Mode::Restart)),
            15 => drop(app.checkpoint(Mode::Truncate)),
            16 => match reads.take() {
                Some(slot) => app.read_ends(slot),
                None => reads = app.read_begins(),
            },
            17 => {
                let _ = app.conn.as_ref().expect("open").db().sync(Duration::ZERO);
            }
            18 => {
                if let Some(slot) = reads.take() {
                    app.read_ends(slot);
                }
                app.close();
                stage::takes(Duration::from_millis(dice.below(3000)));
                app = App::open(world.clone()).map_err(|e| world.stage.trouble(format!("an open failed: {e}"))).ok()?;
            }
            _ => stage::takes(Duration::from_millis(dice.of(&[1, 10, 100, 1000, 10_000, 4_000_000]))),
        }
        stage::takes(Duration::from_micros(dice.of(&[10, 100, 1000, 30_000, 300_000])));
    }
    if let Some(slot) = reads.take() {
        app.read_ends(slot);
    }
    Some(app)
}

/// The last connection of all: everything is stored within a bounded time.
fn settle(world: &World, app: App) {
    let began = Instant::now();
    let db = Arc::clone(app.conn.as_ref().expect("open").db());
    let is_stored = || {
        let Ok(Some(state)) = db.spool().state() else { return false };
        let oracle = world.oracle.lock().unwrap_or_else(PoisonError::into_inner);
        state.cursor.is_some() && oracle.of(state.txid) == Some(oracle.commits())
    };
    // Asked once, so that a call that is lost shows.
    let _ = db.sync(Duration::ZERO);
    while !is_stored() {
        if began.elapsed() > SETTLES {
            world.stage.trouble(format!("not stored after {SETTLES:?} with a store that works: {:?}", db.status()));
            break;
        }
        stage::takes(Duration::from_millis(50));
    }
    drop(db);
    app.close();
}

/// Plays the history of a seed in an empty folder. `Err`: what must not be, and how it came.
pub fn play(seed: u64, folder: &Path) -> Result<Outcome, String> {
    let mut dice = Dice::new(seed);
    let stage = Stage::new(Dice::new(seed ^ 0x5151), 1 + dice.below(12));
    let shop = Shop::new(Arc::clone(&stage));
    let machine = Machine::new(folder);
    let first = first_image(2 + dice.below(30) as usize, seed);
    std::fs::write(&machine.database, first.concat()).map_err(|e| e.to_string())?;
    let oracle = Arc::new(Mutex::new(Oracle::new(first)));
    let spool = Spool::of(&machine.database);
    {
        let (oracle, shop, spool, stage_) =
            (Arc::clone(&oracle), Arc::clone(&shop), spool.clone(), Arc::downgrade(&stage));
        stage.watch(Box::new(move |point| {
            let (true, Some(stage)) = (point == "state-written", stage_.upgrade()) else { return };
            let Ok(Some(state)) = spool.state() else { return };
            let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(what) = oracle.stored(&state) {
                stage.trouble(what);
            }
            let number = state.cursor.and_then(|_| oracle.of(state.txid));
            stage.note(|| format!("state {} = commit {number:?}, image {:?}", state.txid, state.image));
            drop(oracle);
            if state.cursor.is_some() {
                shop.acknowledged(state.txid);
            }
        }));
    }
    let interval = dice.of(&["10ms", "100ms", "1s", "3s"]);
    let params: Vec<(String, String)> = [
        ("replica", URL),
        ("sync-interval", interval),
        ("levels", dice.of(&["2s,10s", "1s", "30s,300s,3600s"])),
        ("snapshot-interval", dice.of(&["30s", "1h"])),
        ("snapshot-retention", dice.of(&["60s", "2h"])),
        ("l0-retention", dice.of(&["5s", "5m"])),
    ]
    .iter()
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .collect();
    let lives = 1 + dice.below(5);
    let began = Instant::now();
    let mut hooks = 0;
    for n in 1..=lives {
        let last = n == lives;
        let life = stage.life(if last { HOOKS_MAX } else { 1 + dice.below(dice_of_end(n)) });
        shop.weather(weather(&mut dice));
        let io = Io::kept_by(Arc::clone(&shop) as Arc<dyn Home>);
        let registry = Arc::new(Registry::with(io, Arc::new(Crew { stage: Arc::clone(&stage), life })));
        let world = World {
            stage: Arc::clone(&stage),
            machine: Arc::clone(&machine),
            oracle: Arc::clone(&oracle),
            life,
            registry,
            params: params.clone(),
            base: Arc::new(Base { machine: Arc::clone(&machine), life }),
        };
        stage.note(|| format!("life {n} begins"));
        let (dice_of_app, actions) = (Dice::new(dice.below(1 << 40)), 3 + dice.below(40));
        let (shop_of_app, changes) = (Arc::clone(&shop), weather(&mut dice));
        stage.act("app", life, move || {
            let Some(app) = work(&world, dice_of_app, actions) else { return };
            shop_of_app.weather(if last { Weather::default() } else { changes });
            if last {
                shop_of_app.settle();
                settle(&world, app);
            } else {
                let stage = Arc::clone(&world.stage);
                app.close();
                // The worker goes on as long as the store lets it wait.
                stage.ends_soon(life, 400);
            }
        });
        stage.play();
        machine.buried(life);
        hooks += stage.passed(life);
        if last && stage.is_dead(life) {
            stage.trouble(format!("still at work after {HOOKS_MAX} hooks: {}", stage.names()));
        }
    }
    let simulated = began.elapsed();
    let mut outcome = check(&stage, &shop, &oracle, &spool, folder);
    (outcome.lives, outcome.hooks, outcome.simulated) = (lives as usize, hooks, simulated);
    let (trouble, trace) = stage.failures();
    if trouble.is_empty() { Ok(outcome) } else { Err(format!("{}\n\n{}", trace.join("\n"), trouble.join("\n"))) }
}

fn dice_of_end(life: u64) -> u64 {
    if life.is_multiple_of(2) { 300 } else { 4000 }
}

/// At the end: everything is stored, the Spool holds nothing that waits, and every transaction that was called stored and is
/// still kept restores to the very database of that moment.
fn check(stage: &Arc<Stage>, shop: &Arc<Shop>, oracle: &Mutex<Oracle>, spool: &Spool, folder: &Path) -> Outcome {
    let oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = Outcome { commits: oracle.commits(), ..Outcome::default() };
    let state = match spool.state() {
        Ok(Some(state)) => state,
        other => {
            stage.trouble(format!("no state at the end: {other:?}"));
            return outcome;
        }
    };
    outcome.stored = state.txid.0;
    if oracle.of(state.txid) != Some(oracle.commits()) {
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
    outcome.images = shop.listing().iter().filter(|file| file.span.min == Txid(1)).count() as u64;
    outcome.calls = shop.counts().values().sum();
    outcome
}
