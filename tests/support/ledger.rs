//! A database whose every committed state can be told from every other state: transaction N adds row N, moves a counter
//! and keeps a sum, so a lost, torn or invented transaction shows.
#![allow(dead_code, clippy::unwrap_used)]

use super::dice::Dice;
use rusqlite::Connection;
use std::path::Path;

/// Rows of the table that transactions change at random.
const JUNK_ROWS: u64 = 40;

/// Makes the tables, and pages that no transaction touches again (they tell a whole image from a few transactions).
pub fn create(connection: &Connection, page_size: u64, mode: &str) {
    connection.execute_batch(&format!("PRAGMA page_size={page_size}")).unwrap();
    connection.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).unwrap();
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE counter(n INTEGER, sum INTEGER);
             INSERT INTO counter VALUES(0, 0);
             CREATE TABLE entry(n INTEGER PRIMARY KEY, who TEXT);
             CREATE TABLE junk(id INTEGER PRIMARY KEY, weight INTEGER, v BLOB);
             CREATE TABLE still(v BLOB);
             INSERT INTO still VALUES(randomblob({}));
             COMMIT",
            60 * page_size
        ))
        .unwrap();
}

/// Pages that `create` makes and nobody touches again.
pub const STILL_PAGES: u32 = 60;

/// One transaction. `Some(n)` where it committed as number `n`, `None` where it was rolled back.
pub fn transact(connection: &Connection, who: &str, dice: &mut Dice, page_size: u64) -> rusqlite::Result<Option<i64>> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    match inside(connection, who, dice, page_size) {
        Ok(n) if dice.one_in(10) => {
            let _ = n;
            connection.execute_batch("ROLLBACK")?;
            Ok(None)
        }
        Ok(n) => match connection.execute_batch("COMMIT") {
            Ok(()) => Ok(Some(n)),
            Err(e) => {
                if !connection.is_autocommit() {
                    connection.execute_batch("ROLLBACK")?;
                }
                Err(e)
            }
        },
        Err(e) => {
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            Err(e)
        }
    }
}

fn inside(connection: &Connection, who: &str, dice: &mut Dice, page_size: u64) -> rusqlite::Result<i64> {
    let n: i64 = connection.query_row("UPDATE counter SET n = n + 1 RETURNING n", [], |row| row.get(0))?;
    connection.execute("INSERT INTO entry VALUES(?, ?)", (n, who))?;
    if dice.one_in(8) {
        connection.execute_batch("SAVEPOINT s")?;
        junk(connection, dice, page_size)?;
        connection.execute_batch("ROLLBACK TO s; RELEASE s")?;
    }
    for _ in 0..dice.below(5) {
        junk(connection, dice, page_size)?;
    }
    if dice.one_in(12) {
        // More than the cache holds: pages reach the file before the commit, some of them twice.
        connection.execute_batch("PRAGMA cache_size=8")?;
        for _ in 0..8 {
            junk(connection, dice, page_size)?;
        }
        connection.execute_batch(&format!(
            "UPDATE junk SET v = randomblob({}) WHERE id % 3 = {}",
            page_size * 2,
            dice.below(3)
        ))?;
        connection.execute_batch("PRAGMA cache_size=-2000")?;
    }
    connection.execute("UPDATE counter SET sum = (SELECT coalesce(sum(weight), 0) FROM junk) + n", [])?;
    Ok(n)
}

fn junk(connection: &Connection, dice: &mut Dice, page_size: u64) -> rusqlite::Result<()> {
    let (id, weight) = (dice.below(JUNK_ROWS) as i64, dice.below(1000) as i64);
    let bytes = dice.below(page_size.min(8192) * 3) as i64;
    if dice.one_in(5) {
        connection.execute("DELETE FROM junk WHERE id = ?", [id])?;
    } else {
        connection.execute("INSERT OR REPLACE INTO junk VALUES(?, ?, randomblob(?))", (id, weight, bytes))?;
    }
    Ok(())
}

/// The number of the newest transaction, or what is wrong with this state.
pub fn judge(connection: &Connection) -> Result<i64, String> {
    let failed = |e: rusqlite::Error| e.to_string();
    // One state for all questions: others may commit meanwhile.
    let _held = connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose().map_err(failed)?;
    let check: String = connection.query_row("PRAGMA integrity_check(3)", [], |row| row.get(0)).map_err(failed)?;
    if check != "ok" {
        return Err(format!("integrity_check: {check}"));
    }
    let (n, sum): (i64, i64) =
        connection.query_row("SELECT n, sum FROM counter", [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    let (rows, last): (i64, i64) = connection
        .query_row("SELECT count(*), coalesce(max(n), 0) FROM entry", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(failed)?;
    let weights: i64 =
        connection.query_row("SELECT coalesce(sum(weight), 0) FROM junk", [], |row| row.get(0)).map_err(failed)?;
    if (rows, last) != (n, n) {
        return Err(format!("the counter says {n}, but there are {rows} entries up to {last}"));
    }
    if n > 0 && weights + n != sum {
        return Err(format!("transaction {n} left the sum {sum}, the rows make {}", weights + n));
    }
    Ok(n)
}

/// The same for a file that nobody has open.
pub fn judge_file(path: &Path) -> Result<i64, String> {
    let connection = Connection::open(path).map_err(|e| e.to_string())?;
    let judged = judge(&connection);
    drop(connection);
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display())); // most are not there
    }
    judged
}

/// The database as a new reader without the extension sees it, page for page. (Not by a connection that wrote: its
/// cache holds free pages as it left them, which SQLite never writes.)
pub fn image(path: &Path) -> Vec<u8> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let mut reader = Connection::open_with_flags(format!("file:{}?vfs=unix&mode=ro", path.display()), flags).unwrap();
    reader.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    reader.serialize("main").unwrap().to_vec()
}

/// Pages in which two images differ, at most 20 of them; empty where they are equal.
///
/// In rollback-journal modes a transaction that was rolled back leaves what it wrote into free pages where it is: SQLite
/// journals none of them, for nobody reads them. `but_free` leaves such pages out (by the list in the first image).
pub fn difference(one: &[u8], other: &[u8], but_free: bool) -> Vec<usize> {
    if one == other {
        return Vec::new();
    }
    let size = one.get(16..18).map_or(512, |raw| usize::from(u16::from_be_bytes([raw[0], raw[1]])));
    let size = if size == 1 { 65536 } else { size.max(512) };
    let pages = one.len().max(other.len()).div_ceil(size);
    let free = if but_free { free_pages(one, size) } else { Vec::new() };
    let page = |image: &[u8], n: usize| image.get(n * size..(n + 1) * size).map(<[u8]>::to_vec);
    let differ = (0..pages).filter(|n| page(one, *n) != page(other, *n)).map(|n| n + 1);
    differ.filter(|n| !free.contains(n)).take(20).collect()
}

/// The leaves of the list of free pages: pages without any meaning.
fn free_pages(image: &[u8], size: usize) -> Vec<usize> {
    let number =
        |at: usize| image.get(at..at + 4).map_or(0, |raw| u32::from_be_bytes(raw.try_into().unwrap()) as usize);
    let mut free = Vec::new();
    let mut trunk = number(32);
    while trunk > 0 && free.len() < image.len() / size {
        let at = (trunk - 1) * size;
        free.extend((0..number(at + 4).min(size / 4)).map(|n| number(at + 8 + 4 * n)));
        trunk = number(at);
    }
    free
}
