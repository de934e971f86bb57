//! `PRAGMA quick_check` of a restored file by the host's own SQLite, on threads of ours.
//!
//! The file is opened as immutable with the VFS below by its name, so that neither replication nor a lock has a part in
//! it. A check runs only while a replicated database of that SQLite is open, since a host may shut SQLite down after its
//! last close, which first ends what runs, within a bounded time. During a fork, whose child inherits SQLite's mutexes
//! as they are, and from the end of the process on, checks rest where they hold none.

use crate::api::{Api, Own, c_text};
use crate::{border, fork};
use libsqlite3_sys::{SQLITE_CORRUPT, SQLITE_INTERRUPT, sqlite3};
use litestream_engine::base::Opinion;
use litestream_engine::limits;
use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why nothing is checked where SQLite's mutexes keep nobody apart.
const ONE_THREAD: &str = "the application has set SQLite to a single thread";

/// The checks of one life of the process.
#[derive(Default)]
pub struct Checks {
    state: Mutex<State>,
    changed: Condvar,
    /// `barred`, to be read without the lock.
    rest: AtomicBool,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    count: u64,
    /// Forks that are under way, and the end of the process: no check goes on.
    barred: u32,
}

/// One check.
struct Running {
    number: u64,
    api: Api,
    /// Its connection, while that is open.
    db: *mut sqlite3,
    stop: bool,
    rests: bool,
}

// SAFETY: the connection is only interrupted by others, which SQLite allows from any thread while it is open.
unsafe impl Send for Running {}

impl Running {
    /// May be in vain before the statement has begun: said again until the check is over.
    fn end(&mut self) {
        self.stop = true;
        if !self.db.is_null() {
            // SAFETY: taken out of here, under the lock that the caller holds, before it is closed.
            unsafe { self.api.interrupt(self.db) }
        }
    }
}

impl Checks {
    /// Checks a file with the SQLite of `api`, where it may.
    pub fn run(&self, api: Api, vfs: &str, path: &Path, go_on: &dyn Fn() -> bool) -> Opinion {
        if !api.keeps_threads_apart() {
            return Opinion::Unknown(ONE_THREAD.into());
        }
        let Some(number) = self.begin(api) else { return Opinion::Stopped };
        let opinion = std::thread::scope(|scope| {
            let ask = || {
                let over = Over(self, number);
                border::guard(|| self.ask(&over, api, vfs, path))
            };
            match std::thread::Builder::new().name("litestream-sql".into()).spawn_scoped(scope, ask) {
                Ok(thread) => {
                    self.watch(number, go_on);
                    thread.join().unwrap_or_else(|_| Err("its thread panicked".into()))
                }
                Err(e) => {
                    drop(Over(self, number));
                    Ok(Opinion::Unknown(format!("no thread: {e}")))
                }
            }
        });
        opinion.unwrap_or_else(|panic| Opinion::Unknown(format!("{panic} (a defect: please report it)")))
    }

    /// Ends the checks of one SQLite, or of every one, and waits for that a little.
    pub fn end(&self, api: Option<Api>) {
        let began = Instant::now();
        let mut state = self.state();
        loop {
            let mut left = false;
            for running in state.running.iter_mut().filter(|running| api.is_none_or(|api| api == running.api)) {
                running.end();
                left = true;
            }
            if !left || began.elapsed() > limits::CHECK_ENDS {
                return;
            }
            self.changed.notify_all();
            state = self.wait(state, limits::CHECK_LOOK);
        }
    }

    /// Before a fork: none goes on, and none begins. One that does not rest soon (SQLite before 3.41 looks at nothing
    /// while it walks its trees) is ended.
    pub fn fork(&self) {
        if !self.rest() {
            self.end(None);
        }
    }

