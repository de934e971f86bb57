/* A base VFS whose xShmLock fails, and an application above it that goes on.
**
**   shmlock VFS WHO LASTS AT...   VFS: litestream or shim (the same without the extension); WHO: host or engine, whose
**                                 calls fail: those of the application's thread or of all others; LASTS: once, or on,
**                                 for all calls after the first that fails
**
** For each AT a database of its own, `AT.db` with replica `AT.backup`, whose call number AT fails with
** SQLITE_IOERR_SHMLOCK while it is worked on. One line: AT, how many calls could have failed, how many did, rows that
** were acknowledged, `right` or what is wrong with the rows, the Txid that everything was stored in, and then what each
** call of SQLite's answered. A failing unlock unlocks: no file system is left with a lock that nobody holds. */
#include "shim.h"
#include <pthread.h>
#include <unistd.h>

#define TABLE "PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b)"

enum { ROWS = 30, AFTER = 3, ANSWERS = 4000 };
static pthread_t host;
static volatile int armed, whose_host, lasting;
static volatile long at, calls, hits;
static const char *vfs;
static char answers[ANSWERS];
static int acknowledged[ROWS + AFTER + 1];

static int failing_shmlock(sqlite3_file *f, int o, int n, int flags) {
  if (armed && (pthread_equal(pthread_self(), host) != 0) == whose_host) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (number == at || (lasting && number > at)) {
      __atomic_add_fetch(&hits, 1, __ATOMIC_SEQ_CST);
      if (flags & SQLITE_SHM_UNLOCK) CALL(f, xShmLock, o, n, flags);
      return SQLITE_IOERR_SHMLOCK;
    }
  }
  return CALL(f, xShmLock, o, n, flags);
}

/* The answer of one call, as `what:code` where it is not OK. */
static int said(const char *what, int rc) {
  size_t used = strlen(answers);
  if (rc && rc != SQLITE_ROW && rc != SQLITE_DONE) snprintf(answers + used, ANSWERS - used, " %s:%d", what, rc);
  return rc;
}

static sqlite3 *opened(const char *sql) {
  char uri[300];
  sqlite3 *db;
  snprintf(uri, sizeof uri, "file:%ld.db?vfs=%s&replica=%ld.backup&sync-interval=10ms", at, vfs, at);
  said("open", sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, 0));
  sqlite3_extended_result_codes(db, 1);
  sqlite3_wal_autocheckpoint(db, 4);
  said("begin", sqlite3_exec(db, sql, 0, 0, 0));
  return db;
}

static void closed(sqlite3 *db) { said("close", sqlite3_close(db)); }

static sqlite3_int64 number(sqlite3 *db, const char *what, const char *sql) {
  sqlite3_stmt *s = 0;
  sqlite3_int64 value = -1;
  int rc = sqlite3_prepare_v2(db, sql, -1, &s, 0);
  if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) value = sqlite3_column_int64(s, 0);
  if (sqlite3_finalize(s) == SQLITE_OK && rc == SQLITE_ROW) rc = SQLITE_OK;
  said(what, rc);
  return value;
}

static void insert(sqlite3 *db, int n) {
  char sql[100];
  snprintf(sql, sizeof sql, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d, randomblob(700)); COMMIT", n);
  acknowledged[n] = said("commit", sqlite3_exec(db, sql, 0, 0, 0)) == SQLITE_OK;
  if (!sqlite3_get_autocommit(db)) said("rollback", sqlite3_exec(db, "ROLLBACK", 0, 0, 0));
}

static void work(sqlite3 **one, sqlite3 **two) {
  static const int modes[] = {SQLITE_CHECKPOINT_PASSIVE, SQLITE_CHECKPOINT_FULL, SQLITE_CHECKPOINT_RESTART,
                              SQLITE_CHECKPOINT_TRUNCATE};
  for (int n = 1; n <= ROWS; n++) {
    insert(n % 4 ? *one : *two, n);
    if (n % 5 == 0) number(*two, "read", "SELECT count(*) FROM t");
    if (n % 6 == 0) said("checkpoint", sqlite3_wal_checkpoint_v2(*one, 0, modes[n / 6 % 4], 0, 0));
    if (n == ROWS / 2) {
      closed(*two);
      closed(*one);
      *one = opened("SELECT count(*) FROM t");
      *two = opened("SELECT count(*) FROM t");
    }
  }
}

/* What the rows should be, and are not. */
static const char *judged(sqlite3 *db, int *rows) {
  static char wrong[60];
  char sql[80];
  *rows = 0;
  for (int n = 1; n <= ROWS + AFTER; n++) {
    snprintf(sql, sizeof sql, "SELECT count(*) FROM t WHERE a = %d", n);
    snprintf(wrong, sizeof wrong, "row-%d-%s", n, acknowledged[n] ? "lost" : "unasked");
    *rows += acknowledged[n];
    if (number(db, "judge", sql) != acknowledged[n]) return wrong;
  }
  return "right";
}

static void play(void) {
  char told[ANSWERS];
  sqlite3 *one, *two;
  memset(acknowledged, 0, sizeof acknowledged);
  answers[0] = 0;
  calls = hits = 0;
  if (whose_host) {
    one = opened(TABLE);
    two = opened("SELECT count(*) FROM t");
    if (strcmp(vfs, "shim")) number(one, "sync", "SELECT litestream_sync(20)");
  } else {
    /* The engine calls for its image of a database that has content in its WAL. */
    char name[60];
    sqlite3 *db;
    snprintf(name, sizeof name, "%ld.db", at);
    sqlite3_open_v2(name, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "unix");
    sqlite3_wal_autocheckpoint(db, 0);
    said("begin", sqlite3_exec(db, TABLE "; INSERT INTO t VALUES(1000, zeroblob(300000)); DELETE FROM t", 0, 0, 0));
    armed = 1;
    one = opened("SELECT count(*) FROM t");
    two = opened("SELECT count(*) FROM t");
    sqlite3_close(db);
    for (int i = 0; i < 50 && calls < at + 1; i++) usleep(2000);
  }
  armed = 1;
  work(&one, &two);
  armed = 0;
  strcpy(told, answers);
  answers[0] = 0;
  for (int n = ROWS + 1; n <= ROWS + AFTER; n++) insert(one, n);
  sqlite3_int64 txid = 0;
  if (strcmp(vfs, "shim")) {
    sqlite3_stmt *s = 0;
    int rc = sqlite3_prepare_v2(one, "SELECT litestream_sync(20)", -1, &s, 0);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) txid = strtoll((const char *)sqlite3_column_text(s, 0), 0, 16);
    else said("sync", rc);
    sqlite3_finalize(s);
  }
  int rows;
  const char *judgement = judged(one, &rows);
  closed(two);
  closed(one);
  printf("%ld %ld %ld %d %s %lld answers%s then%s\n", at, calls, hits, rows, judgement, txid, told, answers);
}

int main(int argc, char **argv) {
  vfs = argv[1];
  whose_host = !strcmp(argv[2], "host");
  lasting = !strcmp(argv[3], "on");
  host = pthread_self();
  methods.xShmLock = failing_shmlock;
  stack_on(0, 1);
  load();
  for (int i = 4; i < argc; i++) {
    at = atol(argv[i]);
    play();
  }
  return 0;
}
