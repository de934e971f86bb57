//! The stage of a simulation: actors on threads of their own, of which one runs at a time. Who is next, and when, follows
//! from the dice; time passes only where nobody can run, or where somebody says that something takes time.
//!
//! An actor gives others a chance at its hooks: each call to the store and the base, each `fault::point` of the engine.
//! There a life can end, too: whoever belongs to it unwinds, as far as a kill can be told within one process.

use crate::dice::Dice;
use litestream_engine::threads::{Body, Threads};
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What unwinds a killed actor.
struct Killed;

thread_local! {
    static ME: RefCell<Option<(Arc<Stage>, usize)>> = const { RefCell::new(None) };
}

/// One process at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(pub usize);

struct Actor {
    name: String,
    life: Life,
    ready_at: Instant,
    rests: bool,
    done: bool,
    bell: Arc<Condvar>,
}

struct Inner {
    actors: Vec<Actor>,
    current: Option<usize>,
    dice: Dice,
    /// Hooks passed by each life, and the one at which it ends.
    lives: Vec<(u64, u64)>,
    /// One in so many hooks gives the others a chance.
    patience: u64,
    trouble: Vec<String>,
    joins: Vec<JoinHandle<()>>,
    trace: Vec<String>,
}

type Watch = Box<dyn Fn(&str) + Send + Sync>;
type Grave = Box<dyn Fn(Life) + Send + Sync>;

