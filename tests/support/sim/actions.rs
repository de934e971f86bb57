//! What a simulated connection does in its life, and how the last one waits until everything is stored.

use super::app::{App, Kind, World};
use super::checkpoint::Mode;
use super::journal::{End, Writer};
use super::stage;
use super::store::Weather;
use crate::dice::Dice;
use litestream_engine::db::Db;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Level, Txid};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Longest simulated time, with a store that works, until everything is stored.
const SETTLES: Duration = Duration::from_secs(60);
/// Longest simulated time, with a store that works, until everything stored is merged once: twice the longest interval of
/// level 1, and the longest pause after an error.
const MERGES: Duration = Duration::from_secs(360);
/// Steps of a wall clock that somebody sets, in seconds: a minute to a month.
const STEPS: [i64; 6] = [60, 600, 7200, 86_400, 3 * 86_400, 30 * 86_400];
/// One in so many actions sets it.
const SET: u64 = 12;
/// Opens in a row that may fail because a missing file cannot be restored now.
const OPENS: u32 = 20;

fn open(world: &World) -> Option<App> {
    open_by(world, App::open)
}

/// A restore made the file.
fn seen(world: &World) -> Result<(), String> {
    let raw = std::fs::read(&world.machine.database).map_err(|e| e.to_string())?;
    let number = world.oracle.lock().unwrap_or_else(PoisonError::into_inner).restored(&raw)?;
    world.stage.note(|| format!("restored to commit {number}"));
    Ok(())
}

/// What one connection does; open at the end.
pub fn work(world: &World, mut dice: Dice, actions: u64) -> Option<App> {
    let mut app = open(world)?;
    let mut reads = None;
    for _ in 0..actions {
        set_clock_now_and_then(world, &mut dice);
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
            17 if world.kind == Kind::Replicates => drop(app.db().sync(Duration::ZERO)),
            18 if reads.is_none() => {
                app.close();
                stage::takes(Duration::from_millis(dice.below(3000)));
                app = open(world)?;
            }
            _ => stage::takes(Duration::from_millis(dice.of(&[1, 10, 100, 1000, 10_000]))),
        }
        stage::takes(Duration::from_micros(dice.of(&[10, 100, 1000, 30_000, 300_000])));
    }
    if let Some(slot) = reads.take() {
        app.read_ends(slot);
    }
    Some(app)
}

/// Tries to open for a while: a missing file may have to wait for its store.
fn open_by<T>(world: &World, open: impl Fn(World) -> Result<T, Error>) -> Option<T> {
    for tries in 0..OPENS {
        if tries == OPENS / 2 {
            world.shop.weather(Weather::default());
        }
        let was_there = world.machine.database.exists();
        if !was_there && world.kind != Kind::Replicates {
            // It would begin a new database.
            stage::takes(Duration::from_secs(1));
            continue;
        }
        match open(world.clone()) {
            Ok(opened) => {
                if !was_there && let Err(what) = seen(world) {
                    world.stage.trouble(what);
                    return None;
                }
                return Some(opened);
            }
            // Better than an empty database.
            Err(Error::Unreachable(_) | Error::Timeout(_)) if !was_there => stage::takes(Duration::from_secs(1)),
            Err(e) => {
                world.stage.trouble(format!("an open failed: {e}"));
                return None;
            }
        }
    }
    None
}

/// What one connection does in a rollback-journal mode; open at the end.
pub fn write(world: &World, end: End, mut dice: Dice, actions: u64) -> Option<Writer> {
    let mut writer = open_by(world, |world| Writer::open(world, end))?;
    for _ in 0..actions {
        set_clock_now_and_then(world, &mut dice);
        let pages: Vec<u64> = (0..1 + dice.below(6)).map(|_| dice.below(1 << 20)).collect();
        let size = writer.pages();
        match dice.below(16) {
            0..=8 => drop(writer.commit(&pages, size, true)),
            9 => drop(writer.commit(&pages, size + dice.below(5) as usize, true)),
            10 => drop(writer.commit(&pages, (size - (size / 3).min(dice.below(4) as usize)).max(2), true)),
            11 => drop(writer.commit(&pages, size, false)),
            12 => drop(writer.db().sync(Duration::ZERO)),
            13 => {
                writer.close();
                stage::takes(Duration::from_millis(dice.below(3000)));
                writer = open_by(world, |world| Writer::open(world, end))?;
            }
            _ => stage::takes(Duration::from_millis(dice.of(&[1, 10, 100, 1000, 10_000]))),
        }
        stage::takes(Duration::from_micros(dice.of(&[10, 100, 1000, 30_000, 300_000])));
    }
    Some(writer)
}

/// The last connection of all: when the others are gone, everything is stored within a bounded time. It looks first.
pub fn settle(world: &World, db: Arc<Db>, others: &[&str], look: impl FnOnce()) {
    while world.stage.acts(others) {
        stage::takes(Duration::from_millis(50));
    }
    look();
    let began = Instant::now();
    let is_stored = || {
        let Ok(Some(state)) = db.spool().state() else { return false };
        let oracle = world.oracle.lock().unwrap_or_else(PoisonError::into_inner);
        state.cursor.is_some() && oracle.is_newest(state.txid)
    };
    // Asked once, so that a call that is lost shows.
    let _ = db.sync(Duration::ZERO);
    while !is_stored() {
        if began.elapsed() > SETTLES {
            world.stage.trouble(format!("not stored after {SETTLES:?} with a store that works: {:?}", db.status()));
            world.stage.ends_soon(world.life, 400);
            break;
        }
        stage::takes(Duration::from_millis(50));
    }
    merge(world);
}

fn set_clock_now_and_then(world: &World, dice: &mut Dice) {
    if world.clock_steps && dice.one_in(SET) {
        let step = dice.of(&STEPS);
        stage::set_clock(if dice.one_in(2) { step } else { -step });
    }
}

/// Nobody commits any more: when the interval is over, the newest transaction is in a file of a level above the raw ones.
/// A wall clock that was set back does not keep it from that.
fn merge(world: &World) {
    let began = Instant::now();
    let (mut raw, mut merged) = (Txid(0), Txid(0));
    while began.elapsed() < MERGES {
        for file in world.shop.listing() {
            let reach = if file.level == Level::RAW { &mut raw } else { &mut merged };
            *reach = file.span.max.max(*reach);
        }
        if merged >= raw {
            return;
        }
        stage::takes(Duration::from_secs(1));
    }
    world.stage.trouble(format!("{raw} is stored, and after {MERGES:?} only {merged} is merged"));
}
