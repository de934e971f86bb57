/* Preloaded into the simulation: one clock that only the simulation moves, and random numbers that follow from its seed.
** A sleep returns at once and the clock has moved. The files' times are the clock's, for the kernel's would differ from
** run to run.
** A thread of the simulation says so by its name: "sim:SEED" begins a new one, "sim-WHAT" belongs to the one that runs,
** "sim+SECONDS" comes only to set the wall clock by so much, which the monotonic one knows nothing of.
** One of them runs at a time (tests/support/sim/stage.rs). Other threads read the clock and leave it as it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
/* 21 September 2026 in nanoseconds, where each simulation begins. */
#define BEGINNING (1790000000LL * BILLION)
/* How long a look at the clock, and a write, take. */
#define LOOK 200
#define WRITE 1000

static volatile int64_t now = BEGINNING;
/* How far the wall clock is ahead of the other. */
static volatile int64_t ahead = 0;
static uint64_t dice = 1;
static __thread int ours;
static __thread uint64_t others = 1;

/* One thread runs at a time: on one core none has to wake another one's. */
__attribute__((constructor)) static void begin(void) {
  const char *given = getenv("LITESTREAM_CORE");
  cpu_set_t cores;
  if (!given) return;
  CPU_ZERO(&cores);
  CPU_SET((unsigned)atoi(given), &cores);
  sched_setaffinity(0, sizeof cores, &cores);
}

static uint64_t next(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

int pthread_setname_np(pthread_t thread, const char *name) {
  (void)thread;
  if (!strncmp(name, "sim", 3)) {
    ours = 1;
    if (name[3] == ':') {
      dice = strtoull(name + 4, 0, 10);
      now = BEGINNING;
      ahead = 0;
    } else if (name[3] == '+') {
      ahead += strtoll(name + 4, 0, 10) * BILLION;
    }
  }
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
  if (ours) now += LOOK;
  int64_t time = clock == CLOCK_REALTIME ? now + ahead : now;
  out->tv_sec = time / BILLION;
  out->tv_nsec = time % BILLION;
  return 0;
}

static int slept(int64_t until) {
  if (ours && until > now) now = until;
  return 0;
}

int nanosleep(const struct timespec *time, struct timespec *left) {
  (void)left;
  return slept(now + time->tv_sec * BILLION + time->tv_nsec);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
  (void)clock, (void)left;
  int64_t given = time->tv_sec * BILLION + time->tv_nsec;
  return slept(flags & TIMER_ABSTIME ? given : now + given);
}

ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
  (void)flags;
  for (size_t at = 0; at < size; at++) ((unsigned char *)buffer)[at] = (unsigned char)next(ours ? &dice : &others);
  return (ssize_t)size;
}

/* A file that was written has the clock's time. */
static void stamp(int fd) {
  if (!ours || fd < 3) return;
  now += WRITE;
  struct timespec time = {(now + ahead) / BILLION, (now + ahead) % BILLION}, times[2] = {time, time};
  int kept = errno;
  syscall(SYS_utimensat, fd, 0, times, 0);
  errno = kept;
}

ssize_t write(int fd, const void *data, size_t size) {
  ssize_t done = syscall(SYS_write, fd, data, size);
  stamp(fd);
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  ssize_t done = syscall(SYS_pwrite64, fd, data, size, at);
  stamp(fd);
  return done;
}

int ftruncate64(int fd, off64_t size) {
  int done = (int)syscall(SYS_ftruncate, fd, size);
  stamp(fd);
  return done;
}
