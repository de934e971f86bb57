//! What the connections of one member do: transactions on the ledger, checkpoints of every mode, readers that stay, syncs,
//! closes and reopens, until the member leaves or is killed.
#![allow(dead_code, clippy::unwrap_used)]

use super::crew::{goes_on, say, setting};
use super::dice::Dice;
use super::ledger;
pub use crate::support::load;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::time::{Duration, Instant};

/// Time that a connection waits for a lock before it says BUSY.
const BUSY: Duration = Duration::from_secs(20);

/// Opens by URI.
pub fn open(uri: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Waits until everything committed so far is stored.
pub fn sync(connection: &Connection, seconds: u32) -> rusqlite::Result<String> {
    connection.query_row("SELECT litestream_sync(?)", [seconds], |row| row.get(0))
}

/// The role `work`: `CREW_CONNECTIONS` threads with a connection each. `CREW_STORE` is `up` where no sync may fail, and
/// `none` for a process without the extension.
pub fn work() {
    if setting("CREW_STORE") != "none" {
        load();
    }
    let connections: u64 = setting("CREW_CONNECTIONS").parse().unwrap();
    let seed: u64 = setting("CREW_SEED").parse().unwrap();
    let hands: Vec<_> = (0..connections).map(|n| std::thread::spawn(move || Hand::new(seed, n).work())).collect();
    for hand in hands {
        hand.join().unwrap_or_else(|_| say("E", "a thread panicked"));
    }
}

/// The role `begin`: makes the database and its first image.
pub fn begin() {
    load();
    let connection = open(&setting("CREW_URI")).unwrap();
    ledger::create(&connection, setting("CREW_PAGE_SIZE").parse().unwrap(), &setting("CREW_MODE"));
    if let Err(e) = sync(&connection, 30) {
        say("E", format!("the first image: {e}; {}", status(&connection)));
    }
}

/// The role `serve`: does what the lines of its standard input say, one answer each, with one connection. `open`, `close`,
/// `sync`, `status`, `judge`, `image` (into `CREW_IMAGE`), `transact`, or SQL whose first value is the answer.
pub fn serve() {
    load();
    let mut connection = None;
    let mut dice = Dice::new(setting("CREW_SEED").parse().unwrap());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match answer(&line, &mut connection, &mut dice) {
            Ok(text) => say("R", format!("ok {text}")),
            Err(e) => say("R", format!("error {}", e.replace('\n', " "))),
        }
    }
}

fn answer(line: &str, connection: &mut Option<Connection>, dice: &mut Dice) -> Result<String, String> {
    let failed = |e: rusqlite::Error| e.to_string();
    if line == "open" {
        *connection = Some(open(&setting("CREW_URI")).map_err(failed)?);
        return Ok(String::new());
    }
    let db = connection.as_ref().ok_or("no connection")?;
    match line {
        "close" => *connection = None,
        "sync" => return sync(db, 20).map_err(|e| format!("{e}; {}", status(db))),
        "status" => return Ok(status(db)),
        "judge" => return ledger::judge(db).map(|n| n.to_string()),
        "image" => std::fs::write(setting("CREW_IMAGE"), ledger::image(db.path().unwrap().as_ref())).unwrap(),
        "transact" => {
            let page_size = setting("CREW_PAGE_SIZE").parse().unwrap();
            while ledger::transact(db, "served", dice, page_size).map_err(failed)?.is_none() {}
        }
        sql => {
            let mut statement = db.prepare(sql).map_err(failed)?;
            let mut rows = statement.query([]).map_err(failed)?;
            let Some(row) = rows.next().map_err(failed)? else { return Ok(String::new()) };
            let value: rusqlite::types::Value = row.get(0).map_err(failed)?;
            return Ok(match value {
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            });
        }
    }
    Ok(String::new())
}

