/* Fork as application servers do. usage: discard URI CHILDREN busy|quiet
** quiet: between commits; the child discards the inherited connections as sqlite3-ruby does, by calling xClose of their
** files, opens one of its own and commits. busy: another thread is inside commits, so SQLite's own mutexes may be held
** for ever in the child, with any VFS; the child only leaves, by exit handlers, without them, or by exec. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static sqlite3 *shared;
static volatile int stop;
static pthread_mutex_t between = PTHREAD_MUTEX_INITIALIZER;
static int inserted;

static void must(int rc, sqlite3 *db, const char *what) {
  if (rc != SQLITE_OK) { fprintf(stderr, "%s: %d %s\n", what, rc, db ? sqlite3_errmsg(db) : ""); _exit(1); }
}

static sqlite3 *open_app(const char *uri) {
  sqlite3 *db = 0;
  must(sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, 0), db, "open");
  sqlite3_busy_timeout(db, 20000);
  return db;
}

static void *commits(void *_) {
  while (!stop) {
    pthread_mutex_lock(&between);
    must(sqlite3_exec(shared, "INSERT INTO t VALUES('parent')", 0, 0, 0), shared, "insert");
    inserted++;
    pthread_mutex_unlock(&between);
    usleep(100);
  }
  return _;
}

static void discard(sqlite3 *db, int first, int second) {
  sqlite3_file *file = 0;
  int order[2] = {first, second};
  for (int i = 0; i < 2; i++) {
    if (sqlite3_file_control(db, "main", order[i], &file) == SQLITE_OK && file && file->pMethods) {
      file->pMethods->xClose(file);
      file->pMethods = 0;
    }
  }
}

int main(int argc, char **argv) {
  const char *uri = argv[1];
  int children = atoi(argv[2]);
  int quiet = !strcmp(argv[3], "quiet");
  char *error = 0;
  sqlite3 *loader, *idle;
  pthread_t thread;
  alarm(90);
  sqlite3_open(":memory:", &loader);
  sqlite3_enable_load_extension(loader, 1);
  if (sqlite3_load_extension(loader, getenv("LIBRARY"), 0, &error)) { fprintf(stderr, "%s\n", error); return 1; }
  shared = open_app(uri);
  must(sqlite3_exec(shared, "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(who)", 0, 0, 0), shared, "create");
  idle = open_app(uri);
  must(sqlite3_exec(idle, "SELECT count(*) FROM t", 0, 0, 0), idle, "select");
  pthread_create(&thread, 0, commits, 0);
  for (int n = 0; n < children; n++) {
    usleep(20000);
    if (quiet) pthread_mutex_lock(&between);
    pid_t child = fork();
    if (child == 0) {
      alarm(60);
      if (quiet) {
        int first = n % 2 ? SQLITE_FCNTL_FILE_POINTER : SQLITE_FCNTL_JOURNAL_POINTER;
        int second = n % 2 ? SQLITE_FCNTL_JOURNAL_POINTER : SQLITE_FCNTL_FILE_POINTER;
        discard(idle, first, second);
        discard(shared, first, second);
        sqlite3 *own = open_app(uri);
        must(sqlite3_exec(own, "INSERT INTO t VALUES('child')", 0, 0, 0), own, "child insert");
        must(sqlite3_close(own), 0, "child close");
      }
      if (n % 3 == 0) exit(0); /* with exit handlers */
      if (n % 3 == 1) execlp("true", "true", (char *)0);
      _exit(0);
    }
    if (quiet) pthread_mutex_unlock(&between);
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0) { fprintf(stderr, "child %d: %x\n", n, status); return 1; }
  }
  stop = 1;
  pthread_join(thread, 0);
  must(sqlite3_close(shared), shared, "close");
  must(sqlite3_close(idle), idle, "close");
  printf("%d %d\n", inserted, children);
  return 0;
}
