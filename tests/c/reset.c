/* The WAL-reset bug of SQLite 3.7.0 to 3.51.2, made to happen: a checkpointer is held between reading the wal-index
** header and using it, while another connection resets the WAL and commits. A VFS above the one under test holds it.
** usage: reset URI-without-vfs BASE-VFS; prints version, rows expected, rows found, integrity. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  sqlite3_file base;
  sqlite3_io_methods methods;
  int checkpointing, hold;
  sqlite3_file *real;
} Held;

static sqlite3_vfs *below, hold_vfs;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int held, released, armed, refused;

#define REAL(f) (((Held *)(f))->real)
#define CALL(f, m) REAL(f)->pMethods->m
static int hClose(sqlite3_file *f) { int rc = CALL(f, xClose)(REAL(f)); free(REAL(f)); return rc; }
static int hRead(sqlite3_file *f, void *b, int n, sqlite3_int64 o) { return CALL(f, xRead)(REAL(f), b, n, o); }
static int hWrite(sqlite3_file *f, const void *b, int n, sqlite3_int64 o) { return CALL(f, xWrite)(REAL(f), b, n, o); }
static int hTruncate(sqlite3_file *f, sqlite3_int64 s) { return CALL(f, xTruncate)(REAL(f), s); }
static int hSync(sqlite3_file *f, int n) { return CALL(f, xSync)(REAL(f), n); }
static int hSize(sqlite3_file *f, sqlite3_int64 *s) { return CALL(f, xFileSize)(REAL(f), s); }
static int hLock(sqlite3_file *f, int l) { return CALL(f, xLock)(REAL(f), l); }
static int hUnlock(sqlite3_file *f, int l) { return CALL(f, xUnlock)(REAL(f), l); }
static int hCheck(sqlite3_file *f, int *r) { return CALL(f, xCheckReservedLock)(REAL(f), r); }
static int hControl(sqlite3_file *f, int op, void *a) { return CALL(f, xFileControl)(REAL(f), op, a); }
static int hSector(sqlite3_file *f) { return CALL(f, xSectorSize)(REAL(f)); }
static int hDevice(sqlite3_file *f) { return CALL(f, xDeviceCharacteristics)(REAL(f)); }
static int hMap(sqlite3_file *f, int p, int s, int e, void volatile **m) { return CALL(f, xShmMap)(REAL(f), p, s, e, m); }
static void hBarrier(sqlite3_file *f) { CALL(f, xShmBarrier)(REAL(f)); }
static int hUnmap(sqlite3_file *f, int d) { return CALL(f, xShmUnmap)(REAL(f), d); }
static int hFetch(sqlite3_file *f, sqlite3_int64 o, int n, void **p) { return CALL(f, xFetch)(REAL(f), o, n, p); }
static int hShmLock(sqlite3_file *f, int slot, int n, int flags) {
  Held *h = (Held *)f;
  int rc = CALL(f, xShmLock)(REAL(f), slot, n, flags);
  int exclusive = (flags & SQLITE_SHM_LOCK) && (flags & SQLITE_SHM_EXCLUSIVE);
  if (slot == 1 && n == 1) h->checkpointing = exclusive && rc == SQLITE_OK;
  if (h->hold && h->checkpointing && slot == 3 && exclusive && rc == SQLITE_BUSY) refused = 1;
  return rc;
}
/* sqlite3WalCheckpoint calls this, with no page, right after it has read a header that changed. */
static int hUnfetch(sqlite3_file *f, sqlite3_int64 o, void *p) {
  Held *h = (Held *)f;
  if (h->hold && armed && h->checkpointing && !p) {
    pthread_mutex_lock(&mutex);
    armed = 0;
    held = 1;
    pthread_cond_broadcast(&changed);
    while (!released) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
  }
  return CALL(f, xUnfetch)(REAL(f), o, p);
}
static int hOpen(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *got) {
  Held *h = (Held *)f;
  memset(h, 0, sizeof *h);
  h->real = calloc(1, below->szOsFile);
  int rc = below->xOpen(below, name, h->real, flags, got);
  if (!h->real->pMethods) { free(h->real); return rc; }
  sqlite3_io_methods m = {0, hClose, hRead, hWrite, hTruncate, hSync, hSize, hLock, hUnlock, hCheck, hControl, hSector,
                          hDevice, hMap, hShmLock, hBarrier, hUnmap, hFetch, hUnfetch};
  h->methods = m;
  h->methods.iVersion = h->real->pMethods->iVersion;
  h->hold = (flags & SQLITE_OPEN_MAIN_DB) && sqlite3_uri_boolean(name, "hold", 0);
  h->base.pMethods = &h->methods;
  return rc;
}
static int hDelete(sqlite3_vfs *v, const char *n, int s) { return below->xDelete(below, n, s); }
static int hAccess(sqlite3_vfs *v, const char *n, int f, int *r) { return below->xAccess(below, n, f, r); }
static int hFull(sqlite3_vfs *v, const char *n, int l, char *o) { return below->xFullPathname(below, n, l, o); }

