"""CPython's own tests of its sqlite3 module, plain and with ours as the default VFS and replicating: no test may fail that
passes plain, and the databases left behind must equal their replicas.

The tests come from the source package of Debian's python3: its package of tests leaves these out.
"""
import pathlib
import re
import subprocess
import sys

import harness

LIMIT = 300


def result(run):
    """Tests run, and the names of those that failed."""
    ran = re.findall(r"^Ran (\d+) tests? in", run.output, re.M)
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\S+ \(\S+\))", run.output, re.M))
    return sum(map(int, ran)), failed


def main():
    with harness.Workspace() as workspace:
        preload = harness.build_library(workspace.folder, "preload")
        version = subprocess.run(["/usr/bin/python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
                                 check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        fetch = [harness.ROOT / "tests/suites/source", version]
        source = pathlib.Path(subprocess.run(fetch, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
        tests = workspace.take(source / "Lib/test/test_sqlite3", "tests/test_sqlite3")
        names = sorted(f"test.test_sqlite3.{path.stem}" for path in tests.glob("test_*.py"))
        command = ["/usr/bin/python3", "-c", f"import test, unittest; test.__path__.append({str(tests.parent)!r}); "
                   f"unittest.main(None, argv=['sqlite3', '-v'] + {names!r})"]
        environment = {"LD_PRELOAD": str(preload)}
        runs = {side: workspace.run(side, "cpython", command, LIMIT, environment) for side in harness.SIDES}
        (plain_tests, plain_failed), (tests, failed) = (result(runs[side]) for side in harness.SIDES)
        compared, problems = harness.compare(workspace, preload, runs["ours"])
        problems += sorted(failed - plain_failed)
        if tests < plain_tests or tests == 0:
            problems.append("\n".join(runs["ours"].output.splitlines()[-20:]))
        if runs["ours"].starts() == 0:
            problems.append("our VFS was not used")
        proof = harness.Proof(workspace.replicas)
        if proof.files == 0:
            problems.append("nothing was replicated")
        print(f"plain: {plain_tests} tests, {len(plain_failed)} failures, {runs['plain'].seconds:.1f} s")
        print(f"ours: {tests} tests, {len(failed)} failures, {runs['ours'].seconds:.1f} s; {runs['ours'].starts()} processes with our "
              f"VFS as the default; {proof}; {compared} databases left behind compared with their replicas")
        for problem in problems:
            print(f"FAILED {problem}")
        print(f"test-cpython: {tests - len(failed) + compared} passed, {len(problems)} failed")
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
