"""The application in tests of power loss and faults: a ledger of numbered transactions, of which any prefix can be told
from any other content. Run as `driver.py work STEPS` it does what it is told and writes down what it was promised; as
`driver.py check` it judges databases after a loss of power, as `driver.py fault` it works, or lets a lost database be
restored, while files fail or the clock jumps: each order in a fork of its own, one line of JSON in, one out.
"""

import json
import mmap
import os
import shutil
import sqlite3
import struct
import sys
import time

CELLS = 30


def pad(n, m):
    return bytes([n % 251]) * (n * 37 % m)


def filling(n):
    """As long as what transaction 0 put there."""
    return bytes([n % 251]) * 400


def load():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.execute("SELECT load_extension(?)", [os.environ["LIBRARY"]])
    return loader


def connect(uri):
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)


def begin(db):
    """Transaction 0."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE log(n INTEGER PRIMARY KEY, pad BLOB)")
    db.execute("CREATE TABLE cell(id INTEGER PRIMARY KEY, v INTEGER, pad BLOB)")
    db.execute("CREATE TABLE head(n INTEGER, sum INTEGER)")
    db.execute("INSERT INTO head VALUES(0, 0)")
    for cell in range(CELLS):
        db.execute("INSERT INTO cell VALUES(?, 0, zeroblob(400))", [cell])
    db.execute("COMMIT")


def transact(db, n, longest=1500):
    """Transaction n; with `longest` 1 the database does not grow."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO log VALUES(?, ?)", [n, pad(n, longest)])
    db.execute("UPDATE cell SET v = ?, pad = ? WHERE id = ?", [n, filling(n), n % CELLS])
    db.execute("UPDATE head SET n = ?, sum = sum + ?", [n, n])
    db.execute("COMMIT")


def judge(db):
    """How many transactions the database holds; -1 where not even the first. Raises where it is no prefix."""
    found = db.execute("PRAGMA integrity_check(3)").fetchall()
    assert found == [("ok",)], f"integrity_check: {found}"
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'head'").fetchall():
        return -1
    ((n, total),) = db.execute("SELECT n, sum FROM head").fetchall()
    assert total == n * (n + 1) // 2, f"the sum is {total} at {n}"
    log = db.execute("SELECT n, pad FROM log ORDER BY n").fetchall()
    assert [i for i, _ in log] == list(range(1, n + 1)), f"the log is no prefix up to {n}"
    assert all(text in (b"", pad(i, 1500)) for i, text in log), f"the log's rows up to {n} are not what they were"
    for cell, v, text in db.execute("SELECT id, v, pad FROM cell"):
        last = max((i for i in range(n, max(0, n - CELLS), -1) if i % CELLS == cell), default=0)
        assert v == last and (v == 0 or text == filling(v)), f"cell {cell} holds {v} instead of {last} at {n}"
    return n


def sync(db, seconds=20):
    return db.execute("SELECT litestream_sync(?)", [seconds]).fetchone()[0]


def status(db):
    return db.execute("PRAGMA litestream_status").fetchone()[0]


def image(path):
    """The database as a new reader without the extension sees it."""
    db = connect(f"file:{path}?vfs=unix&mode=ro")
    db.execute("SELECT count(*) FROM sqlite_schema")
    pages = db.serialize() if db.execute("PRAGMA page_count").fetchone()[0] else b""
    db.close()
    return pages


# ---- the workload ----