    /// From here on none goes on, and none begins. Nothing is ended: the host's log would hear of it at its own end. True
    /// where all rest.
    pub fn rest(&self) -> bool {
        let began = Instant::now();
        let mut state = self.state();
        state.barred += 1;
        self.rest.store(true, Ordering::Relaxed);
        while state.running.iter().any(|running| !running.rests) {
            let left = limits::CHECK_RESTS.saturating_sub(began.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.wait(state, left);
        }
        true
    }

    /// After a fork, in the parent.
    pub fn forked(&self) {
        let mut state = self.state();
        state.barred = state.barred.saturating_sub(1);
        self.rest.store(state.barred > 0, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// SQLite calls back: rests where it is told to. True where the check should end.
    fn rests(&self, number: u64) -> bool {
        if !self.rest.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state();
        loop {
            let barred = state.barred > 0;
            let Some(running) = state.running.iter_mut().find(|running| running.number == number) else { return true };
            running.rests = barred && !running.stop;
            if !running.rests {
                return running.stop;
            }
            self.changed.notify_all();
            state = self.wait(state, limits::CHECK_LOOK);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn begin(&self, api: Api) -> Option<u64> {
        let number = {
            let mut state = self.state();
            if state.barred > 0 {
                return None;
            }
            state.count += 1;
            let number = state.count;
            state.running.push(Running { number, api, db: std::ptr::null_mut(), stop: false, rests: false });
            number
        };
        // Asked after it is there to be ended: a last close either is seen here, or sees it.
        if fork::current().is_some_and(|life| life.open.has(api)) {
            return Some(number);
        }
        drop(Over(self, number));
        None
    }

    /// Until the check is over: asks whether it should go on.
    fn watch(&self, number: u64, go_on: &dyn Fn() -> bool) {
        loop {
            let go_on = go_on();
            let mut state = self.state();
            let Some(running) = state.running.iter_mut().find(|running| running.number == number) else { return };
            if !go_on || running.stop {
                running.end();
            }
            drop(self.wait(state, limits::CHECK_LOOK));
        }
    }

    /// Others may interrupt the connection from here on, or no more; `false` where the check should end.
    fn show(&self, number: u64, db: *mut sqlite3) -> bool {
        let mut state = self.state();
        let running = state.running.iter_mut().find(|running| running.number == number);
        running.is_some_and(|running| {
            running.db = db;
            !running.stop
        })
    }

    fn ask(&self, over: &Over<'_>, api: Api, vfs: &str, path: &Path) -> Opinion {
        let own = match Own::open(api, &uri(path), &c_text(vfs)) {
            Ok(own) => own,
            Err((code, text)) => return judge(code, text),
        };
        if !own.has_mutex() {
            return Opinion::Unknown(ONE_THREAD.into());
        }
        let shown = Shown(self, over.1);
        if !self.show(over.1, own.handle()) {
            return Opinion::Stopped;
        }
        let callback = Callback(self, over.1);
        // SAFETY: it outlives the statements below.
        unsafe { own.call_back(limits::CHECK_STEPS, called_back, (&raw const callback).cast_mut().cast()) };
        let said = (|| {
            // A memory map would not be flat; a stranger may have written the schema of a copy that was compared with nothing.
            own.texts(c"PRAGMA mmap_size = 0", 1)?;
            own.texts(c"PRAGMA trusted_schema = OFF", 1)?;
            own.texts(&c_text(&format!("PRAGMA cache_size = -{}", limits::CHECK_CACHE)), 1)?;
            let rows = limits::CHECK_ROWS.0;
            own.texts(&c_text(&format!("PRAGMA quick_check({rows})")), rows)
        })();
        // What was found of a file that was not read to its end is not true.
        if !self.show(over.1, own.handle()) {
            return Opinion::Stopped;
        }
        drop(shown);
        match said {
            Ok(rows) => opinion(&rows),
            Err((code, text)) => judge(code, text),
        }
    }
}

/// What SQLite gives back when it calls.
struct Callback<'a>(&'a Checks, u64);

unsafe extern "C" fn called_back(callback: *mut c_void) -> c_int {
    // SAFETY: given by `Checks::ask`, in whose call this runs.
    let callback = unsafe { &*callback.cast::<Callback<'_>>() };
    border::shield("a check", 1, || callback.0.rests(callback.1).into())
}

/// While others may interrupt the connection; dropped before that is closed.
struct Shown<'a>(&'a Checks, u64);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.show(self.1, std::ptr::null_mut());
    }
}

/// Takes a check off the list when it is dropped: its connection is closed then.
struct Over<'a>(&'a Checks, u64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().running.retain(|running| running.number != self.1);
        self.0.changed.notify_all();
    }
}

