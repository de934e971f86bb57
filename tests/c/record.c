/* Preloaded into a process under test: writes down every change of files below one folder, in one order for all its
** threads, and makes chosen file operations fail. Power loss and faults are tested with it. Not its business: mapped
** memory (the wal-index is rebuilt after a crash), and what a record means.
** Environment: RECORD_ROOT the folder; RECORD_LOG where records go; RECORD_DATABASE the database, whose arrival by a
** rename without libc (renameat2) is found by its inode; RECORD_CONTROL a file of one `struct control`, mapped;
** RECORD_BOOT a file that names the boot in place of the system.
** A record: struct record, then `from` bytes of a path, then `more` bytes of another path or of data. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, DATASYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR, OPEN, READ, MAP };
struct record { uint32_t kind, from, more, unused; uint64_t inode, offset; int64_t modified; };
/* Written by the test while the process runs. `group`: 1 the Spool's files, 2 SQLite's, 4 the replica's. `count` is of
** operations that the error can happen to; that number `at` fails, and with `forever` all after it. */
struct control { uint32_t armed, error, forever, group; uint64_t at, count, hits; int64_t clock; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[512], database[512], arriving[600];
static struct stat arriving_stat;
static const char *boot;
static int log_fd = -1, ready;
static volatile struct control *control;

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("RECORD_ROOT"), *to = getenv("RECORD_LOG"), *by = getenv("RECORD_CONTROL");
  const char *base = getenv("RECORD_DATABASE");
  if (!folder) return;
  boot = getenv("RECORD_BOOT");
  snprintf(root, sizeof root, "%s/", folder);
  snprintf(database, sizeof database, "%s", base ? base : "");
  if (to) log_fd = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (by) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, by, O_RDWR | O_CLOEXEC);
    void *at = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) control = at;
    syscall(SYS_close, fd);
  }
  ready = 1;
}

/* The full path of a name in a folder, where it lies below the root; else 0. */
static const char *below(int folder, const char *name, char *out, size_t size) {
  if (!ready || !name) return 0;
  if (name[0] == '/') snprintf(out, size, "%s", name);
  else {
    char link[64], at[400];
    if (folder == AT_FDCWD) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, at, sizeof at - 1);
    if (n < 0) return 0;
    at[n] = 0;
    snprintf(out, size, "%s/%s", at, name);
  }
  return strncmp(out, root, strlen(root)) ? 0 : out + strlen(root);
}
static const char *of(int fd, char *out, size_t size) {
  char link[64];
  if (!ready) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, out, size - 1);
  if (n < 0) return 0;
  out[n] = 0;
  return strncmp(out, root, strlen(root)) ? 0 : out + strlen(root);
}

static int group_of(const char *path) {
  if (strstr(path, "-litestream")) return 1;
  if (strstr(path, "app.db")) return 2;
  return strstr(path, "ltx/") || strstr(path, "replica") ? 4 : 0;
}
static int can_fail(int kind, int error) {
  switch (error) {
    case ENOSPC: return kind == CREATE || kind == WRITE || kind == TRUNCATE || kind == RENAME || kind == LINK || kind == MKDIR;
    case EIO: return kind == WRITE || kind == TRUNCATE || kind == SYNC || kind == DATASYNC || kind == READ;
    case EACCES: return kind == CREATE || kind == OPEN || kind == RENAME || kind == LINK || kind == UNLINK || kind == MKDIR;
    case EMFILE: return kind == CREATE || kind == OPEN;
    case ENOMEM: return kind == MAP;
  }
  return 0;
}
static int fails(int kind, const char *path) {
  if (!control || !control->armed || !(control->group & group_of(path)) || !can_fail(kind, control->error)) return 0;
  uint64_t n = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
  if (n != control->at && !(control->forever && n > control->at)) return 0;
  __atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST);
  errno = control->error;
  return 1;
}

