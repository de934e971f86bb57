"""mattn/go-sqlite3's own tests, with the SQLite that it bundles, plain and with ours as the default VFS and replicating: no
test may fail that passes plain, and the databases left behind must equal their replicas.

The Go module as it is published carries its tests. cgo compiles every C file of a package's folder, so the stub lies there.
"""
import json
import os
import re
import shutil
import subprocess
import sys

import harness

MODULE = "github.com/mattn/go-sqlite3"
RELEASE = "v1.14.53"
LIMIT = 600


def build():
    """The folder of the module with its test program beside it."""
    folder = harness.ROOT / "target/suites" / f"go-sqlite3-{RELEASE}"
    module, program = folder / "module", folder / "go.test"
    if not program.exists():
        print(f"Fetching and building go-sqlite3 {RELEASE}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        told = subprocess.run(["go", "mod", "download", "-json", f"{MODULE}@{RELEASE}"], cwd=folder, check=True,
                              stdout=subprocess.PIPE)
        shutil.rmtree(module, ignore_errors=True)
        subprocess.run(["cp", "-r", json.loads(told.stdout)["Dir"], module], check=True)
        subprocess.run(["chmod", "-R", "u+w", module], check=True)
        shutil.copy(harness.ROOT / "tests/suites/extra_init.c", module / "suites_extra_init.c")
        (module / "sqlite3.h").write_text('#include "sqlite3-binding.h"\n')
        env = dict(os.environ, CGO_ENABLED="1", CGO_CFLAGS="-O1 -DSQLITE_EXTRA_INIT=suites_extra_init", GOFLAGS="-mod=mod")
        subprocess.run(["go", "test", "-c", "-o", program, "."], cwd=module, env=env, check=True)
    return module, program


def result(run):
    """Tests that ran, and the names of those that failed."""
    passed = re.findall(r"^\s*--- PASS: (\S+)", run.output, re.M)
    failed = set(re.findall(r"^\s*--- FAIL: (\S+)", run.output, re.M))
    return len(passed) + len(failed), failed


def main():
    module, program = build()
    with harness.Workspace() as workspace:
        preload = harness.build_library(workspace.folder, "preload")
        program = workspace.take(program)
        runs = {side: workspace.run(side, "go-sqlite3", [program, "-test.v"], LIMIT) for side in harness.SIDES}
        verdict = harness.Verdict(workspace, preload, runs, result)
        return verdict.close("test-go", harness.Proof(workspace.replicas))


if __name__ == "__main__":
    sys.exit(main())