static void must(int rc, sqlite3 *db, const char *what) {
  if (rc != SQLITE_OK) { fprintf(stderr, "%s: %d %s\n", what, rc, db ? sqlite3_errmsg(db) : ""); exit(1); }
}
static sqlite3 *open_app(const char *uri, const char *more) {
  char full[2000];
  sqlite3 *db = 0;
  snprintf(full, sizeof full, "%s&%s", uri, more);
  must(sqlite3_open_v2(full, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, "hold"), db, full);
  must(sqlite3_exec(db, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF; SELECT * FROM sqlite_schema", 0, 0, 0), db, "setup");
  return db;
}
static int number(sqlite3 *db, const char *sql) {
  sqlite3_stmt *s;
  must(sqlite3_prepare_v2(db, sql, -1, &s, 0), db, sql);
  if (sqlite3_step(s) != SQLITE_ROW) must(1, db, sql);
  int value = sqlite3_column_int(s, 0);
  sqlite3_finalize(s);
  return value;
}
static int rows;
static void insert(sqlite3 *db, int n) {
  for (; n > 0; n--, rows++) must(sqlite3_exec(db, "INSERT INTO t(x) VALUES(randomblob(1000))", 0, 0, 0), db, "insert");
}
static void *checkpoint(void *db) {
  must(sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_PASSIVE, 0, 0), db, "held checkpoint");
  return 0;
}

int main(int argc, char **argv) {
  sqlite3 *loader, *a, *b;
  char *error = 0;
  pthread_t thread;
  alarm(60);
  sqlite3_open(":memory:", &loader);
  sqlite3_enable_load_extension(loader, 1);
  if (sqlite3_load_extension(loader, getenv("LIBRARY"), 0, &error)) { fprintf(stderr, "%s\n", error); return 1; }
  below = sqlite3_vfs_find(argv[2]);
  hold_vfs = *below;
  hold_vfs.zName = "hold";
  hold_vfs.pNext = 0;
  hold_vfs.szOsFile = sizeof(Held);
  hold_vfs.xOpen = hOpen, hold_vfs.xDelete = hDelete, hold_vfs.xAccess = hAccess, hold_vfs.xFullPathname = hFull;
  sqlite3_vfs_register(&hold_vfs, 0);

  a = open_app(argv[1], "who=a");
  must(sqlite3_exec(a, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x)", 0, 0, 0), a, "create");
  b = open_app(argv[1], "hold=1");
  insert(a, 60);
  /* Everything copied: the next writer may reset the WAL. B has not looked at the wal-index since. */
  must(sqlite3_wal_checkpoint_v2(a, "main", SQLITE_CHECKPOINT_PASSIVE, 0, 0), a, "checkpoint");
  armed = 1;
  pthread_create(&thread, 0, checkpoint, b);
  pthread_mutex_lock(&mutex);
  while (!held) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
  /* B holds CKPT and an old header. The reset, and a few frames of the new life. */
  insert(a, 3);
  pthread_mutex_lock(&mutex);
  released = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  pthread_join(thread, 0);
  /* The new life grows beyond the old one, and is then copied and reset. */
  insert(a, 100);
  must(sqlite3_wal_checkpoint_v2(a, "main", SQLITE_CHECKPOINT_TRUNCATE, 0, 0), a, "truncate");
  int replicated = -1;
  if (!strcmp(argv[2], "litestream")) replicated = number(a, "SELECT count(*) FROM litestream_status");
  sqlite3_close(b);
  sqlite3_close(a);
  a = open_app(argv[1], "who=again");
  sqlite3_stmt *s;
  const char *verdict = "error";
  if (sqlite3_prepare_v2(a, "PRAGMA integrity_check(1)", -1, &s, 0) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
    verdict = (const char *)sqlite3_column_text(s, 0);
  int found = -1;
  sqlite3_stmt *c;
  if (sqlite3_prepare_v2(a, "SELECT count(*) FROM t NOT INDEXED", -1, &c, 0) == SQLITE_OK && sqlite3_step(c) == SQLITE_ROW)
    found = sqlite3_column_int(c, 0);
  printf("version=%d expected=%d found=%d refused=%d replicated=%d integrity=%s\n", sqlite3_libversion_number(), rows,
         found, refused, replicated, verdict);
  return 0;
}
