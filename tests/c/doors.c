/* Entry points in one process: which VFS is the default after each, and who else may be named `litestream`. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int load(const char *entry) {
  sqlite3 *db;
  char *error = 0;
  sqlite3_open(":memory:", &db);
  sqlite3_enable_load_extension(db, 1);
  int rc = sqlite3_load_extension(db, getenv("LIBRARY"), entry, &error);
  if (rc) printf("error: %s\n", error);
  sqlite3_free(error);
  sqlite3_close(db);
  return rc;
}

static void show(const char *when) {
  sqlite3_vfs *ours = sqlite3_vfs_find("litestream");
  int known = 0;
  for (sqlite3_vfs *v = sqlite3_vfs_find(0); v; v = v->pNext) known += v->zName && !strcmp(v->zName, "litestream");
  printf("%s: default %s, litestream %d\n", when, sqlite3_vfs_find(0)->zName, known);
  (void)ours;
}

static void count(void) {
  sqlite3 *db;
  sqlite3_stmt *s;
  if (sqlite3_open("plain.db", &db)) { printf("%s\n", sqlite3_errmsg(db)); exit(1); }
  int rc = sqlite3_prepare_v2(db, "SELECT count(*) FROM litestream_status", -1, &s, 0);
  if (rc) printf("plain: %s\n", sqlite3_errmsg(db));
  else { sqlite3_step(s); printf("plain: %d rows\n", sqlite3_column_int(s, 0)); }
  sqlite3_finalize(s);
  sqlite3_close(db);
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "foreign")) {
    sqlite3_vfs foreign = *sqlite3_vfs_find(0);
    foreign.zName = "litestream";
    foreign.pNext = 0;
    sqlite3_vfs_register(&foreign, 0);
    load(0);
    load("sqlite3_litestreamdefault_init");
    show("foreign");
    return 0;
  }
  show("before");
  load(0);
  show("named");
  count();
  load("sqlite3_litestreamvfs_init");
  show("again");
  load("sqlite3_litestreamdefault_init");
  show("default");
  count();
  load(0);
  show("named after default");
  sqlite3_shutdown();
  sqlite3_initialize();
  show("initialized");
  load("sqlite3_litestreamdefault_init");
  show("default again");
  count();
  return 0;
}
