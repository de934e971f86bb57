"""SQLite's own tests (its TCL suite), plain and with ours as the default VFS and replicating: no test may fail that
passes plain, our VFS must really have been used, and the databases left behind must equal their replicas.

`sqlite.py` runs the files that test storage; `sqlite.py --all` all of veryquick, each file by itself, for one that ours cannot
run to its end would end all of it, those that test storage first; `sqlite.py [--all] NAME.test ...` some, also by patterns.
`--release sid` takes Debian's newest SQLite.
"""
import argparse
import concurrent.futures
import fnmatch
import os
import pathlib
import re
import subprocess
import sys
import time

import harness

STORAGE = ["wal*", "crash*", "pager*", "lock*", "journal*", "exclusive*", "vacuum*", "backup*", "mmap*", "syscall", "io"]
# Minutes each, and nothing that the others lack: `--slow` takes them along.
SLOW = {"backup_ioerr", "backup_malloc", "walcrash", "walcrash3", "walcrash4", "walslow", "walthread", "walbig", "pagerfault"}
LIMIT = 600
# What ends them now and then is known and not mended (docs/suites.md): run by name only.
OPEN = {"walro2", "pager1"}
# It shuts SQLite down right after its last close, beside our worker, and may stand still then (docs/suites.md): seconds after which
# it is stopped and runs once more.
STANDS_STILL = {"wal": 150}
# Where testfixture has the lock page, so that small databases have one.
LOCK_AT = 0x10000
# Ours refuses what these open: a database without locks cannot be replicated safely.
REFUSED = {"nolock"}

# Files that leave at once where the default VFS is not called `unix`.
WANT_UNIX = {"mmap2", "syscall"}
# What ours fails by design; neither passed nor failed.
BY_DESIGN = {
    # An injected I/O error meets the Gate's own reading of the -wal: it answers BUSY, since what could not be saved must
    # not be discarded. The tests want the I/O error.
    "pagerfault-17[be]-ioerr-*": "database is locked",
    # The injected error met a read of ours and not SQLite's: the statement did not fail.
    "vacuum3-ioerr-*.3": "got:      [0]",
    # The worker reads the database, or stores what was committed last.
    "*.test-closeallfiles": "got:      [1]",
    # What SQLite allocates for a pager has room for our handle in it.
    "dbstatus-4.*": "got:",
    # Without a free descriptor the open fails in ours, with a text of our own.
    "oserror-1.1.[13]": "got:",
    # The crash VFS keeps back what is written to the WAL; that ours cannot read it there it says on stderr, which the test compares
    # with what the process before it said.
    "walcrash4-1.nExtra=*": "[1 {litestream: ",
    # A process that ends beside a transaction of another says on stderr that it cannot tell whether all is stored; Tcl's `close`
    # takes that for an error.
    "shared9-3.6": "Error: litestream: ",
    # The image's mark keeps the WAL from being reset, as any reader's does.
    "incrvacuum2-4.3": "got:",
    # The harness loads ours inside sqlite3_initialize(), and some allocations of a load may fail.
    "init-2.*": "got:      [0 {}]",
}
# The N-th allocation of the process fails, once. Where it was one of our worker's, which opens the database for itself, the statement
# did not fail. Which N that is differs from run to run; were a failure swallowed on the statement's own thread, it would be in every run.
# So such a file runs again, and the cases that all of its runs had count.
STRAY, STRAY_RUNS = ("*.transient.*", "got:      [0 {}]"), 3
# Tests that count the syncs of the whole process: the worker syncs the database file too, on its own thread, before it stores an
# image. More than expected is ours, fewer never.
COUNT_SYNCS = ["io-3.2", "io-3.3", "io-4.1", "io-4.2.3", "wal2-14.*.[3-9]", "walmode-1.3", "walmode-3.2", "sync-1.*", "sync2-1.*"]
# Syncs of ours within one such test.
MOST_SYNCS = 4
# The last act of these is to write into the database file past SQLite (`hexio_write`), perhaps within the tick of the file
# system's clock in which it was written before: no VFS can see that. Only a file that is damaged now is left out.
DAMAGE = {"io"}
# What this leaves has 5 GB, mostly holes: a comparison holds a database in memory several times.
TOO_LARGE = {"walbig"}
# Many files of veryquick write into database files past SQLite by this. Where the header stays as it was, neither SQLite nor ours can
# notice in a rollback-journal mode.
PATCHES = "hexio_write"


