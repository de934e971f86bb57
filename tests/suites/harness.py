"""What the suites share: a place to run in, plain and with ours as the default VFS and replicating, as nobody; the
proof that ours was used; the comparison of the databases left behind with their replicas.

A run is one program in a folder of its own. Both sides are the same binary: only the environment differs.
"""
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = ROOT / "target" / "release"
NOBODY = 65534
# Tests of file permissions fail for root whatever the VFS.
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
SIDES = ("plain", "ours")
# Seconds that the settling of one database may take, and its restore.
SETTLE = 60
# Programs that run now, each the leader of its own group.
RUNNING = set()


def stop(signal_number=None, _frame=None):
    """Ends everything that was started here."""
    for process in list(RUNNING):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if signal_number is not None:
        sys.exit(128 + signal_number)


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)


class Workspace:
    """A folder that nobody may write to, with copies of the programs: the clone may lie where only root can look."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="litestream-suites-"))
        self.folder.chmod(0o755)
        self.library = self.take(RELEASE / "liblitestream_vfs.so")
        self.replicas = self.writable("replicas")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if os.environ.get("SUITES_KEEP"):
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, path, name=None):
        """Copies a file or a folder."""
        path, target = pathlib.Path(path), self.folder / (name or pathlib.Path(path).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy2(path, target)
        return target

    def writable(self, name):
        folder = self.folder / name
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        return folder

    def environment(self, run):
        """What makes ours the default VFS and gives every database below the run's folder a replica."""
        return {
            "SUITES_LIBRARY": str(self.library),
            "SUITES_USED": str(run / "used.log"),
            "LITESTREAM_DB": f"{run}/**",
            "LITESTREAM_REPLICA_URL": f"file://{self.replicas}/{{path}}",
            "LITESTREAM_RESTORE": "never",
        }

    def run(self, side, name, command, limit, environment=()):
        """Runs a command in a folder of its own; the folder, the exit code (None: stopped at the limit), its output and the
        seconds that it took."""
        folder = self.writable(f"{side}/{name}")
        env = {key: value for key, value in os.environ.items() if not key.startswith(("LITESTREAM_", "SUITES_"))}
        env["HOME"] = env["TMPDIR"] = str(folder)
        if side == "ours":
            env.update(self.environment(folder))
        env.update(environment)
        began = time.monotonic()
        log = folder / "output.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(AS_NOBODY + [str(part) for part in command], cwd=folder, env=env, stdout=out,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
            RUNNING.add(process)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = None
            RUNNING.discard(process)
        return Run(folder, code, log.read_text(errors="replace"), time.monotonic() - began)


class Run:
    """One run of a program."""

    def __init__(self, folder, code, output, seconds):
        self.folder, self.code, self.output, self.seconds = folder, code, output, seconds

    def starts(self):
        """Processes whose default VFS was ours, by the line that each of them wrote."""
        log = self.folder / "used.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return sum(line.startswith("litestream ") for line in lines)


class Proof:
    """What was replicated in a folder of replicas: databases, LTX files, bytes."""

    def __init__(self, folder):
        files = [path for path in pathlib.Path(folder).rglob("*.ltx")]
        self.files = len(files)
        self.databases = len({path.parent.parent.parent for path in files})
        self.bytes = sum(path.stat().st_size for path in files)

    def __str__(self):
        return f"{self.databases} databases replicated, {self.files} LTX files, {self.bytes / 1e6:.1f} MB"


def left_behind(folder):
    """The databases below a folder that have a Spool: replicated once, and still there."""
    for spool in sorted(pathlib.Path(folder).rglob(".*-litestream")):
        database = spool.with_name(spool.name[1:].removesuffix("-litestream"))
        if database.is_file() and database.stat().st_size > 0:
            yield database


def content(path):
    """Every page of a database, without a WAL or journal; how SQLite would see it."""
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = DELETE").fetchall()
    except sqlite3.DatabaseError:
        # A schema that is broken on purpose; the file alone is the database where nothing lies beside it.
        if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal")):
            raise
    finally:
        database.close()
    return path.read_bytes()