static void put(int kind, const struct stat *stat, uint64_t offset, const char *from, const void *more, size_t n) {
  struct record r = {kind, (uint32_t)strlen(from), (uint32_t)n, 0, stat ? stat->st_ino : 0, offset,
                     stat ? stat->st_mtim.tv_sec * 1000000000ll + stat->st_mtim.tv_nsec : 0};
  struct iovec parts[3] = {{&r, sizeof r}, {(void *)from, r.from}, {(void *)more, n}};
  if (syscall(SYS_writev, log_fd, parts, 3) != (long)(sizeof r + r.from + n)) abort();
}
static void note(int kind, int fd, uint64_t offset, const char *path, const void *more, size_t n) {
  struct stat stat;
  size_t length = strlen(path);
  if (log_fd < 0 || (length > 4 && !strcmp(path + length - 4, "-shm"))) return;
  fstat(fd, &stat);
  put(kind, &stat, offset, path, more, n);
}
/* The restored file was renamed by a system call of its own: seen when the folder is synced. */
static void arrived(void) {
  struct stat stat;
  if (log_fd < 0 || !arriving[0] || lstat(arriving, &stat) == 0) return;
  if (lstat(database, &stat) == 0 && stat.st_ino == arriving_stat.st_ino) {
    const char *to = database + strlen(root);
    put(RENAME, &stat, 0, arriving + strlen(root), to, strlen(to));
  }
  arriving[0] = 0;
}

#define LOCKED(expr) ({ int cancel_; pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_); pthread_mutex_lock(&mutex); \
  __typeof__(expr) r_ = (expr); int e_ = errno; pthread_mutex_unlock(&mutex); errno = e_; r_; })

static int do_open(int folder, const char *name, int flags, mode_t mode) {
  char full[600];
  const char *path = below(folder, name, full, sizeof full);
  struct stat stat;
  if (boot && !strcmp(name, "/proc/sys/kernel/random/boot_id")) name = boot;
  if (!path) return (int)syscall(SYS_openat, folder, name, flags, mode);
  int there = lstat(full, &stat) == 0;
  if (fails(!there && (flags & O_CREAT) ? CREATE : OPEN, path)) return -1;
  int fd = (int)syscall(SYS_openat, folder, name, flags, mode);
  if (fd < 0) return fd;
  if (!there && (flags & O_CREAT)) {
    note(CREATE, fd, 0, path, 0, 0);
    if (strstr(path, "new-restore") && fstat(fd, &arriving_stat) == 0) strcpy(arriving, full);
  } else if (there && (flags & O_TRUNC) && stat.st_size > 0) note(TRUNCATE, fd, 0, path, 0, 0);
  return fd;
}
#define OPEN_BODY(folder) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
  return LOCKED(do_open(folder, name, flags, mode))
