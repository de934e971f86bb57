"""SQLite's mptest (several processes on one database, killed on the way), plain and with ours as the default VFS and
replicating, in WAL and DELETE: no error, and the database left behind equals its replica.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

import harness

SCRIPTS = ("crash01", "multiwrite01")
MODES = ("wal", "delete")
LIMIT = 600


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--release", default="here", help="`here`, or a Debian release such as sid")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    prepare = [harness.ROOT / "tests/suites/prepare", options.release]
    folder = pathlib.Path(subprocess.run(prepare, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
    with harness.Workspace() as workspace:
        program = workspace.take(folder / "build/suites/mptest")
        scripts = workspace.take(folder / "sqlite3/mptest", "scripts")
        preload = harness.build_library(workspace.folder, "preload")

        def one(side, script, mode):
            command = [program, "test.db", scripts / f"{script}.test", "--journalmode", mode, "--repeat", options.repeat]
            run = workspace.run(side, f"{script}-{mode}", command, LIMIT)
            closing = re.findall(r"(\d+) errors out of (\d+) tests", run.output)
            errors, tests = map(int, closing[-1]) if closing else (1, 0)
            if run.code != 0:
                errors = max(errors, 1)
            return run, errors, tests, harness.compare(workspace, preload, run) if side == "ours" else (0, [])

        cases = [(script, mode) for script in SCRIPTS for mode in MODES]
        passed = failed = starts = 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            started = {(side, *case): pool.submit(one, side, *case) for case in cases for side in harness.SIDES}
            for case in cases:
                (plain, plain_errors, plain_tests, _), (ours, errors, tests, (compared, problems)) = (
                    started[side, *case].result() for side in harness.SIDES)
                starts += ours.starts()
                print(f"{' '.join(case):20} plain {plain_tests} tests, {plain_errors} errors, {plain.seconds:.0f} s; ours {tests}, "
                      f"{errors}, {ours.seconds:.0f} s; {compared} databases compared with their replicas", flush=True)
                if errors > plain_errors:
                    problems.append("\n".join(ours.output.splitlines()[-20:]))
                if compared == 0:
                    problems.append("the database left behind was not replicated")
                if ours.starts() < 2:
                    problems.append("our VFS was not used by all processes")
                for problem in problems:
                    print(f"  FAILED {' '.join(case)}: {problem}", flush=True)
                passed, failed = passed + tests + compared, failed + len(problems)
        print(f"ours: {starts} processes with our VFS as the default; {harness.Proof(workspace.replicas)}")
        print(f"test-mptest: {passed} passed, {failed} failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