class Application:
    def __init__(self):
        self.acknowledged = os.open(os.environ["ACKNOWLEDGED"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.db, self.n = None, -1

    def say(self, what):
        os.write(self.acknowledged, b"%s %d\n" % (what, self.n))

    def step(self, what, *arguments):
        if what == "open":
            self.db = connect(os.environ["DATABASE"])
            self.n = judge(self.db)
            self.say(b"c")
        elif what == "plain":
            self.db = self.kept = connect(os.environ["DATABASE"].split("?")[0])
        elif what == "begin":
            begin(self.db)
            self.n = 0
            self.say(b"c")
        elif what in ("n", "small"):
            for _ in range(arguments[0]):
                transact(self.db, self.n + 1, 1500 if what == "n" else 1)
                self.n += 1
                self.say(b"c")
                time.sleep(arguments[1])
        elif what == "sync":
            sync(self.db)
            self.say(b"s")
        elif what == "sql":
            self.db.execute(arguments[0]).fetchall()
        elif what == "close":
            self.db.close()
        elif what == "wait":
            time.sleep(arguments[0])
        elif what == "other":
            ask, answer = self.other
            os.write(ask, json.dumps([self.n, arguments[0]]).encode() + b"\n")
            self.n = int(answer.readline())
        elif what == "times":
            for _ in range(arguments[0]):
                for step in arguments[1]:
                    self.step(*step)
        else:
            raise ValueError(what)


def beside(application):
    """Another process, which does the steps that it is asked for, one list at a time, and says where it is then."""
    order, ask = os.pipe()
    answer, out = os.pipe()
    if os.fork() == 0:
        os.close(ask)
        for line in os.fdopen(order):
            application.n, steps = json.loads(line)
            for step in steps:
                application.step(*step)
            os.write(out, b"%d\n" % application.n)
        os._exit(0)
    os.close(out)
    return ask, os.fdopen(answer)


def work(steps):
    load()
    application = Application()
    if any(step[0] == "other" for step in steps):
        application.other = beside(application)
    for step in steps:
        application.step(*step)


# ---- the judge ----


def after_crash(order):
    """Plain SQLite on a copy, then the extension on the files themselves. Where the database need not be sound, what SQLite
    or the extension says against it is an answer."""
    path, copy = order["database"], order["copy"]
    said = {"plain": -1, "replica": -1, "step": "replica", "broken": []}
    yield said
    again = os.open(order["again"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def unless_broken(what, *arguments):
        try:
            return what(*arguments)
        except (sqlite3.Error, AssertionError, ValueError) as e:
            if order["sound"]:
                raise
            said["broken"].append(f"{what.__name__}: {e}")

    if order["replica"]:
        db = connect(f"file:{order['replica']}?vfs=unix")
        said["replica"] = judge(db)
        db.close()
    said["step"] = "plain"
    if os.path.exists(path):
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(path + suffix):
                shutil.copyfile(path + suffix, copy + suffix)
        db = connect(f"file:{copy}?vfs=unix")
        said["plain"] = unless_broken(judge, db)
        db.close()
    said["step"] = "reopen"
    yield said
    db = unless_broken(connect, order["uri"])
    if db:
        db.execute("PRAGMA busy_timeout=10000")
        said["reopened"] = n = unless_broken(judge, db)
        said["step"] = "commit"
        yield said
        for _ in range(order["commits"] if n is not None else 0):
            n += 1
            begin(db) if n == 0 else transact(db, n)
            os.write(again, b"c %d\n" % n)
        said["n"] = n
        said["step"] = "sync"
        yield said
        said["txid"] = unless_broken(sync, db)
        if n is not None:
            os.write(again, b"s %d\n" % n)
        with open(order["image"], "wb") as out:
            out.write(unless_broken(image, path) or b"")
        said["step"] = "close"
        yield said
        db.close()
    said["step"] = "done"
    yield said


# ---- files that fail ----


class Control:
    """`struct control` of tests/c/record.c, mapped: armed, error, forever, group; at, count, hits, clock."""

    def __init__(self):
        with open(os.environ["RECORD_CONTROL"], "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def arm(self, error, forever, group, at):
        struct.pack_into("=4I3Q", self.memory, 0, 1, error, forever, group, at, 0, 0)

    def armed(self, yes):
        struct.pack_into("=I", self.memory, 0, int(yes))

    def disarm(self):
        """How many operations could have failed, and how many did."""
        self.armed(False)
        return struct.unpack_from("=2Q", self.memory, 24)

    def hits(self):
        return struct.unpack_from("=Q", self.memory, 32)[0]

    def set_clock(self, seconds):
        struct.pack_into("=q", self.memory, 40, seconds)


class Faulty:
    """An application whose own files may fail: it rolls back, looks how far it is, and goes on."""

    def __init__(self, order, said):
        self.order, self.said, self.db, self.n, self.known = order, said, None, -1, True
        said.update(errors=[], slowest=0.0)

    def open(self):
        self.db = connect(self.order["uri"])
        self.db.execute("PRAGMA busy_timeout=300")
        self.db.execute("PRAGMA synchronous=" + self.order["synchronous"])
        self.db.execute("PRAGMA wal_autocheckpoint=12")

    def attempt(self, what, *arguments):
        began = time.monotonic()
        try:
            what(*arguments)
        except sqlite3.Error as e:
            self.said["errors"].append(f"{what.__name__}: {e}")
            self.known = False
        self.said["slowest"] = max(self.said["slowest"], time.monotonic() - began)

    def commit(self):
        if not self.known:
            if self.db is None:
                self.open()
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            ((self.n,),) = self.db.execute("SELECT n FROM head").fetchall()
            self.known = True
        transact(self.db, self.n + 1)
        self.n += 1

    def reopen(self):
        db, self.db = self.db, None
        if db:
            db.close()
        self.open()

    def work(self):
        for i in range(24):
            self.attempt(self.commit)
            time.sleep(0.004)
            if i == 12:
                self.attempt(self.reopen)
            if i % 8 == 7:
                # Answered BUSY where the Gate cannot save: no commit waits for that.
                self.db.execute("PRAGMA wal_checkpoint(RESTART)") if self.order["group"] == 1 else None


def prepare(order):
    """A database with six transactions, all stored, and its connection."""
    faulty = Faulty(order, {})
    faulty.open()
    faulty.db.execute("PRAGMA journal_mode=" + order["mode"])
    begin(faulty.db)
    faulty.n = 0
    for _ in range(5):
        faulty.commit()
    sync(faulty.db)
    return faulty


def with_faults(order, control):
    said = {"step": "begin"}
    if order["fresh"]:
        # Another process made it: this one begins with the fault.
        apart(lambda: prepare(order).db.close())
        faulty = Faulty(order, said)
    else:
        faulty = prepare(order)
        faulty.said = said
        said.update(errors=[], slowest=0.0)
    said["step"] = "work"
    yield said
    control.arm(order["error"], order["forever"], order["group"], order["at"])
    control.set_clock(order["clock"])
    if order["fresh"]:
        faulty.attempt(faulty.open)
        faulty.known = False
    faulty.work()
    if order["group"] == 1 and order["forever"] and control.hits():
        # The beat is 100 ms; a worker that backs off says so at once.
        until = time.monotonic() + 3
        while time.monotonic() < until:
            said["status"] = status(faulty.db)
            if json.loads(said["status"])["last_error"]:
                break
            faulty.attempt(faulty.commit)
            time.sleep(0.02)
    if order["then"]:
        shutil.copytree(order["replica"], order["then"])
    said["could"], said["hits"] = control.disarm()
    said["step"] = "after"
    yield said
    faulty.known = False
    if order["group"] == 2:
        faulty.reopen()
    for _ in range(3):
        faulty.commit()
    said["n"] = judge(faulty.db)
    said["step"] = "sync"
    yield said
    said["txid"] = sync(faulty.db)
    said["after"] = status(faulty.db)
    with open(order["image"], "wb") as out:
        out.write(image(order["database"]))
    said["step"] = "close"
    yield said
    faulty.db.close()
    control.set_clock(0)
    said["step"] = "done"
    yield said


def apart(what):
    """What that answers in a process of its own."""
    answer, out = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(out, json.dumps(what()).encode())
        except BaseException as e:
            os.write(out, json.dumps(f"{type(e).__name__}: {e}").encode())
        os._exit(0)
    os.close(out)
    with open(answer) as answer:
        said = json.load(answer)
    # Until then its worker may write to the folders, which the next order builds anew.
    os.waitpid(child, 0)
    assert not isinstance(said, str), said
    return said


def plain(path):
    """What SQLite without the extension finds there; -1 where there is nothing, -2 where it is no database yet."""
    copy = path + "-copy"
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return -1
    shutil.copyfile(path, copy)
    try:
        db = connect(f"file:{copy}?vfs=unix")
        n = judge(db)
        db.close()
        return n
    except sqlite3.DatabaseError as e:
        return -2 if str(e) == "file is not a database" else f"{e}"
    finally:
        os.remove(copy)


def with_faults_in_a_restore(order, control):
    """A database that was stored is lost, and comes back while files fail: at once, or with the next open after it."""
    said = {"step": "begin", "errors": [], "slowest": 0.0, "found": []}
    yield said

    def stored():
        faulty = prepare(order)
        for _ in range(order["more"]):
            faulty.commit()
        sync(faulty.db)
        faulty.db.close()
        return faulty.n

    said["n"] = apart(stored)
    path = order["database"]
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)
    if order["spool"] == "lost":
        shutil.rmtree(os.path.join(os.path.dirname(path), ".app.db-litestream"))
    if order["empty"]:
        open(path, "w").close()
    said["step"] = "restore"
    yield said

    def opens():
        """Opens while files fail; what they said, how long the slowest took, what each left behind."""
        errors, found, slowest = [], [], 0.0
        control.arm(order["error"], order["forever"], order["group"], order["at"])
        for _ in range(2):
            began = time.monotonic()
            try:
                db = connect(order["uri"])
                db.execute("SELECT n FROM head").fetchall()
                db.close()
            except sqlite3.Error as e:
                errors.append(str(e))
            slowest = max(slowest, time.monotonic() - began)
            control.armed(False)
            found.append(plain(path))
            control.armed(True)
        return [errors, found, slowest, *control.disarm()]

    answer = apart(opens) if order["fresh"] else opens()
    said["errors"], said["found"], said["slowest"], said["could"], said["hits"] = answer
    said["step"] = "after"
    yield said
    faulty = Faulty(order, {})
    faulty.open()
    said["after"] = judge(faulty.db)
    faulty.known = False
    for _ in range(3):
        faulty.commit()
    said["step"] = "sync"
    yield said
    sync(faulty.db)
    spool = os.listdir(os.path.join(os.path.dirname(path), ".app.db-litestream"))
    said["left"] = [name for name in spool if "restore-" in name or name == "restoring"]
    with open(order["image"], "wb") as out:
        out.write(image(path))
    faulty.db.close()
    said["step"] = "done"
    yield said


# ---- one fork for each order ----


def serve(job):
    load()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)

        def done():
            said = {}
            try:
                for said in job(order):
                    pass
            except BaseException as e:
                said["error"] = f"{type(e).__name__}: {e}"
            return said

        print(json.dumps(apart(done)), flush=True)


if sys.argv[1] == "work":
    work(json.loads(sys.argv[2]))
elif sys.argv[1] == "fault":
    control = Control()
    serve(lambda order: (with_faults_in_a_restore if order["restore"] else with_faults)(order, control))
else:
    serve(after_crash)
