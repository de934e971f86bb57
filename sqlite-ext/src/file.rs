//! The method table of a replicated database's file: one short function per slot, in SQLite's order.
//!
//! Each forwards to the base VFS's file and tells the engine before or after, as `litestream_engine::conn` says. What the
//! base answers is what SQLite gets; BUSY is the only answer of our own, and the base's lock is undone first.

use crate::border;
use crate::database::{self, Database};
use crate::fork;
use crate::handle::{self, forward, state};
use crate::log;
use crate::pragma;
use crate::sql::{ASK, Answer as Asked, Question};
use libsqlite3_sys::{
    SQLITE_BUSY, SQLITE_FCNTL_CKPT_DONE, SQLITE_FCNTL_COMMIT_ATOMIC_WRITE, SQLITE_FCNTL_COMMIT_PHASETWO,
    SQLITE_FCNTL_PRAGMA, SQLITE_FCNTL_SYNC, SQLITE_FCNTL_VFSNAME, SQLITE_IOERR, SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED,
    SQLITE_NOTFOUND, SQLITE_OK, SQLITE_SHM_EXCLUSIVE, SQLITE_SHM_LOCK, SQLITE_SHM_UNLOCK, sqlite3_file,
    sqlite3_io_methods,
};
use litestream_engine::conn::Answer;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// The table, before it is cut to what the real file has.
pub const METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};

/// What we know about this file.
fn database<'a>(file: *mut sqlite3_file) -> &'a mut Database {
    // SAFETY: SQLite calls with a file that was wrapped with a `Database`, and one call at a time per connection.
    unsafe { state::<Database>(file) }
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once and uses it no more.
    let mut database = unsafe { handle::unwrap::<Database>(file) };
    let life = fork::current().filter(|_| database.is_ours());
    if let Some(life) = life {
        life.open.remove(database.name);
    }
    database.leave();
    let rc = forward!(file, xClose => SQLITE_IOERR);
    // After its last close a host may shut SQLite down.
    let api = database.registration.api;
    if let Some(life) = life.filter(|life| !life.open.has(api)) {
        border::shield("ending a check", (), || life.checks.end(Some(api)));
    }
    border::shield("logging", (), log::deliver);
    rc
}

unsafe extern "C" fn x_read(file: *mut sqlite3_file, buf: *mut c_void, n: c_int, offset: i64) -> c_int {
    forward!(file, xRead, buf, n, offset => SQLITE_IOERR)
}

unsafe extern "C" fn x_write(file: *mut sqlite3_file, buf: *const c_void, n: c_int, offset: i64) -> c_int {
    database(file).tell((), |conn, real, _| conn.database_writing(offset.max(0) as u64, n.max(0) as usize, real));
    forward!(file, xWrite, buf, n, offset => SQLITE_IOERR)
}

unsafe extern "C" fn x_truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    forward!(file, xTruncate, size => SQLITE_IOERR)
}

unsafe extern "C" fn x_sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    forward!(file, xSync, flags => SQLITE_IOERR)
}

unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    forward!(file, xFileSize, size => SQLITE_IOERR)
}

unsafe extern "C" fn x_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let database = database(file);
    let before = database.level;
    database.tell((), |conn, _, _| conn.locking(database::lock(level)));
    let mut rc = forward!(file, xLock, level => SQLITE_IOERR);
    let refused = rc == SQLITE_BUSY;
    while rc == SQLITE_BUSY && database.tell(false, |conn, _, _| conn.lock_refused(database::lock(level))) {
        rc = forward!(file, xLock, level => SQLITE_IOERR);
    }
    if refused || level > SQLITE_LOCK_SHARED {
        database.tell((), |conn, _, _| conn.lock_answered());
    }
    if rc != SQLITE_OK {
        return rc;
    }
    database.lock_granted(level);
    let answer = database.tell(Answer::Forward, |conn, real, wal| conn.locked(database::lock(level), real, wal));
    if answer == Answer::Busy && level > SQLITE_LOCK_SHARED && Database::can_refuse(before) {
        database.tell((), |conn, _, _| conn.unlocking(database::lock(before)));
        database.lock_falls(before);
        // SQLite ignores what an unlock answers; the lock is then still held, which is the safe side.
        let _ = forward!(file, xUnlock, if before >= SQLITE_LOCK_SHARED { SQLITE_LOCK_SHARED } else { SQLITE_LOCK_NONE } => SQLITE_IOERR);
        return SQLITE_BUSY;
    }
    rc
}

unsafe extern "C" fn x_unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let database = database(file);
    database.tell((), |conn, _, _| conn.unlocking(database::lock(level)));
    database.lock_falls(level);
    forward!(file, xUnlock, level => SQLITE_IOERR)
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut sqlite3_file, result: *mut c_int) -> c_int {
    forward!(file, xCheckReservedLock, result => SQLITE_IOERR)
}

unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    let database = database(file);
    match op {
        SQLITE_FCNTL_SYNC | SQLITE_FCNTL_COMMIT_ATOMIC_WRITE => {
            database.tell((), |conn, real, _| conn.sync_coming(real));
        }
        SQLITE_FCNTL_COMMIT_PHASETWO => {
            database.tell((), |conn, real, wal| conn.committed(real, wal));
            database.writing = false;
        }
        SQLITE_FCNTL_CKPT_DONE => database.tell((), |conn, _, _| conn.checkpointed()),
        SQLITE_FCNTL_VFSNAME => return vfs_name(file, database, argument.cast()),
        SQLITE_FCNTL_PRAGMA => {
            // SAFETY: SQLite gives three texts with this opcode.
            if let Some(rc) = unsafe { pragma::answer(database, argument.cast()) } {
                return rc;
            }
        }
        // SAFETY: the opcode is private to this library, and `is_ours` looks at a tag of it first.
        ASK if unsafe { Question::is_ours(argument.cast()) } => {
            if let Some(db) = database.db() {
                let answer = Asked::Replicated { db: Arc::clone(db), writing: database.writing };
                // SAFETY: as above.
                unsafe { Question::answer(argument.cast(), answer) };
                return SQLITE_OK;
            }
        }
        _ => {}
    }
    forward!(file, xFileControl, op, argument => SQLITE_NOTFOUND)
}

/// `litestream/` and the name of what is below.
fn vfs_name(file: *mut sqlite3_file, database: &Database, name: *mut *mut c_char) -> c_int {
    let rc = forward!(file, xFileControl, SQLITE_FCNTL_VFSNAME, name.cast() => SQLITE_NOTFOUND);
    if name.is_null() {
        return rc;
    }
    let api = database.registration.api;
    // SAFETY: a text in SQLite's memory that the real file made, or what the caller had there before.
    unsafe {
        let below = if rc == SQLITE_OK && !(*name).is_null() {
            let below = std::ffi::CStr::from_ptr(*name).to_string_lossy().into_owned();
            api.free((*name).cast());
            below
        } else {
            database.registration.base_name().to_string()
        };
        *name = api.text(&format!("litestream/{below}"));
    }
    SQLITE_OK
}

unsafe extern "C" fn x_sector_size(file: *mut sqlite3_file) -> c_int {
    forward!(file, xSectorSize => 0)
}

unsafe extern "C" fn x_device_characteristics(file: *mut sqlite3_file) -> c_int {
    forward!(file, xDeviceCharacteristics => 0)
}

unsafe extern "C" fn x_shm_map(
    file: *mut sqlite3_file,
    index: c_int,
    size: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    let rc = forward!(file, xShmMap, index, size, extend, memory => SQLITE_IOERR);
    // SAFETY: SQLite gives a place for the answer, which the base has filled in.
    let mapped = unsafe { *memory };
    if rc == SQLITE_OK && !mapped.is_null() {
        database(file).mapped(index, mapped);
    }
    rc
}

/// The first slot of a reader: below it are WRITE, CKPT and RECOVER.
const READ0_SLOT: u8 = 3;

unsafe extern "C" fn x_shm_lock(file: *mut sqlite3_file, slot: c_int, n: c_int, flags: c_int) -> c_int {
    let database = database(file);
    let exclusive = flags & SQLITE_SHM_EXCLUSIVE != 0;
    let (at, count) = (slot as u8, n as u8);
    // Readers' locks come and go with every statement: the engine is spared what says nothing to it.
    let says_something = exclusive && (at < READ0_SLOT || count > 1);
    if flags & SQLITE_SHM_UNLOCK != 0 {
        if says_something {
            database.tell((), |conn, _, wal| conn.shm_unlocking(at, count, exclusive, wal));
        }
        database.slot_falls(slot, exclusive);
        return forward!(file, xShmLock, slot, n, flags => SQLITE_IOERR);
    }
    if says_something
        && database.tell(Answer::Forward, |conn, _, _| conn.shm_locking(at, count, exclusive)) == Answer::Busy
    {
        return SQLITE_BUSY;
    }
    let rc = forward!(file, xShmLock, slot, n, flags => SQLITE_IOERR);
    if rc != SQLITE_OK {
        if says_something {
            database.tell((), |conn, _, _| conn.shm_refused(at));
        }
        return rc;
    }
    let refused = database.slot_granted(slot, n, exclusive)
        || (says_something
            && database.tell(Answer::Forward, |conn, _, wal| conn.shm_locked(at, count, exclusive, wal))
                == Answer::Busy);
    if refused {
        database.tell((), |conn, _, _| conn.shm_refused(at));
        database.slot_falls(slot, exclusive);
        // As SQLite does: an unlock of the wal-index has no other outcome that matters.
        let _ = forward!(file, xShmLock, slot, n, flags & !SQLITE_SHM_LOCK | SQLITE_SHM_UNLOCK => SQLITE_IOERR);
        return SQLITE_BUSY;
    }
    rc
}

unsafe extern "C" fn x_shm_barrier(file: *mut sqlite3_file) {
    forward!(file, xShmBarrier => ())
}

unsafe extern "C" fn x_shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    database(file).unmapping();
    forward!(file, xShmUnmap, delete => SQLITE_IOERR)
}

unsafe extern "C" fn x_fetch(file: *mut sqlite3_file, offset: i64, n: c_int, page: *mut *mut c_void) -> c_int {
    forward!(file, xFetch, offset, n, page => SQLITE_IOERR)
}

unsafe extern "C" fn x_unfetch(file: *mut sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    forward!(file, xUnfetch, offset, page => SQLITE_IOERR)
}