class Result:
    """What a test program's closing lines say. `stray` are those of its failures that another run did not have."""

    def __init__(self, run):
        self.stray = set()
        closing = re.findall(r"^(\d+) errors out of (\d+) tests", run.output, re.M)
        self.errors, self.tests = map(int, closing[-1]) if closing else (None, None)
        self.failed = set()
        for line in re.findall(r"^!?Failures on these tests: (.*)", run.output, re.M):
            self.failed.update(line.split())
        self.run = run

    def finished(self):
        return self.errors is not None


def by_design(result):
    """The tests that ours failed as it has to, by name and by what they got."""
    named = set().union(*(matching(result, pattern, got) for pattern, got in BY_DESIGN.items()))
    return named | result.stray | {test for test in result.failed if any(fnmatch.fnmatch(test, pattern) for pattern in COUNT_SYNCS)
                    and only_more_syncs(detail(result.run.output, test))}


def matching(result, pattern, got):
    """The tests that failed of a name and with such an answer."""
    return {test for test in result.failed if fnmatch.fnmatch(test, pattern)
            and any(got in line for line in detail(result.run.output, test))}


def only_more_syncs(lines):
    """Whether two lists of numbers, expected and got, differ in no more than a few syncs too many."""
    lists = [[int(word) for word in re.findall(r"\d+", line.split(":", 1)[1])] for line in lines]
    if len(lists) != 2 or len(lists[0]) != len(lists[1]):
        return False
    more = [got - expected for expected, got in zip(*lists) if got != expected]
    return len(more) == 1 and 0 < more[0] <= MOST_SYNCS


def judge(name, plain, ours):
    """What ours fails and plain does not."""
    if not ours.finished():
        if not plain.finished() or name in REFUSED:
            return []
        how = "stopped at the time limit" if ours.run.code is None else f"ended with {ours.run.code}"
        tail = "\n      ".join(ours.run.output.splitlines()[-12:])
        return [f"{name}: {how} before its last test:\n      {tail}"]
    new = sorted(ours.failed - plain.failed - by_design(ours))
    left_out = []
    if name not in WANT_UNIX and plain.finished() and ours.tests < plain.tests // 2:
        left_out.append(f"{name}: {ours.tests} tests of {plain.tests} were run")
    return left_out + [f"{name}: {test}\n      " + "\n      ".join(detail(ours.run.output, test)) for test in new]


def detail(output, test):
    """The lines in which a test says what it expected and got, or the error that it ended in."""
    name = re.escape(test)
    lines = re.findall(rf"^!? ?{name} (?:expected|got).*|(?<=^{name}\.\.\.\n)Error: .*", output, re.M)
    return [line[:400] for line in lines[:4]]


