/*
** The load of the benchmark: one loop over SQLite, compiled, so that what is measured is SQLite and the VFS
** below it and not an interpreter. One run does one thing and prints one JSON object on stdout.
**
**   cc -O2 -o load load.c -lsqlite3 -lpthread
**   load --db app.db --mode insert --count 200000 --synchronous NORMAL
**   load --db 'file:app.db?vfs=litestream&replica=…' --extension ./liblitestream_vfs.so --mode insert …
**
** Modes
**   fill    rows of about 1,000 bytes until --bytes is reached, in transactions of 1,000 rows
**   insert  --count transactions of one row of about 100 bytes
**   update  --count transactions that each change one random row of those that `fill` wrote
**   bulk    --count transactions of 100,000 rows each
**   read    --count point reads, while another connection commits --rate times a second
**   scan    --count scans of the whole table, while another connection commits --rate times a second
**   idle    nothing at all for --seconds, with the database open
**   paced   --rate commits a second for --seconds
**   lag     --count commits; after each, waits until a new file stands in the folder --watch
**   procs   --threads connections for --seconds: BEGIN IMMEDIATE, counter, insert, count, COMMIT
**   load    loads the extension and does nothing else: how long that takes
**
** Latency is the time that a whole transaction (or read) takes for its caller. --before and --after are SQL
** run outside of what is measured. --dump FILE keeps every latency (nanoseconds, 8 bytes
** each). --reads-only writes nothing at all, for a database that cannot be written. --ready FILE is made when
** --before is done and measuring begins. A second thread sleeps from beginning to end, in every variant: hosts have
** threads, and with the first of them glibc and the kernel take slower ways in all calls. --single goes without.
*/
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *db, *extension, *entry, *mode, *synchronous, *watch, *before, *after, *dump, *ready;
    long count, threads;
    int reads_only, single;
    double seconds, rate, start_at;
    sqlite3_int64 bytes;
} opt = {.mode = "insert", .synchronous = "NORMAL", .count = 1000, .threads = 3, .seconds = 10, .rate = 100};

/* Latencies in nanoseconds, one slot for each measured operation. */
struct samples {
    uint64_t *ns;
    long n, room;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_for(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (time_t)seconds) * 1e9)};
    if (seconds > 0) nanosleep(&t, NULL);
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "load: %s: %s\n", what, why);
    exit(1);
}

static void add(struct samples *s, double seconds) {
    if (s->n == s->room) {
        s->room = s->room ? s->room * 2 : 4096;
        s->ns = realloc(s->ns, s->room * sizeof *s->ns);
        if (!s->ns) fail("samples", "out of memory");
    }
    s->ns[s->n++] = (uint64_t)(seconds * 1e9);
}

/* A small generator with a fixed seed: every variant does the same work. */
static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Text that looks like a row of an application: words that repeat and numbers that do not. */
static int make_body(char *out, int size, uint64_t *state) {
    int n = 0;
    while (n < size - 80) {
        n += snprintf(out + n, 80, "{\"user\":\"%08x\",\"state\":\"%s\",\"amount\":%u},", (unsigned)next_random(state),
                      next_random(state) & 1 ? "delivered" : "waiting", (unsigned)(next_random(state) % 100000));
    }
    return n;
}

/* Bodies made before anything is measured: `small` for rows of about 100 bytes, `large` for about 1,000. */
#define POOL 1024
static struct pool {
    char text[POOL][1024];
    int size[POOL];
} small, large;

static void make_bodies(void) {
    uint64_t state = 88172645463325252ull;
    for (int i = 0; i < POOL; i++) {
        small.size[i] = make_body(small.text[i], 180, &state);
        large.size[i] = make_body(large.text[i], sizeof large.text[i], &state);
    }
}

static void bind_body(sqlite3_stmt *stmt, int parameter, const struct pool *pool, uint64_t which) {
    sqlite3_bind_text(stmt, parameter, pool->text[which % POOL], pool->size[which % POOL], SQLITE_STATIC);
}

static void run(sqlite3 *db, const char *sql) {
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) fail(sql, message);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK) fail(sql, sqlite3_errmsg(db));
    return stmt;
}

static void step(sqlite3 *db, sqlite3_stmt *stmt) {
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {}
    if (rc != SQLITE_DONE) fail(sqlite3_sql(stmt), sqlite3_errmsg(db));
    sqlite3_reset(stmt);
}

/* Waits in short, even steps: SQLite's own handler sleeps up to 100 ms, and would be all that is measured. */
static int busy(void *unused, int times) {
    (void)unused;
    sleep_for(0.001);
    return times < 60000;
}

