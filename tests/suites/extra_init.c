/* Makes a loadable VFS the default of a program that links SQLite statically.
 *
 * Built in with -DSQLITE_EXTRA_INIT=suites_extra_init, SQLite calls it in every sqlite3_initialize(): after a
 * sqlite3_shutdown() (which puts `unix` back) and in child processes too. Without SUITES_LIBRARY it does nothing:
 * the same binary is the plain side of a comparison. SUITES_USED names a file that gets one line for each start,
 * with the VFS that is the default now: proof that a run did not quietly go without ours. */
#include "sqlite3.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int suites_extra_init(const char *unused);

static void say_used(void) {
    const char *path = getenv("SUITES_USED");
    const sqlite3_vfs *vfs = sqlite3_vfs_find(0);
    static pid_t said;
    char line[64];
    int fd;
    if (!path || !vfs || said == getpid()) return;
    said = getpid();
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return;
    snprintf(line, sizeof line, "%s %d\n", vfs->zName, (int)said);
    if (write(fd, line, strlen(line)) < 0) abort();
    close(fd);
}

int suites_extra_init(const char *unused) {
    const char *library = getenv("SUITES_LIBRARY");
    sqlite3 *db = 0;
    char *error = 0;
    int rc;
    (void)unused;
    if (!library || !*library) return SQLITE_OK;
    rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "unix");
    if (rc == SQLITE_OK) sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
    if (rc == SQLITE_OK) rc = sqlite3_load_extension(db, library, "sqlite3_litestreamdefault_init", &error);
    if (rc != SQLITE_OK) fprintf(stderr, "suites: %s: %s\n", library, error ? error : sqlite3_errmsg(db));
    sqlite3_free(error);
    sqlite3_close(db);
    if (rc == SQLITE_OK) say_used();
    return rc;
}
