/* Our VFS above and below another shim, and on the base VFSes that SQLite brings.
**
**   stacked LAYOUT KEY    LAYOUT: under, over, or the name of a base VFS; KEY: what the shim turns each byte with, 0 for none
**
** Writes `app.db` with replica `backup`, waits until it is stored, and prints what became of it: `stored TXID`, or why not. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3_vfs *below;
static unsigned char key;

/* A file of the shim: the file below lies behind it. */
typedef struct { sqlite3_file base; sqlite3_file *real; } File;
#define REAL(f) (((File *)(f))->real)
#define CALL(f, m, ...) (REAL(f)->pMethods->m(REAL(f), ##__VA_ARGS__))

static int f_close(sqlite3_file *f) {
  int rc = CALL(f, xClose);
  REAL(f)->pMethods = 0;
  return rc;
}
static int f_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) {
  int rc = CALL(f, xRead, to, n, at);
  if (rc == SQLITE_OK) for (int i = 0; i < n; i++) ((unsigned char *)to)[i] ^= key;
  if (rc == SQLITE_IOERR_SHORT_READ) {
    sqlite3_int64 size = 0;
    CALL(f, xFileSize, &size);
    for (int i = 0; i < n && at + i < size; i++) ((unsigned char *)to)[i] ^= key;
  }
  return rc;
}
static int f_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) {
  unsigned char *turned = sqlite3_malloc(n);
  for (int i = 0; i < n; i++) turned[i] = ((const unsigned char *)from)[i] ^ key;
  int rc = CALL(f, xWrite, turned, n, at);
  sqlite3_free(turned);
  return rc;
}
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

static const sqlite3_io_methods methods = {2, f_close, f_read, f_write, f_truncate, f_sync, f_size, f_lock, f_unlock, f_reserved,
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

static void run(sqlite3 *db, const char *sql) {
  char *error = 0;
  if (sqlite3_exec(db, sql, 0, 0, &error)) { printf("refused: %s\n", error); exit(0); }
}

int main(int argc, char **argv) {
  const char *layout = argv[1], *vfs = "litestream";
  key = (unsigned char)atoi(argv[2]);
  if (!strcmp(layout, "under")) { stack_on(0, 1); load(); }
  else if (!strcmp(layout, "over")) { load(); stack_on("litestream", 0); vfs = "shim"; }
  else { sqlite3_vfs_register(sqlite3_vfs_find(layout), 1); load(); }
  char uri[200];
  snprintf(uri, sizeof uri, "file:app.db?vfs=%s&replica=backup&sync-interval=0&shutdown-sync-timeout=1s", vfs);
  sqlite3 *db;
  if (sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, 0)) {
    printf("refused: %s\n", sqlite3_errmsg(db));
    return 0;
  }
  run(db, argc > 3 ? argv[3] : "PRAGMA journal_mode=WAL");
  run(db, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES('a secret of mine')");
  for (int i = 0; i < 50; i++) run(db, "INSERT INTO t VALUES(randomblob(500))");
  run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
  for (int i = 0; i < 50; i++) run(db, "INSERT INTO t VALUES(randomblob(500))");
  sqlite3_stmt *s;
  if (sqlite3_prepare_v2(db, "SELECT litestream_sync(2)", -1, &s, 0)) printf("refused: %s\n", sqlite3_errmsg(db));
  else if (sqlite3_step(s) == SQLITE_ROW) printf("stored %s\n", sqlite3_column_text(s, 0));
  else printf("not stored: %s\n", sqlite3_errmsg(db));
  sqlite3_finalize(s);
  if (sqlite3_prepare_v2(db, "SELECT state || '; ' || coalesce(last_error, '') FROM litestream_status", -1, &s, 0) == SQLITE_OK
      && sqlite3_step(s) == SQLITE_ROW) printf("status: %s\n", sqlite3_column_text(s, 0));
  sqlite3_finalize(s);
  run(db, "SELECT count(*) FROM t");
  sqlite3_close(db);
  return 0;
}