pub struct Stage {
    inner: Mutex<Inner>,
    watch: OnceLock<Watch>,
    grave: OnceLock<Grave>,
    /// Rings when nobody is left.
    over: Condvar,
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

impl Stage {
    pub fn new(dice: Dice, patience: u64) -> Arc<Stage> {
        let inner = Inner {
            actors: Vec::new(),
            current: None,
            dice,
            lives: Vec::new(),
            patience,
            trouble: Vec::new(),
            joins: Vec::new(),
            trace: Vec::new(),
        };
        Arc::new(Stage {
            inner: Mutex::new(inner),
            watch: OnceLock::new(),
            grave: OnceLock::new(),
            over: Condvar::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is told of each point that the engine passes, before anything can happen there.
    pub fn watch(&self, watch: Watch) {
        let _ = self.watch.set(watch);
    }

    /// Is told of each kill, at its moment: what the system takes back from a process is gone.
    pub fn bury(&self, grave: Grave) {
        let _ = self.grave.set(grave);
    }

    /// Throws the dice.
    pub fn below(&self, n: u64) -> u64 {
        self.inner().dice.below(n)
    }

    /// A new life, which ends at that hook.
    pub fn life(&self, ends_at: u64) -> Life {
        let mut inner = self.inner();
        inner.lives.push((0, ends_at));
        Life(inner.lives.len() - 1)
    }

    /// It ends at the latest after so many hooks more.
    pub fn ends_soon(&self, life: Life, hooks: u64) {
        let mut inner = self.inner();
        let (passed, end) = &mut inner.lives[life.0];
        *end = (*end).min(*passed + hooks);
    }

    /// True once it ended by a kill.
    pub fn is_dead(&self, life: Life) -> bool {
        let (passed, end) = self.inner().lives[life.0];
        passed >= end
    }

    /// True while an actor of one of these names is at work.
    pub fn acts(&self, names: &[&str]) -> bool {
        self.inner().actors.iter().any(|actor| !actor.done && names.contains(&actor.name.as_str()))
    }

    /// Hooks that a life has passed.
    pub fn passed(&self, life: Life) -> u64 {
        self.inner().lives[life.0].0
    }

    /// Something must not be: the simulation ends, and says so.
    pub fn trouble(&self, what: String) {
        self.inner().trouble.push(what);
    }

    /// A line for whoever looks into a failure.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let line = format!("{:?} {}", Instant::now(), line());
        if std::env::var_os("LITESTREAM_TRACE").is_some() {
            eprintln!("{line}");
        }
        let mut inner = self.inner();
        inner.trace.push(line);
        if inner.trace.len() > 400 {
            inner.trace.drain(..200);
        }
    }

    pub fn failures(&self) -> (Vec<String>, Vec<String>) {
        let mut inner = self.inner();
        (std::mem::take(&mut inner.trouble), std::mem::take(&mut inner.trace))
    }

    /// A new actor.
    pub fn act(self: &Arc<Stage>, name: &str, life: Life, body: impl FnOnce() + Send + 'static) {
        let bell = Arc::new(Condvar::new());
        let mut inner = self.inner();
        let me = inner.actors.len();
        let actor = Actor {
            name: name.to_string(),
            life,
            ready_at: Instant::now(),
            rests: false,
            done: false,
            bell: Arc::clone(&bell),
        };
        inner.actors.push(actor);
        let stage = Arc::clone(self);
        let join = std::thread::Builder::new().name(format!("sim-{name}")).spawn(move || {
            ME.with(|slot| *slot.borrow_mut() = Some((Arc::clone(&stage), me)));
            drop(stage.wait_for_turn(stage.inner(), me));
            let ended = catch_unwind(AssertUnwindSafe(|| {
                stage.check_alive(life);
                body();
            }));
            if let Err(panic) = ended
                && !panic.is::<Killed>()
            {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                stage.trouble(format!("an actor panicked: {}", text.unwrap_or_default()));
            }
            let mut inner = stage.inner();
            inner.actors[me].done = true;
            stage.pass_on(&mut inner);
        });
        inner.joins.push(join.expect("a thread"));
    }

    fn wait_for_turn<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, me: usize) -> MutexGuard<'a, Inner> {
        let bell = Arc::clone(&inner.actors[me].bell);
        while inner.current != Some(me) {
            inner = bell.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner
    }

    /// Chooses who is next and rings; nobody is left: the stage is over.
    fn pass_on(&self, inner: &mut Inner) {
        let now = Instant::now();
        let alive: Vec<usize> = (0..inner.actors.len()).filter(|i| !inner.actors[*i].done).collect();
        let dead = |inner: &Inner, i: usize| {
            let (passed, end) = inner.lives[inner.actors[i].life.0];
            passed >= end
        };
        let mut ready: Vec<usize> =
            alive.iter().copied().filter(|i| inner.actors[*i].ready_at <= now || dead(inner, *i)).collect();
        if ready.is_empty()
            && let Some(first) = alive.iter().copied().min_by_key(|i| inner.actors[*i].ready_at)
        {
            sleep_until(inner.actors[first].ready_at);
            ready.push(first);
        }
        inner.current = (!ready.is_empty()).then(|| ready[inner.dice.below(ready.len() as u64) as usize]);
        match inner.current {
            Some(next) => inner.actors[next].bell.notify_all(),
            None => self.over.notify_all(),
        }
    }

    /// The driver's part: lets everybody act until nobody is left.
    pub fn play(&self) {
        let mut inner = self.inner();
        self.pass_on(&mut inner);
        while inner.current.is_some() {
            inner = self.over.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let joins = std::mem::take(&mut inner.joins);
        drop(inner);
        for join in joins {
            join.join().expect("it catches what its body throws");
        }
    }

    fn check_alive(&self, life: Life) {
        if self.is_dead(life) && !std::thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
    }

    /// The calling actor gives way until then.
    fn give_way(&self, me: usize, until: Instant, rests: bool) {
        let mut inner = self.inner();
        inner.actors[me].ready_at = until;
        inner.actors[me].rests = rests;
        self.pass_on(&mut inner);
        let mut inner = self.wait_for_turn(inner, me);
        inner.actors[me].rests = false;
        let life = inner.actors[me].life;
        drop(inner);
        self.check_alive(life);
    }

    /// Whoever rests may have something to do now.
    pub fn poke(&self) {
        let mut inner = self.inner();
        let now = Instant::now();
        for actor in inner.actors.iter_mut().filter(|actor| actor.rests) {
            actor.ready_at = now;
        }
    }

    pub fn names(&self) -> String {
        let inner = self.inner();
        inner.actors.iter().filter(|actor| !actor.done).map(|actor| actor.name.clone()).collect::<Vec<_>>().join(", ")
    }
}

fn me() -> Option<(Arc<Stage>, usize)> {
    if std::thread::panicking() {
        return None;
    }
    ME.with(|slot| slot.borrow().clone())
}

/// A `fault::point` of the engine.
pub fn point(name: &str) {
    if let Some((stage, _)) = me()
        && let Some(watch) = stage.watch.get()
    {
        watch(name);
    }
    hook(name);
}

/// The actor that calls passes a point: others may run, its life may end.
pub fn hook(what: &str) {
    let Some((stage, me)) = me() else { return };
    let mut inner = stage.inner();
    let life = inner.actors[me].life;
    let (passed, end) = &mut inner.lives[life.0];
    *passed += 1;
    let dies = *passed >= *end;
    let took = inner.dice.below(100);
    let patience = inner.patience;
    let yields = !dies && inner.dice.below(patience) == 0;
    drop(inner);
    if dies {
        stage.note(|| format!("killed at {what}"));
        if let Some(grave) = stage.grave.get() {
            grave(life);
        }
        resume_unwind(Box::new(Killed));
    }
    std::thread::sleep(Duration::from_micros(took));
    if yields {
        // Now and then the system lets it wait long.
        let waits = [0, 0, 0, 0, 0, 200, 5_000, 100_000][stage.below(8) as usize];
        stage.give_way(me, Instant::now() + Duration::from_micros(waits), false);
    }
}

/// The actor that calls does nothing for so long.
pub fn takes(time: Duration) {
    if let Some((stage, me)) = me() {
        stage.give_way(me, Instant::now() + time, false);
    }
}

/// The wall clock is set, forward or back; the monotonic one goes on. By the name of a thread that does nothing else
/// (tests/c/simulated.c).
pub fn set_clock(seconds: i64) {
    if let Some((stage, _)) = me() {
        stage.note(|| format!("the wall clock is set by {seconds} s"));
        let setter = std::thread::Builder::new().name(format!("sim+{seconds}")).spawn(|| {});
        setter.expect("a thread").join().expect("it does nothing");
    }
}

/// True on a thread of the stage; others (a restore's team) see a store without faults.
pub fn is_actor() -> bool {
    me().is_some()
}

/// What the engine logs stands in the trace.
pub struct Ear;

impl log::Log for Ear {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some((stage, _)) = me() {
            stage.note(|| format!("{}: {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// The engine's threads, as actors of one life.
pub struct Crew {
    pub stage: Arc<Stage>,
    pub life: Life,
}

impl Threads for Crew {
    fn run(&self, name: &'static str, body: Body) -> io::Result<()> {
        self.stage.act(name, self.life, body);
        Ok(())
    }

    fn rest(&self, until: Instant, _wait: &mut dyn FnMut()) {
        if let Some((stage, me)) = me() {
            stage.give_way(me, until, true);
        }
    }

    fn pause(&self, time: Duration) {
        takes(time);
    }
}
