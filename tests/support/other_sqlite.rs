//! Debian's shared SQLite, called by hand beside a test program's own (bundled) one.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, *const c_char) -> c_int;
type Enable = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type Load = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_char) -> c_int;
type Row = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, Row, *mut c_void, *mut *mut c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

pub struct Other(*mut c_void);

impl Other {
    /// Opens `libsqlite3.so.0` and loads the extension into it too.
    pub fn load() -> Other {
        const RTLD_NOW: c_int = 2;
        // SAFETY: a library of the system.
        let other = Other(unsafe { dlopen(c"libsqlite3.so.0".as_ptr(), RTLD_NOW) });
        assert!(!other.0.is_null(), "libsqlite3.so.0 is not installed");
        let db = other.open(":memory:");
        let path = CString::new(super::library().to_str().unwrap()).unwrap();
        let mut error = std::ptr::null_mut();
        // SAFETY: functions of that SQLite with their own types.
        unsafe {
            other.symbol::<Enable>(c"sqlite3_enable_load_extension")(db, 1);
            let rc = other.symbol::<Load>(c"sqlite3_load_extension")(db, path.as_ptr(), std::ptr::null(), &mut error);
            assert_eq!(rc, 0);
            other.symbol::<Close>(c"sqlite3_close")(db);
        }
        other
    }

    unsafe fn symbol<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: the caller names the function's type.
        unsafe {
            let found = dlsym(self.0, name.as_ptr());
            assert!(!found.is_null(), "{name:?}");
            std::mem::transmute_copy(&found)
        }
    }

    fn open(&self, uri: &str) -> *mut c_void {
        const READWRITE_CREATE_URI: c_int = 2 | 4 | 64;
        let uri = CString::new(uri).unwrap();
        let mut db = std::ptr::null_mut();
        // SAFETY: as above.
        let rc = unsafe {
            self.symbol::<Open>(c"sqlite3_open_v2")(uri.as_ptr(), &mut db, READWRITE_CREATE_URI, std::ptr::null())
        };
        assert_eq!(rc, 0);
        db
    }

    /// The first column of every row.
    pub fn texts(&self, uri: &str, sql: &str) -> Vec<String> {
        unsafe extern "C" fn row(rows: *mut c_void, _: c_int, values: *mut *mut c_char, _: *mut *mut c_char) -> c_int {
            // SAFETY: `rows` is the vector below, the value a text.
            unsafe { (*rows.cast::<Vec<String>>()).push(CStr::from_ptr(*values).to_str().unwrap().to_string()) };
            0
        }
        let db = self.open(uri);
        let sql = CString::new(sql).unwrap();
        let mut rows: Vec<String> = Vec::new();
        // SAFETY: as above.
        unsafe {
            let rc = self.symbol::<Exec>(c"sqlite3_exec")(
                db,
                sql.as_ptr(),
                row,
                (&raw mut rows).cast(),
                std::ptr::null_mut(),
            );
            assert_eq!(rc, 0, "{sql:?}");
            assert_eq!(self.symbol::<Close>(c"sqlite3_close")(db), 0);
        }
        rows
    }
}
