"""The application in tests of power loss and faults: a ledger of numbered transactions, of which any prefix can be told
from any other content. Run as `driver.py work STEPS` it does what it is told and writes down what it was promised; as
`driver.py check` it judges databases, each in a fork of its own, one line of JSON in, one out.
"""

import json
import os
import shutil
import sqlite3
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
        elif what == "times":
            for _ in range(arguments[0]):
                for step in arguments[1]:
                    self.step(*step)
        else:
            raise ValueError(what)


def work(steps):
    load()
    application = Application()
    for step in steps:
        application.step(*step)


# ---- the judge ----


def after_crash(order):
    """Plain SQLite on a copy, then the extension on the files themselves."""
    path, copy = order["database"], order["copy"]
    said = {"plain": -1, "replica": -1, "step": "replica"}
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
        said["plain"] = judge(db)
        db.close()
    said["step"] = "reopen"
    yield said
    db = connect(order["uri"])
    db.execute("PRAGMA busy_timeout=10000")
    said["reopened"] = n = judge(db)
    said["step"] = "commit"
    yield said
    for _ in range(order["commits"]):
        if n < 0:
            begin(db)
            n = 0
        else:
            n += 1
            transact(db, n)
    said["n"] = n
    said["step"] = "sync"
    yield said
    said["txid"] = sync(db)
    with open(order["image"], "wb") as out:
        out.write(image(path))
    said["step"] = "close"
    yield said
    db.close()
    said["step"] = "done"
    yield said


def check():
    load()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            said = {}
            try:
                for said in after_crash(order):
                    pass
            except BaseException as e:
                said["error"] = f"{type(e).__name__}: {e}"
            print(json.dumps(said), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if sys.argv[1] == "work":
    work(json.loads(sys.argv[2]))
else:
    check()
