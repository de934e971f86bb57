/* Our VFS above and below another shim, and on the base VFSes that SQLite brings.
**
**   stacked LAYOUT KEY    LAYOUT: under, over, or the name of a base VFS; KEY: what the shim turns each byte with, 0 for none
**
** Writes `app.db` with replica `backup`, waits until it is stored, and prints what became of it: `stored TXID`, or why not. */
#include "shim.h"

static unsigned char key;

static int turned_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) {
  int rc = CALL(f, xRead, to, n, at);
  if (rc == SQLITE_OK) for (int i = 0; i < n; i++) ((unsigned char *)to)[i] ^= key;
  if (rc == SQLITE_IOERR_SHORT_READ) {
    sqlite3_int64 size = 0;
    CALL(f, xFileSize, &size);
    for (int i = 0; i < n && at + i < size; i++) ((unsigned char *)to)[i] ^= key;
  }
  return rc;
}
static int turned_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) {
  unsigned char *turned = sqlite3_malloc(n);
  for (int i = 0; i < n; i++) turned[i] = ((const unsigned char *)from)[i] ^ key;
  int rc = CALL(f, xWrite, turned, n, at);
  sqlite3_free(turned);
  return rc;
}

static void run(sqlite3 *db, const char *sql) {
  char *error = 0;
  if (sqlite3_exec(db, sql, 0, 0, &error)) { printf("refused: %s\n", error); exit(0); }
}

int main(int argc, char **argv) {
  const char *layout = argv[1], *vfs = "litestream";
  key = (unsigned char)atoi(argv[2]);
  methods.xRead = turned_read;
  methods.xWrite = turned_write;
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