def is_one_of(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def chosen(folder, patterns, slow):
    names = sorted(path.stem for path in (folder / "sqlite3/test").glob("*.test"))
    return [name for name in names if is_one_of(name, patterns) and (slow or name not in SLOW | OPEN)]


def veryquick(workspace, fixture):
    """The files of veryquick."""
    script = workspace.folder / "test" / "list.tcl"
    script.write_text("set testdir [file dirname $argv0]\nsource $testdir/permutations.test\n"
                      "foreach file [dict get $::testspec(veryquick) -files] { puts \"FILE [file tail $file]\" }\n")
    listed = workspace.run("plain", "list", [fixture, script], LIMIT)
    return sorted(re.findall(r"^FILE (\S+)\.test$", listed.output, re.M))


def in_order_of_completion(started, names):
    """Names of files, each when both of its sides are done."""
    whose = {future: name for (_, name), future in started.items()}
    left = {name: len(harness.SIDES) for name in names}
    for future in concurrent.futures.as_completed(whose):
        left[whose[future]] -= 1
        if left[whose[future]] == 0:
            yield whose[future]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="names of test files, or patterns")
    parser.add_argument("--release", default="here", help="`here`, or a Debian release such as sid")
    parser.add_argument("--all", action="store_true", help="all files of veryquick")
    parser.add_argument("--slow", action="store_true", help="also the files that take minutes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    prepare = [harness.ROOT / "tests/suites/prepare", options.release]
    folder = pathlib.Path(subprocess.run(prepare, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
    began = time.monotonic()
    with harness.Workspace() as workspace:
        fixture = workspace.take(folder / "build/suites/testfixture")
        for part in ("test", "ext"):
            workspace.take(folder / "sqlite3" / part)
        preload = harness.build_library(workspace.folder, "preload")
        without_sync = {"LD_PRELOAD": str(harness.build_library(workspace.folder, "nosync"))}
        patterns = [name.removesuffix(".test") for name in options.files]
        if options.all:
            names = [name for name in veryquick(workspace, fixture) if is_one_of(name, patterns or ["*"])]
            names.sort(key=lambda name: not is_one_of(name, STORAGE))
        else:
            names = chosen(folder, patterns or STORAGE, options.slow or bool(options.files))

        def one(side, name):
            script, environment = name, dict(without_sync)
            if options.all:
                script, environment["SQLITE_TEST_PATTERN_LIST"] = "veryquick", f"{name}.test"
            command = [fixture, workspace.folder / "test" / f"{script}.test"]
            result = Result(workspace.run(side, name, command, STANDS_STILL.get(name, LIMIT), environment))
            if side != "ours":
                return result, (0, [])
            if name in STANDS_STILL and result.run.code is None:
                print(f"  {name}: stood still and was stopped; it runs once more")
                result = Result(workspace.run(side, f"{name}-once-more", command, LIMIT, environment))
            stray = always = matching(result, *STRAY)
            for number in range(1, STRAY_RUNS):
                if not always:
                    break
                again = Result(workspace.run(side, f"{name}-again-{number}", command, LIMIT, environment))
                always = always & matching(again, *STRAY) if again.finished() else always
            result.stray = stray - always
            if name in TOO_LARGE:
                return result, (0, [])
            return result, harness.compare(workspace, preload, result.run, LOCK_AT, name in DAMAGE)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            # The longest first would be better still; the sides of one file at the same time meet the same load.
            started = {(side, name): pool.submit(one, side, name) for name in names for side in harness.SIDES}
            problems, totals = [], {side: [0, 0, 0.0] for side in harness.SIDES}
            starts = compared = designed = patched = 0
            for name in in_order_of_completion(started, names):
                plain, ours = (started[side, name].result()[0] for side in harness.SIDES)
                count, differing = started["ours", name].result()[1]
                compared += count
                starts += ours.run.starts()
                designed += len(by_design(ours))
                sources = [path for part in ("test", "ext") for path in (workspace.folder / part).rglob(f"{name}.test")]
                if options.all and any(PATCHES in path.read_text(errors="replace") for path in sources):
                    noticed = [problem for problem in differing if "holds something else" not in problem]
                    patched, differing = patched + len(differing) - len(noticed), noticed
                found = judge(name, plain, ours) + [f"{name}: {problem}" for problem in differing]
                if ours.run.starts() == 0:
                    found.append(f"{name}: our VFS was not used")
                problems += found
                for side, result in (("plain", plain), ("ours", ours)):
                    totals[side][0] += result.tests or 0
                    totals[side][1] += result.errors or 0
                    totals[side][2] += result.run.seconds
                for test in sorted(ours.stray):
                    print(f"  {name}: {test} met an allocation of the worker: it passed in another run")
                slow = ours.run.seconds / max(plain.run.seconds, 0.01)
                print(f"{name:16} plain {plain.tests} tests, {plain.errors} errors, {plain.run.seconds:.1f} s; "
                      f"ours {ours.tests}, {ours.errors}, {ours.run.seconds:.1f} s ({slow:.2f}); "
                      f"{count} databases equal their replicas", flush=True)
                for problem in found:
                    print(f"  FAILED {problem}", flush=True)
        proof = harness.Proof(workspace.replicas)
        if proof.files == 0:
            problems.append("nothing was replicated")
        for side, (tests, errors, seconds) in totals.items():
            print(f"{side}: {tests} tests, {errors} errors, {seconds:.0f} s in test programs")
        print(f"ours: {starts} processes with our VFS as the default; {proof}; {compared} databases left behind "
              f"compared with their replicas; {time.monotonic() - began:.0f} s in all")
        for problem in problems:
            print(f"FAILED {problem}")
        print(f"by design: {designed} tests that ours fails, {patched} databases that a test wrote into behind SQLite's back")
        passed = totals["ours"][0] + compared - totals["ours"][1]
        print(f"test-sqlite: {passed} passed, {len(problems)} failed")
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