static sqlite3 *open_database(void) {
    sqlite3 *db;
    char sql[64];
    if (sqlite3_open_v2(opt.db, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL) != SQLITE_OK)
        fail(opt.db, sqlite3_errmsg(db));
    sqlite3_busy_handler(db, busy, NULL);
    if (opt.reads_only) return db;
    run(db, "PRAGMA journal_mode = wal");
    snprintf(sql, sizeof sql, "PRAGMA synchronous = %s", opt.synchronous);
    run(db, sql);
    return db;
}

/* Loads the extension through a connection of its own, which stays open. Seconds. */
static double load_extension(void) {
    sqlite3 *db;
    char *message = NULL;
    if (!opt.extension) return 0;
    if (sqlite3_open(":memory:", &db) != SQLITE_OK) fail(":memory:", sqlite3_errmsg(db));
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    double start = now();
    if (sqlite3_load_extension(db, opt.extension, opt.entry, &message) != SQLITE_OK) fail(opt.extension, message);
    return now() - start;
}

static void mode_fill(sqlite3 *db) {
    char body[1024];
    uint64_t state = 88172645463325252ull;
    run(db, "CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, body TEXT)");
    sqlite3_stmt *insert = prepare(db, "INSERT INTO item(n, body) VALUES(0, ?1)");
    for (sqlite3_int64 written = 0; written < opt.bytes;) {
        run(db, "BEGIN");
        for (int i = 0; i < 1000; i++) {
            int n = make_body(body, sizeof body, &state);
            sqlite3_bind_text(insert, 1, body, n, SQLITE_STATIC);
            step(db, insert);
            written += n + 16;
        }
        run(db, "COMMIT");
    }
    sqlite3_finalize(insert);
}

static void mode_insert(sqlite3 *db, struct samples *samples, double rate, double seconds, long count) {
    sqlite3_stmt *insert = prepare(db, "INSERT INTO log(at, body) VALUES(?1, ?2)");
    double begin = now();
    for (long i = 0; rate > 0 ? now() - begin < seconds : i < count; i++) {
        if (rate > 0) sleep_for(begin + i / rate - now());
        double start = now();
        sqlite3_bind_int64(insert, 1, i);
        bind_body(insert, 2, &small, (uint64_t)i);
        step(db, insert);
        add(samples, now() - start);
    }
    sqlite3_finalize(insert);
}

static sqlite3_int64 one_number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = prepare(db, sql);
    if (sqlite3_step(stmt) != SQLITE_ROW) fail(sql, sqlite3_errmsg(db));
    sqlite3_int64 number = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return number;
}

static void mode_update(sqlite3 *db, struct samples *samples) {
    uint64_t state = 362436069ull;
    sqlite3_int64 rows = one_number(db, "SELECT max(id) FROM item");
    sqlite3_stmt *update = prepare(db, "UPDATE item SET n = n + 1, body = ?2 WHERE id = ?1");
    for (long i = 0; i < opt.count; i++) {
        double start = now();
        sqlite3_bind_int64(update, 1, 1 + (sqlite3_int64)(next_random(&state) % (uint64_t)rows));
        bind_body(update, 2, &large, next_random(&state));
        step(db, update);
        add(samples, now() - start);
    }
    sqlite3_finalize(update);
}

static void mode_bulk(sqlite3 *db, struct samples *samples) {
    sqlite3_stmt *insert = prepare(db, "INSERT INTO log(at, body) VALUES(?1, ?2)");
    for (long i = 0; i < opt.count; i++) {
        double start = now();
        run(db, "BEGIN");
        for (int row = 0; row < 100000; row++) {
            sqlite3_bind_int64(insert, 1, row);
            bind_body(insert, 2, &small, (uint64_t)row);
            step(db, insert);
        }
        run(db, "COMMIT");
        add(samples, now() - start);
    }
    sqlite3_finalize(insert);
}

/* A second connection that keeps replication busy while reads are measured. */
static volatile int writer_stops;
static void *writer(void *unused) {
    struct samples ignored = {0};
    sqlite3 *db = open_database();
    (void)unused;
    while (!writer_stops) mode_insert(db, &ignored, opt.rate, 0.2, 0);
    sqlite3_close(db);
    free(ignored.ns);
    return NULL;
}

static void mode_read(sqlite3 *db, struct samples *samples, int scan) {
    pthread_t thread;
    uint64_t state = 88675123ull;
    sqlite3_int64 rows = one_number(db, "SELECT max(id) FROM item");
    sqlite3_stmt *select = prepare(db, scan ? "SELECT sum(length(body)) FROM item" : "SELECT n, body FROM item WHERE id = ?1");
    if (!opt.reads_only) pthread_create(&thread, NULL, writer, NULL);
    for (long i = 0; i < opt.count; i++) {
        double start = now();
        if (!scan) sqlite3_bind_int64(select, 1, 1 + (sqlite3_int64)(next_random(&state) % (uint64_t)rows));
        step(db, select);
        add(samples, now() - start);
    }
    sqlite3_finalize(select);
    writer_stops = 1;
    if (!opt.reads_only) pthread_join(thread, NULL);
}