int open(const char *name, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int open64(const char *name, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int openat(int folder, const char *name, int flags, ...) { OPEN_BODY(folder); }
int openat64(int folder, const char *name, int flags, ...) { OPEN_BODY(folder); }

static ssize_t do_write(int fd, const void *data, size_t n, int64_t offset) {
  char full[600];
  const char *path = of(fd, full, sizeof full);
  struct stat stat;
  if (path && fails(WRITE, path)) return -1;
  int64_t at = offset;
  if (path && offset < 0) {
    at = (fcntl(fd, F_GETFL) & O_APPEND) && fstat(fd, &stat) == 0 ? stat.st_size : lseek(fd, 0, SEEK_CUR);
  }
  ssize_t done = offset < 0 ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, offset);
  if (path && done > 0) note(WRITE, fd, at, path, data, done);
  return done;
}
/* Most writes are not ours to see: pipes of Python, its files. They do not wait for the lock. */
static int concerns(int fd) {
  char full[600];
  return of(fd, full, sizeof full) != 0;
}
ssize_t write(int fd, const void *data, size_t n) {
  return concerns(fd) ? LOCKED(do_write(fd, data, n, -1)) : syscall(SYS_write, fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return LOCKED(do_write(fd, data, n, at)); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return LOCKED(do_write(fd, data, n, at)); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!concerns(fd)) return syscall(SYS_writev, fd, parts, count);
  /* A short write is an answer that every caller has to expect. */
  for (int i = 0; i < count; i++)
    if (parts[i].iov_len) return write(fd, parts[i].iov_base, parts[i].iov_len);
  return 0;
}
/* Callers fall back to read and write. */
ssize_t copy_file_range(int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f) { errno = ENOSYS; return -1; }
ssize_t sendfile(int a, int b, off_t *c, size_t d) { errno = ENOSYS; return -1; }
ssize_t sendfile64(int a, int b, off64_t *c, size_t d) { errno = ENOSYS; return -1; }

static int fails_read(int fd) {
  char full[600];
  if (!control || !control->armed) return 0;
  const char *path = of(fd, full, sizeof full);
  return path && fails(READ, path);
}
ssize_t read(int fd, void *data, size_t n) { return fails_read(fd) ? -1 : syscall(SYS_read, fd, data, n); }
ssize_t pread(int fd, void *data, size_t n, off_t at) { return fails_read(fd) ? -1 : syscall(SYS_pread64, fd, data, n, at); }
ssize_t pread64(int fd, void *data, size_t n, off64_t at) { return fails_read(fd) ? -1 : syscall(SYS_pread64, fd, data, n, at); }
static void *do_map(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
  char full[600];
  const char *path = fd >= 0 && control && control->armed ? of(fd, full, sizeof full) : 0;
  if (path && fails(MAP, path)) return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}
void *mmap(void *a, size_t n, int p, int f, int fd, off_t o) { return do_map(a, n, p, f, fd, o); }
void *mmap64(void *a, size_t n, int p, int f, int fd, off64_t o) { return do_map(a, n, p, f, fd, o); }

static int do_truncate(int fd, int64_t size) {
  char full[600];
  const char *path = of(fd, full, sizeof full);
  if (path && fails(TRUNCATE, path)) return -1;
  int done = (int)syscall(SYS_ftruncate, fd, size);
  if (path && done == 0) note(TRUNCATE, fd, size, path, 0, 0);
  return done;
}
int ftruncate(int fd, off_t size) { return LOCKED(do_truncate(fd, size)); }
int ftruncate64(int fd, off64_t size) { return LOCKED(do_truncate(fd, size)); }

static int do_sync(int fd, int kind) {
  char full[600];
  const char *path = of(fd, full, sizeof full);
  if (path) arrived();
  if (path && fails(kind, path)) return -1;
  int done = (int)syscall(kind == SYNC ? SYS_fsync : SYS_fdatasync, fd);
  if (path && done == 0) note(kind, fd, 0, path, 0, 0);
  return done;
}
int fsync(int fd) { return LOCKED(do_sync(fd, SYNC)); }
int fdatasync(int fd) { return LOCKED(do_sync(fd, DATASYNC)); }

static int do_two(int kind, int a, const char *from, int b, const char *to, int flags) {
  char full[600], other[600];
  const char *path = below(a, from, full, sizeof full), *more = below(b, to, other, sizeof other);
  if (path && more && fails(kind, more)) return -1;
  int done = kind == LINK ? (int)syscall(SYS_linkat, a, from, b, to, flags)
                          : (int)syscall(SYS_renameat2, a, from, b, to, flags);
  struct stat stat;
  if (done == 0 && path && more && log_fd >= 0 && lstat(other, &stat) == 0) put(kind, &stat, 0, path, more, strlen(more));
  return done;
}
int rename(const char *a, const char *b) { return LOCKED(do_two(RENAME, AT_FDCWD, a, AT_FDCWD, b, 0)); }
int renameat(int a, const char *b, int c, const char *d) { return LOCKED(do_two(RENAME, a, b, c, d, 0)); }
int renameat2(int a, const char *b, int c, const char *d, unsigned f) { return LOCKED(do_two(RENAME, a, b, c, d, f)); }
int link(const char *a, const char *b) { return LOCKED(do_two(LINK, AT_FDCWD, a, AT_FDCWD, b, 0)); }
int linkat(int a, const char *b, int c, const char *d, int f) { return LOCKED(do_two(LINK, a, b, c, d, f)); }

static int do_one(int kind, int folder, const char *name, int flags) {
  char full[600];
  const char *path = below(folder, name, full, sizeof full);
  if (path && fails(kind, path)) return -1;
  int done = kind == MKDIR ? (int)syscall(SYS_mkdirat, folder, name, flags) : (int)syscall(SYS_unlinkat, folder, name, flags);
  if (done == 0 && path && log_fd >= 0) put(kind, 0, 0, path, 0, 0);
  return done;
}
int unlink(const char *name) { return LOCKED(do_one(UNLINK, AT_FDCWD, name, 0)); }
int unlinkat(int folder, const char *name, int flags) {
  return LOCKED(do_one(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, name, flags));
}
int rmdir(const char *name) { return LOCKED(do_one(RMDIR, AT_FDCWD, name, AT_REMOVEDIR)); }
int mkdir(const char *name, mode_t mode) { return LOCKED(do_one(MKDIR, AT_FDCWD, name, mode)); }

/* The wall clock jumps where the test says so; SQLite and Rust's SystemTime ask these two. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int done = (int)syscall(SYS_clock_gettime, clock, now);
  if (done == 0 && clock == CLOCK_REALTIME && control) now->tv_sec += control->clock;
  return done;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  int done = clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return done;
}
