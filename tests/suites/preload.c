/* Makes our VFS the default in a program that cannot load extensions, or is not to be changed: LD_PRELOAD this.
 *
 * SQLite is a shared library that comes with a module later (Python's _sqlite3), so nothing can be done at the start:
 * sqlite3_initialize, which every use of SQLite begins with, is not called through the dynamic linker either, but the
 * functions that open are. The first open loads the extension, and each one after a sqlite3_shutdown again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct sqlite3 sqlite3;
typedef struct { int version, size, path; void *next; const char *name; } vfs_head;

static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    void *library;
    if (!found && (library = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_NOLOAD))) found = dlsym(library, name);
    if (!found) { fprintf(stderr, "suites: no %s\n", name); abort(); }
    return found;
}

static void say_used(const char *vfs) {
    static pid_t said;
    const char *path = getenv("SUITES_USED");
    char line[64];
    int fd;
    if (!path || said == getpid()) return;
    said = getpid();
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return;
    snprintf(line, sizeof line, "%s %d\n", vfs, (int)said);
    if (write(fd, line, strlen(line)) < 0) abort();
    close(fd);
}

static void load(void) {
    static int busy;
    const char *library = getenv("SUITES_LIBRARY");
    int (*open_v2)(const char *, sqlite3 **, int, const char *);
    int (*db_config)(sqlite3 *, int, ...);
    int (*load_extension)(sqlite3 *, const char *, const char *, char **);
    int (*close_db)(sqlite3 *);
    vfs_head *(*vfs_find)(const char *);
    sqlite3 *db = 0;
    char *error = 0;
    vfs_head *vfs;
    if (busy || !library || !*library) return;
    vfs_find = find("sqlite3_vfs_find");
    vfs = vfs_find(0);
    if (vfs && !strcmp(vfs->name, "litestream")) { say_used(vfs->name); return; }
    busy = 1;
    open_v2 = find("sqlite3_open_v2");
    db_config = find("sqlite3_db_config");
    load_extension = find("sqlite3_load_extension");
    close_db = find("sqlite3_close");
    if (open_v2(":memory:", &db, 6, 0) != 0) abort();
    db_config(db, 1005, 1, (int *)0);
    if (load_extension(db, library, "sqlite3_litestreamdefault_init", &error) != 0) {
        fprintf(stderr, "suites: %s: %s\n", library, error ? error : "not loaded");
        abort();
    }
    close_db(db);
    vfs = vfs_find(0);
    if (vfs) say_used(vfs->name);
    busy = 0;
}

int sqlite3_open(const char *name, sqlite3 **db) {
    int (*real)(const char *, sqlite3 **) = find("sqlite3_open");
    load();
    return real(name, db);
}

int sqlite3_open16(const void *name, sqlite3 **db) {
    int (*real)(const void *, sqlite3 **) = find("sqlite3_open16");
    load();
    return real(name, db);
}

int sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs) {
    int (*real)(const char *, sqlite3 **, int, const char *) = find("sqlite3_open_v2");
    load();
    return real(name, db, flags, vfs);
}