/* Waits until a file whose name ends in .ltx appears in the watched folder, without polling: a loop that reads the
** folder would hold up whoever makes the file. */
static void wait_for_ltx(int watch, double since) {
    for (;;) {
        char raw[8192] __attribute__((aligned(8)));
        struct pollfd ready = {.fd = watch, .events = POLLIN};
        poll(&ready, 1, 1000);
        ssize_t got = ready.revents ? read(watch, raw, sizeof raw) : 0;
        for (ssize_t at = 0; at < got;) {
            struct inotify_event *event = (struct inotify_event *)(raw + at);
            size_t n = event->len ? strlen(event->name) : 0;
            if (n > 4 && event->name[0] != '.' && !strcmp(event->name + n - 4, ".ltx")) return;
            at += (ssize_t)(sizeof *event + event->len);
        }
        if (now() - since > 30) fail(opt.watch, "nothing new within 30 s of a commit");
    }
}

static void mode_lag(sqlite3 *db, struct samples *samples) {
    uint64_t state = 5783321ull;
    sqlite3_stmt *insert = prepare(db, "INSERT INTO log(at, body) VALUES(?1, ?2)");
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch < 0 || inotify_add_watch(watch, opt.watch, IN_CREATE | IN_MOVED_TO) < 0) fail(opt.watch, strerror(errno));
    for (long i = 0; i < opt.count; i++) {
        sqlite3_bind_int64(insert, 1, i);
        bind_body(insert, 2, &small, (uint64_t)i);
        step(db, insert);
        double committed = now();
        wait_for_ltx(watch, committed);
        add(samples, now() - committed);
        sleep_for(0.013 + (double)(next_random(&state) % 1000) / 20000);
    }
    close(watch);
    sqlite3_finalize(insert);
}

struct member {
    pthread_t thread;
    struct samples samples;
    long number;
};

static void *member(void *arg) {
    struct member *me = arg;
    uint64_t state = 0x9e3779b97f4a7c15ull ^ ((uint64_t)getpid() << 8) ^ (uint64_t)me->number;
    sqlite3 *db = open_database();
    sqlite3_stmt *begin = prepare(db, "BEGIN IMMEDIATE"), *commit = prepare(db, "COMMIT");
    sqlite3_stmt *counter = prepare(db, "UPDATE counter SET n = n + 1");
    sqlite3_stmt *insert = prepare(db, "INSERT INTO log(at, body) VALUES(?1, ?2)");
    sqlite3_stmt *count = prepare(db, "SELECT count(*) FROM log WHERE id > (SELECT n FROM counter) - 100");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    sleep_for(opt.start_at - (t.tv_sec + t.tv_nsec / 1e9));
    for (double end = now() + opt.seconds; now() < end;) {
        double start = now();
        step(db, begin);
        step(db, counter);
        sqlite3_bind_int64(insert, 1, getpid());
        bind_body(insert, 2, &small, next_random(&state));
        step(db, insert);
        step(db, count);
        step(db, commit);
        add(&me->samples, now() - start);
        sleep_for(0.0001);
    }
    sqlite3_finalize(begin), sqlite3_finalize(commit), sqlite3_finalize(counter);
    sqlite3_finalize(insert), sqlite3_finalize(count);
    sqlite3_close(db);
    return NULL;
}

static void mode_procs(struct samples *samples) {
    struct member members[64] = {0};
    if (opt.threads > 64) fail("--threads", "at most 64");
    for (long i = 0; i < opt.threads; i++) {
        members[i].number = i;
        pthread_create(&members[i].thread, NULL, member, &members[i]);
    }
    for (long i = 0; i < opt.threads; i++) {
        pthread_join(members[i].thread, NULL);
        for (long k = 0; k < members[i].samples.n; k++) add(samples, members[i].samples.ns[k] / 1e9);
    }
}

