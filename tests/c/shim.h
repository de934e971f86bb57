/* A shim VFS that passes every call on to the VFS below it, for programs that change one of its methods. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3_vfs *below;

/* A file of the shim: the file below lies behind it. */
typedef struct { sqlite3_file base; sqlite3_file *real; } File;
#define REAL(f) (((File *)(f))->real)
#define CALL(f, m, ...) (REAL(f)->pMethods->m(REAL(f), ##__VA_ARGS__))

static int f_close(sqlite3_file *f) {
  int rc = CALL(f, xClose);
  REAL(f)->pMethods = 0;
  return rc;
}
static int f_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) { return CALL(f, xRead, to, n, at); }
static int f_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) { return CALL(f, xWrite, from, n, at); }
static int f_truncate(sqlite3_file *f, sqlite3_int64 n) { return CALL(f, xTruncate, n); }
static int f_sync(sqlite3_file *f, int flags) { return CALL(f, xSync, flags); }
static int f_size(sqlite3_file *f, sqlite3_int64 *n) { return CALL(f, xFileSize, n); }
static int f_lock(sqlite3_file *f, int l) { return CALL(f, xLock, l); }
static int f_unlock(sqlite3_file *f, int l) { return CALL(f, xUnlock, l); }
static int f_reserved(sqlite3_file *f, int *r) { return CALL(f, xCheckReservedLock, r); }
static int f_control(sqlite3_file *f, int op, void *arg) { return CALL(f, xFileControl, op, arg); }
static int f_sector(sqlite3_file *f) { return CALL(f, xSectorSize); }
static int f_traits(sqlite3_file *f) { return CALL(f, xDeviceCharacteristics) & ~SQLITE_IOCAP_BATCH_ATOMIC; }
static int f_map(sqlite3_file *f, int i, int n, int x, void volatile **p) { return CALL(f, xShmMap, i, n, x, p); }
static int f_shmlock(sqlite3_file *f, int o, int n, int flags) { return CALL(f, xShmLock, o, n, flags); }
static void f_barrier(sqlite3_file *f) { CALL(f, xShmBarrier); }
static int f_unmap(sqlite3_file *f, int d) { return CALL(f, xShmUnmap, d); }

/* A program puts its own in here before it stacks. */
static sqlite3_io_methods methods = {2, f_close, f_read, f_write, f_truncate, f_sync, f_size, f_lock, f_unlock, f_reserved,
  f_control, f_sector, f_traits, f_map, f_shmlock, f_barrier, f_unmap, 0, 0};

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *got) {
  File *file = (File *)f;
  file->real = (sqlite3_file *)&file[1];
  file->real->pMethods = 0;
  int rc = below->xOpen(below, name, file->real, flags, got);
  file->base.pMethods = file->real->pMethods ? &methods : 0;
  return rc;
}
static int v_delete(sqlite3_vfs *v, const char *n, int d) { return below->xDelete(below, n, d); }
static int v_access(sqlite3_vfs *v, const char *n, int f, int *r) { return below->xAccess(below, n, f, r); }
static int v_full(sqlite3_vfs *v, const char *n, int s, char *o) { return below->xFullPathname(below, n, s, o); }
static int v_random(sqlite3_vfs *v, int n, char *o) { return below->xRandomness(below, n, o); }
static int v_sleep(sqlite3_vfs *v, int n) { return below->xSleep(below, n); }
static int v_time(sqlite3_vfs *v, sqlite3_int64 *t) { return below->xCurrentTimeInt64(below, t); }
static int v_error(sqlite3_vfs *v, int n, char *o) { return below->xGetLastError ? below->xGetLastError(below, n, o) : 0; }
static void *v_dlopen(sqlite3_vfs *v, const char *n) { return below->xDlOpen(below, n); }
static void v_dlerror(sqlite3_vfs *v, int n, char *o) { below->xDlError(below, n, o); }
static void (*v_dlsym(sqlite3_vfs *v, void *h, const char *n))(void) { return below->xDlSym(below, h, n); }
static void v_dlclose(sqlite3_vfs *v, void *h) { below->xDlClose(below, h); }

static sqlite3_vfs shim = {2, 0, 0, 0, "shim", 0, v_open, v_delete, v_access, v_full, v_dlopen, v_dlerror, v_dlsym, v_dlclose,
  v_random, v_sleep, 0, v_error, v_time};

static void stack_on(const char *name, int as_default) {
  below = sqlite3_vfs_find(name);
  shim.szOsFile = (int)sizeof(File) + below->szOsFile;
  shim.mxPathname = below->mxPathname;
  sqlite3_vfs_register(&shim, as_default);
}

static void load(void) {
  sqlite3 *db;
  char *error = 0;
  sqlite3_open(":memory:", &db);
  sqlite3_enable_load_extension(db, 1);
  if (sqlite3_load_extension(db, getenv("LIBRARY"), 0, &error)) { printf("load: %s\n", error); exit(1); }
  sqlite3_close(db);
}