/// One connection that comes and goes.
struct Hand {
    who: String,
    uri: String,
    page_size: u64,
    may_fail: bool,
    plain: bool,
    slowest: Duration,
    dice: Dice,
    /// The newest transaction that this connection committed.
    mine: i64,
}

impl Hand {
    fn new(seed: u64, n: u64) -> Hand {
        Hand {
            who: format!("{}.{n}", std::process::id()),
            uri: setting("CREW_URI"),
            page_size: setting("CREW_PAGE_SIZE").parse().unwrap(),
            may_fail: setting("CREW_STORE") != "up",
            plain: setting("CREW_STORE") == "none",
            slowest: Duration::from_millis(setting("CREW_SLOWEST_MS").parse().unwrap()),
            dice: Dice::new(seed.wrapping_mul(31).wrapping_add(n)),
            mine: 0,
        }
    }

    fn work(mut self) {
        while goes_on() {
            let connection = match open(&self.uri) {
                Ok(connection) => connection,
                Err(e) => return say("E", format!("open: {e}")),
            };
            let auto = self.dice.of(&[1, 10, 100, 1000, 0]);
            if let Err(e) = self.stay(&connection, auto) {
                say("E", format!("{e} (autocheckpoint {auto})"));
                return;
            }
            drop(connection);
        }
    }

    fn stay(&mut self, connection: &Connection, auto: u32) -> rusqlite::Result<()> {
        connection.pragma_update(None, "wal_autocheckpoint", auto)?;
        connection.pragma_update(None, "synchronous", self.dice.of(&["NORMAL", "NORMAL", "FULL", "OFF"]))?;
        let steps = 5 + self.dice.below(60);
        for _ in 0..steps {
            if !goes_on() {
                break;
            }
            let began = Instant::now();
            let waited = match self.step(connection) {
                Ok(waited) => waited,
                Err(e) if is_busy(&e) => true,
                Err(e) => return Err(e),
            };
            if !waited && began.elapsed() > self.slowest {
                say("E", format!("{:?} for one step", began.elapsed()));
            }
        }
        Ok(())
    }

    /// True for a step that waits by its nature.
    fn step(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        match self.dice.below(30) {
            0..=2 => {
                let mode = self.dice.of(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))?;
                return Ok(true);
            }
            3 if !self.plain => {
                self.sync(connection)?;
                return Ok(true);
            }
            4 if !self.plain => self.status(connection)?,
            5 => {
                let reading = connection.unchecked_transaction()?;
                let n: i64 = reading.query_row("SELECT n FROM counter", [], |row| row.get(0))?;
                std::thread::sleep(Duration::from_millis(self.dice.below(8)));
                let again: i64 = reading.query_row("SELECT count(*) FROM entry", [], |row| row.get(0))?;
                if n != again {
                    say("E", format!("a reader saw counter {n} and {again} entries"));
                }
            }
            6 => {
                std::thread::sleep(Duration::from_millis(self.dice.below(12)));
            }
            7 => {
                connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
            }
            _ => {
                if let Some(n) = ledger::transact(connection, &self.who, &mut self.dice, self.page_size)? {
                    self.mine = n;
                    say("C", n);
                }
            }
        }
        Ok(false)
    }

    fn sync(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match sync(connection, if self.may_fail { 1 } else { 30 }) {
            Ok(_) => say("S", self.mine),
            Err(_) if self.may_fail => {}
            Err(e) => say("E", format!("{e}; {}", status(connection))),
        }
        Ok(())
    }

    fn status(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let stored: Option<String> =
            connection.query_row("SELECT txid_stored FROM litestream_status", [], |row| row.get(0))?;
        if let Some(stored) = stored {
            say("T", stored);
        }
        Ok(())
    }
}

/// The status, for a message.
pub fn status(connection: &Connection) -> String {
    connection
        .query_row("SELECT state || ', ' || coalesce(last_error, 'no error') FROM litestream_status", [], |row| {
            row.get(0)
        })
        .unwrap_or_else(|e| e.to_string())
}

fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