/* A number in KiB from /proc/self/status. */
static long memory(const char *key) {
    char line[256];
    long value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key))) value = atol(line + strlen(key) + 1);
    if (file) fclose(file);
    return value;
}

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_us(const struct samples *s, double p) {
    long at = (long)(p * (s->n - 1) + 0.5);
    return s->n ? s->ns[at] / 1e3 : 0;
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"db", 1, 0, 'd'},      {"extension", 1, 0, 'x'}, {"entry", 1, 0, 'e'},    {"mode", 1, 0, 'm'},
        {"count", 1, 0, 'n'},   {"seconds", 1, 0, 's'},   {"rate", 1, 0, 'r'},     {"synchronous", 1, 0, 'y'},
        {"single", 0, 0, '1'},   {"watch", 1, 0, 'w'},   {"before", 1, 0, 'b'},    {"after", 1, 0, 'a'},    {"threads", 1, 0, 't'},
        {"bytes", 1, 0, 'B'},   {"start-at", 1, 0, 'S'},  {"dump", 1, 0, 'D'},
        {"reads-only", 0, 0, 'R'}, {"ready", 1, 0, 'W'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (c) {
        case 'd': opt.db = optarg; break;
        case 'x': opt.extension = optarg; break;
        case 'e': opt.entry = optarg; break;
        case 'm': opt.mode = optarg; break;
        case 'n': opt.count = atol(optarg); break;
        case 's': opt.seconds = atof(optarg); break;
        case 'r': opt.rate = atof(optarg); break;
        case 'y': opt.synchronous = optarg; break;
        case 'w': opt.watch = optarg; break;
        case 'b': opt.before = optarg; break;
        case 'a': opt.after = optarg; break;
        case 't': opt.threads = atol(optarg); break;
        case 'B': opt.bytes = atoll(optarg); break;
        case 'D': opt.dump = optarg; break;
        case 'W': opt.ready = optarg; break;
        case 'R': opt.reads_only = 1; break;
        case '1': opt.single = 1; break;
        case 'S': opt.start_at = atof(optarg); break;
        default: exit(2);
    }
}

/* Sleeps until the process ends. */
static void *idle_thread(void *unused) {
    for (;;) pause();
    return unused;
}

int main(int argc, char **argv) {
    struct samples samples = {0};
    pthread_t second;
    sqlite3 *db = NULL;
    parse(argc, argv);
    make_bodies();
    if (!opt.single && pthread_create(&second, NULL, idle_thread, NULL)) fail("pthread_create", "no second thread");
    double loaded = load_extension();
    if (!strcmp(opt.mode, "load")) {
        printf("{\"load_ms\": %.3f}\n", loaded * 1e3);
        return 0;
    }
    if (!opt.db) fail("--db", "which database?");
    db = open_database();
    if (!opt.reads_only) run(db, "CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, at INTEGER, body TEXT);"
            "CREATE TABLE IF NOT EXISTS counter(n INTEGER);"
            "INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT * FROM counter)");
    if (opt.before) run(db, opt.before);
    sync(); /* what came before is on disk, and not written while it is measured */
    FILE *ready = opt.ready ? fopen(opt.ready, "w") : NULL;
    if (ready) fclose(ready);

    double rss = memory("VmRSS:"), cpu_before = cpu(), start = now();
    if (!strcmp(opt.mode, "fill")) mode_fill(db);
    else if (!strcmp(opt.mode, "insert")) mode_insert(db, &samples, 0, 0, opt.count);
    else if (!strcmp(opt.mode, "update")) mode_update(db, &samples);
    else if (!strcmp(opt.mode, "bulk")) mode_bulk(db, &samples);
    else if (!strcmp(opt.mode, "read")) mode_read(db, &samples, 0);
    else if (!strcmp(opt.mode, "scan")) mode_read(db, &samples, 1);
    else if (!strcmp(opt.mode, "idle")) sleep_for(opt.seconds);
    else if (!strcmp(opt.mode, "paced")) mode_insert(db, &samples, opt.rate, opt.seconds, 0);
    else if (!strcmp(opt.mode, "lag")) mode_lag(db, &samples);
    else if (!strcmp(opt.mode, "procs")) mode_procs(&samples);
    else fail(opt.mode, "no such mode");
    double seconds = now() - start, cpu_used = cpu() - cpu_before, rss_after = memory("VmRSS:");

    start = now();
    if (opt.after) run(db, opt.after);
    double after = now() - start;
    if (!strcmp(opt.mode, "idle")) samples.n = 0;
    qsort(samples.ns, (size_t)samples.n, sizeof *samples.ns, compare);
    FILE *dump = opt.dump ? fopen(opt.dump, "w") : NULL;
    if (dump) {
        fwrite(samples.ns, sizeof *samples.ns, (size_t)samples.n, dump);
        fclose(dump);
    }
    printf("{\"mode\": \"%s\", \"sqlite\": \"%s\", \"operations\": %ld, \"seconds\": %.6f, \"per_second\": %.2f, "
           "\"p50_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f, \"cpu_s\": %.6f, \"rss_before_kb\": %.0f, "
           "\"rss_after_kb\": %.0f, \"rss_peak_kb\": %ld, \"after_s\": %.6f, \"load_ms\": %.3f}\n",
           opt.mode, sqlite3_libversion(), samples.n, seconds, samples.n / seconds, percentile_us(&samples, 0.5),
           percentile_us(&samples, 0.99), percentile_us(&samples, 1), cpu_used, rss, rss_after, memory("VmHWM:"), after,
           loaded * 1e3);
    sqlite3_close(db);
    return 0;
}
