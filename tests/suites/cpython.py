"""CPython's own tests of its sqlite3 module, plain and with ours as the default VFS and replicating: no test may fail that
passes plain, and the databases left behind must equal their replicas.

The tests come from the source package of Debian's python3: its package of tests leaves these out.
"""
import pathlib
import subprocess
import sys

import harness

LIMIT = 300


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
        verdict = harness.Verdict(workspace, preload, runs, harness.unittest_result)
        return verdict.close("test-cpython", harness.Proof(workspace.replicas))


if __name__ == "__main__":
    sys.exit(main())
