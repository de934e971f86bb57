//! Threads of a test, of which one runs at a time: who is next is thrown by dice at each operation on something shared. A
//! schedule in which all of them wait for each other fails, with its seed.

use crate::dice::Dice;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What ends the other threads of a schedule that failed.
struct Over;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Runs,
    /// Waits for something to change after this.
    Waits(u64),
    Done,
}

struct Inner {
    threads: Vec<Place>,
    bells: Vec<Arc<Condvar>>,
    current: Option<usize>,
    /// Counts what may change what somebody waits for.
    changes: u64,
    dice: Dice,
    /// One in so many steps is perhaps another thread's.
    sticks: u64,
    trouble: Option<String>,
    joins: Vec<JoinHandle<()>>,
}

/// One schedule.
pub struct Explorer {
    inner: Mutex<Inner>,
    over: Condvar,
}

thread_local! {
    static ME: RefCell<Option<(Arc<Explorer>, usize)>> = const { RefCell::new(None) };
}

fn me() -> Option<(Arc<Explorer>, usize)> {
    if std::thread::panicking() {
        return None;
    }
    ME.with(|slot| slot.borrow().clone())
}

impl Explorer {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, inner: &mut Inner) {
        let changes = inner.changes;
        let may = |place: &Place| match place {
            Place::Runs => true,
            Place::Waits(since) => *since < changes,
            Place::Done => false,
        };
        let all = inner.trouble.is_some();
        let alive = |place: &Place| *place != Place::Done;
        let ready = |inner: &Inner, all: bool| -> Vec<usize> {
            (0..inner.threads.len())
                .filter(|n| if all { alive(&inner.threads[*n]) } else { may(&inner.threads[*n]) })
                .collect()
        };
        let mut next = ready(inner, all);
        if next.is_empty() && inner.threads.iter().any(alive) {
            inner.trouble = Some("all threads wait, and nobody is left to wake them".into());
            next = ready(inner, true);
        }
        // Long runs of one thread find what a fair mixture never does.
        let stays =
            inner.current.filter(|now| next.contains(now) && inner.sticks > 1 && !inner.dice.one_in(inner.sticks));
        inner.current =
            stays.or_else(|| (!next.is_empty()).then(|| next[inner.dice.below(next.len() as u64) as usize]));
        match inner.current {
            Some(next) => inner.bells[next].notify_all(),
            None => self.over.notify_all(),
        }
    }

    fn turn<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, me: usize) {
        let bell = Arc::clone(&inner.bells[me]);
        while inner.current != Some(me) {
            inner = bell.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.threads[me] = Place::Runs;
        let over = inner.trouble.is_some();
        drop(inner);
        if over && !std::thread::panicking() {
            resume_unwind(Box::new(Over));
        }
    }

    fn act(self: &Arc<Explorer>, body: impl FnOnce() + Send + 'static) {
        let mut inner = self.inner();
        let number = inner.threads.len();
        inner.threads.push(Place::Runs);
        inner.bells.push(Arc::default());
        let explorer = Arc::clone(self);
        let join = std::thread::spawn(move || {
            ME.with(|slot| *slot.borrow_mut() = Some((Arc::clone(&explorer), number)));
            let ended = catch_unwind(AssertUnwindSafe(|| {
                explorer.turn(explorer.inner(), number);
                body();
            }));
            let mut inner = explorer.inner();
            if let Err(panic) = ended
                && !panic.is::<Over>()
            {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                inner.trouble.get_or_insert(text.unwrap_or_default());
            }
            inner.threads[number] = Place::Done;
            inner.changes += 1;
            explorer.pass_on(&mut inner);
        });
        inner.joins.push(join);
    }
}

/// Plays one schedule of these threads; `Err` says what went wrong in it.
pub fn play(seed: u64, threads: Vec<Box<dyn FnOnce() + Send>>) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let inner = Inner {
        sticks: dice.of(&[1, 2, 4, 8, 20]),
        threads: Vec::new(),
        bells: Vec::new(),
        current: None,
        changes: 0,
        dice,
        trouble: None,
        joins: Vec::new(),
    };
    let explorer = Arc::new(Explorer { inner: Mutex::new(inner), over: Condvar::new() });
    for body in threads {
        explorer.act(body);
    }
    let mut inner = explorer.inner();
    explorer.pass_on(&mut inner);
    while inner.current.is_some() {
        inner = explorer.over.wait(inner).unwrap_or_else(PoisonError::into_inner);
    }
    let (joins, trouble) = (std::mem::take(&mut inner.joins), inner.trouble.take());
    drop(inner);
    for join in joins {
        join.join().expect("it catches what its body throws");
    }
    trouble.map_or(Ok(()), Err)
}

/// A thread that one of the others begins.
pub fn spawn(body: impl FnOnce() + Send + 'static) {
    let (explorer, _) = me().expect("called on a thread of a schedule");
    explorer.act(body);
}

/// Before an operation on something shared: whoever is next goes first. What was done before may be what somebody waits for.
pub fn point() {
    let Some((explorer, me)) = me() else { return std::thread::yield_now() };
    let mut inner = explorer.inner();
    inner.changes += 1;
    explorer.pass_on(&mut inner);
    explorer.turn(inner, me);
}

/// Waits until that is so.
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let mut is_new = true;
    while !is_so() {
        let Some((explorer, me)) = me() else {
            std::thread::yield_now();
            continue;
        };
        let mut inner = explorer.inner();
        inner.changes += u64::from(std::mem::take(&mut is_new));
        inner.threads[me] = Place::Waits(inner.changes);
        explorer.pass_on(&mut inner);
        explorer.turn(inner, me);
    }
}

/// True on a thread of a schedule: there no wait ever ends by its time.
pub fn is_played() -> bool {
    me().is_some()
}