def without_free(raw):
    """The pages of a database with its free ones empty: a rollback does not bring their bytes back, for SQLite does not
    journal them."""
    size = int.from_bytes(raw[16:18], "big") if len(raw) >= 100 else 0
    size = 65536 if size == 1 else size
    if size < 512:
        return raw
    raw, trunk = bytearray(raw), int.from_bytes(raw[32:36], "big")
    for _ in range(len(raw) // size):
        start = (trunk - 1) * size
        if trunk == 0 or start + size > len(raw):
            break
        following, count = (int.from_bytes(raw[start + at:start + at + 4], "big") for at in (0, 4))
        for leaf in range(min(count, size // 4 - 2)):
            at = start + 8 + 4 * leaf
            free = (int.from_bytes(raw[at:at + 4], "big") - 1) * size
            if 0 < free < len(raw):
                raw[free:free + size] = bytes(size)
        trunk = following
    return bytes(raw)


def same(one, other, lock_at=None):
    """Whether two databases hold the same pages. The journal mode, the change counter and the version number that
    follows it (bytes 18, 19, 24 to 27, 92 to 99) belong to the file; a last page that was never written to its end is
    zero there, and what lies behind the last page that the header counts is no content. `lock_at` is where a build with
    another lock page has it: no content is there either; nor in free pages."""
    def own(raw):
        raw = without_free(raw)
        if len(raw) >= 100 and raw[24:28] == raw[92:96]:
            # The count holds only where the version of the file is the one that it was written with.
            count = int.from_bytes(raw[28:32], "big")
            size = int.from_bytes(raw[16:18], "big")
            raw = raw[:count * (65536 if size == 1 else size)] if count else raw
        if lock_at is not None and len(raw) > lock_at:
            size = int.from_bytes(raw[16:18], "big")
            size = 65536 if size == 1 else max(size, 512)
            start = lock_at // size * size
            raw = raw[:start] + bytes(size) + raw[start + size:]
        return (raw[:18] + raw[20:24] + raw[28:92] + raw[100:]).rstrip(b"\0")
    return own(one) == own(other)


def is_sound(path, lock_at):
    """What SQLite's own check says of a database, where the lock page is not where this SQLite has it."""
    database = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        said = "\n".join(row[0] for row in database.execute("PRAGMA integrity_check")).splitlines()
        lock_page = f"Page {lock_at // size + 1} is never used" if lock_at else None
        return [line for line in said if line not in ("ok", "*** in database main ***", lock_page)] == []
    except sqlite3.DatabaseError:
        return False
    finally:
        database.close()


def compare(workspace, preload, run, lock_at=None, damages=False):
    """Settles each database that a run left behind (one more connection through ours, which recovers and stores what a
    killed process left) and compares it with its restored replica. The number compared and what differs. A run that
    `damages` its database past SQLite may leave one that is broken where its replica is sound."""
    env = dict(os.environ, LD_PRELOAD=str(preload), **workspace.environment(run.folder))
    compared, problems = 0, []
    for database in left_behind(run.folder):
        place = database.relative_to(run.folder)
        # A file that only opens for reading is not replicated; some tests leave one.
        database.chmod(database.stat().st_mode | stat.S_IWUSR)
        settle = ("import sqlite3, sys\n"
                  "db = sqlite3.connect(sys.argv[1])\n"
                  "db.execute('PRAGMA schema_version').fetchall()\n"
                  "print(db.execute('SELECT litestream_sync(30)').fetchall())\n")
        try:
            settled = subprocess.run(AS_NOBODY + ["/usr/bin/python3", "-c", settle, str(database)], env=env, cwd=run.folder,
                                     capture_output=True, text=True, timeout=SETTLE)
        except subprocess.TimeoutExpired:
            problems.append(f"{place}: settling it took longer than {SETTLE} s")
            continue
        if settled.returncode != 0:
            # Some tests leave what is no database any more on purpose: what plain SQLite cannot read either.
            try:
                plain = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
                plain.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                plain.close()
                problems.append(f"{place}: {settled.stderr.strip().splitlines()[-1:]}")
            except sqlite3.Error:
                pass
            continue
        scratch = pathlib.Path(tempfile.mkdtemp(dir=workspace.folder))
        try:
            for suffix in ("", "-wal", "-journal"):
                if database.with_name(database.name + suffix).exists():
                    shutil.copy(f"{database}{suffix}", scratch / f"local{suffix}")
            replica = f"file://{workspace.replicas}{database}"
            restored = subprocess.run([RELEASE / "litestream-vfs", "restore", "-o", scratch / "restored", replica],
                                      capture_output=True, text=True, timeout=SETTLE)
            if restored.returncode != 0:
                problems.append(f"{place}: {restored.stderr.strip()}")
                continue
            equal = same(content(scratch / "local"), content(scratch / "restored"), lock_at)
            if not equal and damages and is_sound(scratch / "restored", lock_at) \
                    and not is_sound(scratch / "local", lock_at):
                continue
            compared += 1
            if not equal:
                problems.append(f"{place}: its replica holds something else")
                if os.environ.get("SUITES_KEEP"):
                    problems[-1] += f" ({scratch})"
                    continue
        except sqlite3.Error as error:
            problems.append(f"{place}: {error}")
        finally:
            if not (problems and problems[-1].endswith(f"({scratch})")):
                shutil.rmtree(scratch, ignore_errors=True)
    return compared, problems


class Verdict:
    """Both sides of one program, held against each other: what ours fails and plain does not, what it left out, and whether ours
    was used. `result` tells of a run how many tests ran, and the names of those that failed."""

    def __init__(self, workspace, preload, runs, result):
        self.runs, ours = runs, runs["ours"]
        (self.plain_ran, self.plain_failed), (self.ran, self.failed) = (result(runs[side]) for side in SIDES)
        self.compared, self.problems = compare(workspace, preload, ours)
        self.problems += sorted(self.failed - self.plain_failed)
        if self.ran < self.plain_ran or self.ran == 0:
            self.problems.append("\n".join(ours.output.splitlines()[-20:]))
        if ours.starts() == 0:
            self.problems.append("our VFS was not used")

    def passed(self):
        return self.ran - len(self.failed) + self.compared

    def close(self, suite, proof):
        """The suite's closing lines, and its exit code."""
        if proof.files == 0:
            self.problems.append("nothing was replicated")
        plain, ours = (self.runs[side] for side in SIDES)
        print(f"plain: {self.plain_ran} tests, {len(self.plain_failed)} failures, {plain.seconds:.1f} s")
        print(f"ours: {self.ran} tests, {len(self.failed)} failures, {ours.seconds:.1f} s; {ours.starts()} processes with our VFS as the "
              f"default; {proof}; {self.compared} databases left behind compared with their replicas")
        for problem in self.problems:
            print(f"FAILED {problem}")
        print(f"{suite}: {self.passed()} passed, {len(self.problems)} failed")
        return 1 if self.problems else 0


def unittest_result(run):
    """What Python's unittest says: tests run, and the names of those that failed."""
    ran = re.findall(r"^Ran (\d+) tests? in", run.output, re.M)
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\S+ \(\S+\))", run.output, re.M))
    return sum(map(int, ran)), failed


def build_library(folder, name):
    """A library to preload, from the C file of that name here."""
    target = pathlib.Path(folder) / f"{name}.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", target, ROOT / f"tests/suites/{name}.c", "-ldl"], check=True)
    target.chmod(0o755)
    return target