/// What the rows of `quick_check` mean.
fn opinion(rows: &[String]) -> Opinion {
    /// The beginning of what FTS says where it could not look.
    const NOT_LOOKED: &str = "unable to validate";
    let (unknown, found): (Vec<&String>, Vec<&String>) =
        rows.iter().filter(|row| *row != "ok").partition(|row| row.starts_with(NOT_LOOKED));
    match (&found[..], &unknown[..]) {
        ([], []) if rows.is_empty() => Opinion::Unknown("this SQLite has no quick_check".into()),
        ([], []) => Opinion::Sound,
        ([], unknown) => Opinion::Unknown(short(unknown)),
        (found, _) => Opinion::Damaged(short(found)),
    }
}

/// What an error of the check means. A schema may need functions, collations and flags that only its application's own
/// connections have, and a file may be encrypted by its application's SQLite: neither is damage.
fn judge(code: c_int, text: String) -> Opinion {
    let unknown = text.contains("no such") || text.contains("unknown function");
    match code & 0xff {
        SQLITE_INTERRUPT => Opinion::Stopped,
        SQLITE_CORRUPT if !unknown => Opinion::Damaged(text),
        _ => Opinion::Unknown(text),
    }
}

/// One line of bounded length.
fn short(rows: &[&String]) -> String {
    let lines = rows.iter().flat_map(|row| row.lines()).filter(|line| !line.starts_with("*** in database"));
    let text = lines.collect::<Vec<_>>().join("; ");
    match text.char_indices().nth(limits::CHECK_ROWS.1) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A path as SQLite's URI, whatever bytes it holds. Immutable: no lock, and no `-wal`, `-shm` or `-journal` beside it.
fn uri(path: &Path) -> CString {
    let mut uri = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri += &format!("%{byte:02x}");
        }
    }
    c_text(&(uri + "?immutable=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&str]) -> Vec<String> {
        rows.iter().map(|row| (*row).to_string()).collect()
    }

    /// Goal: damage is told from what a connection without its application cannot know. Method: what SQLite says.
    #[test]
    fn only_damage_is_called_damage() {
        let unknown = |text: &str| Opinion::Unknown(text.to_string());
        for text in ["no such collation sequence: mine", "unknown function: mine()", "file is not a database"] {
            assert_eq!(judge(1, text.into()), unknown(text));
        }
        let schema = "malformed database schema (i) - no such function: mine";
        assert_eq!(judge(SQLITE_CORRUPT, schema.into()), unknown(schema));
        let malformed = "database disk image is malformed";
        assert_eq!(judge(SQLITE_CORRUPT | 1 << 8, malformed.into()), Opinion::Damaged(malformed.into()));
        assert_eq!(judge(SQLITE_INTERRUPT, "interrupted".into()), Opinion::Stopped);
    }

    /// Goal: rows are told in one short line. Method: rows of old and new versions, and a long one.
    #[test]
    fn rows_become_one_line() {
        assert_eq!(opinion(&rows(&["ok"])), Opinion::Sound);
        assert!(matches!(opinion(&[]), Opinion::Unknown(_)));
        let fts = "unable to validate the inverted index for FTS5 table main.f: error";
        assert_eq!(opinion(&rows(&[fts])), Opinion::Unknown(fts.into()));
        let found = opinion(&rows(&["*** in database main ***\nTree 2 page 3: a\nPage 4: never used", fts, "b"]));
        assert_eq!(found, Opinion::Damaged("Tree 2 page 3: a; Page 4: never used; b".into()));
        let Opinion::Damaged(long) = opinion(&["é".repeat(5000)]) else { panic!("damage") };
        assert_eq!(long.chars().count(), limits::CHECK_ROWS.1 + 1);
    }

    /// Goal: any path is one URI. Method: a path with SQLite's own signs in it.
    #[test]
    fn a_path_with_signs_is_one_uri() {
        let uri = uri(Path::new("/a b/c?d#e%f/.g-1"));
        assert_eq!(uri.to_str(), Ok("file:///a%20b/c%3fd%23e%25f/.g-1?immutable=1"));
    }
}
