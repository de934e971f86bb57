//! Which function of SQLite's table stands where, and since which version.
//!
//! Owns the numbers only. `tests/doors.rs` compares them with `sqlite3ext.h`.

use std::ffi::c_int;

/// The version of a function that a SQLite may have been built without.
pub const OPTIONAL: c_int = c_int::MAX;

/// Where each function that is used stands in the table, and the first version that has it.
pub const SLOTS: &[(&str, usize, c_int)] = &[
    ("close", CLOSE, 0),
    ("column_text", COLUMN_TEXT, 0),
    ("db_mutex", DB_MUTEX, 0),
    ("declare_vtab", DECLARE_VTAB, 0),
    ("errmsg", ERRMSG, 0),
    ("finalize", FINALIZE, 0),
    ("free", FREE, 0),
    ("interruptx", INTERRUPT, 0),
    ("libversion", LIBVERSION, 0),
    ("libversion_number", LIBVERSION_NUMBER, 0),
    ("mprintf", MPRINTF, 0),
    ("progress_handler", PROGRESS_HANDLER, OPTIONAL),
    ("result_double", RESULT_DOUBLE, 0),
    ("result_error", RESULT_ERROR, 0),
    ("result_int64", RESULT_INT64, 0),
    ("result_null", RESULT_NULL, 0),
    ("result_text", RESULT_TEXT, 0),
    ("step", STEP, 0),
    ("value_double", VALUE_DOUBLE, 0),
    ("value_type", VALUE_TYPE, 0),
    ("prepare_v2", PREPARE_V2, 0),
    ("create_module_v2", CREATE_MODULE_V2, 0),
    ("file_control", FILE_CONTROL, 0),
    ("open_v2", OPEN_V2, 0),
    ("mutex_alloc", MUTEX_ALLOC, 0),
    ("mutex_enter", MUTEX_ENTER, 0),
    ("mutex_leave", MUTEX_LEAVE, 0),
    ("vfs_find", VFS_FIND, 0),
    ("vfs_register", VFS_REGISTER, 0),
    ("xthreadsafe", THREADSAFE, 0),
    ("result_error_code", RESULT_ERROR_CODE, 0),
    ("context_db_handle", CONTEXT_DB_HANDLE, 0),
    ("create_function_v2", CREATE_FUNCTION_V2, 3_007_003),
    ("log", LOG, 3_007_000),
    ("uri_parameter", URI_PARAMETER, 3_007_016),
    ("auto_extension", AUTO_EXTENSION, 3_008_007),
    ("uri_key", URI_KEY, 3_031_000),
    ("filename_database", FILENAME_DATABASE, 3_031_000),
    ("create_filename", CREATE_FILENAME, 3_032_000),
    ("free_filename", FREE_FILENAME, 3_032_000),
    ("txn_state", TXN_STATE, 3_034_000),
    ("db_name", DB_NAME, 3_039_000),
];

pub const CLOSE: usize = 16;
pub const COLUMN_TEXT: usize = 36;
pub const DECLARE_VTAB: usize = 50;
pub const ERRMSG: usize = 53;
pub const FINALIZE: usize = 57;
pub const FREE: usize = 58;
pub const INTERRUPT: usize = 64;
pub const LIBVERSION: usize = 66;
pub const LIBVERSION_NUMBER: usize = 67;
pub const MPRINTF: usize = 69;
pub const PROGRESS_HANDLER: usize = 75;
pub const RESULT_DOUBLE: usize = 79;
pub const RESULT_ERROR: usize = 80;
pub const RESULT_INT64: usize = 83;
pub const RESULT_NULL: usize = 84;
pub const RESULT_TEXT: usize = 85;
pub const STEP: usize = 94;
pub const VALUE_DOUBLE: usize = 105;
pub const VALUE_TYPE: usize = 113;
pub const PREPARE_V2: usize = 116;
pub const CREATE_MODULE_V2: usize = 119;
pub const FILE_CONTROL: usize = 127;
pub const MUTEX_ALLOC: usize = 130;
pub const MUTEX_ENTER: usize = 131;
pub const MUTEX_LEAVE: usize = 133;
pub const OPEN_V2: usize = 135;
pub const VFS_FIND: usize = 141;
pub const VFS_REGISTER: usize = 142;
pub const THREADSAFE: usize = 144;
pub const RESULT_ERROR_CODE: usize = 146;
pub const CONTEXT_DB_HANDLE: usize = 149;
pub const DB_MUTEX: usize = 164;
pub const CREATE_FUNCTION_V2: usize = 162;
pub const LOG: usize = 167;
pub const URI_PARAMETER: usize = 189;
pub const AUTO_EXTENSION: usize = 192;
pub const URI_KEY: usize = 245;
pub const FILENAME_DATABASE: usize = 246;
pub const CREATE_FILENAME: usize = 249;
pub const FREE_FILENAME: usize = 250;
pub const TXN_STATE: usize = 252;
pub const DB_NAME: usize = 264;
