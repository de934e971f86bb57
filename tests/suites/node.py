"""better-sqlite3's own tests, with the SQLite that it bundles, plain and with ours as the default VFS and replicating: no test
may fail that passes plain, and the databases left behind must equal their replicas.

The npm package carried its tests up to TESTS; they are run with the code of RELEASE, so those about interfaces that are gone
fail on both sides. Needs Node's headers beside node.
"""
import json
import pathlib
import shutil
import subprocess
import sys

import harness

TESTS = "5.4.3"
RELEASE = "12.11.1"
# What the tests and the build need: the major versions that better-sqlite3 names itself.
TOOLS = ["bindings@1", "chai@4", "cli-color@2", "fs-extra@11", "mocha@11", "node-gyp@11"]
LIMIT = 600


def build():
    """The package with its addon and its tests, built once."""
    folder = harness.ROOT / "target/suites" / f"better-sqlite3-{RELEASE}"
    package = folder / "package"
    if (folder / ".done").exists():
        return package
    node = pathlib.Path(shutil.which("node") or sys.exit("node is missing")).resolve().parents[1]
    if not (node / "include/node/node.h").exists():
        sys.exit(f"Node's headers are missing below {node}/include/node")
    print(f"Fetching and building better-sqlite3 {RELEASE}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    package.mkdir(parents=True)
    for version, part in ((RELEASE, package), (TESTS, folder / "tests")):
        part.mkdir(exist_ok=True)
        packed = subprocess.run(["npm", "pack", "--silent", f"better-sqlite3@{version}"], cwd=folder, check=True,
                                stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        subprocess.run(["tar", "-xzf", packed, "-C", part, "--strip-components=1"], cwd=folder, check=True)
    shutil.copytree(folder / "tests/test", package / "test")
    shutil.copy(harness.ROOT / "tests/suites/node_setup.js", package / "test/00.setup.js")
    (folder / "tools").mkdir()
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder / "tools", *TOOLS], check=True)
    (folder / "tools/node_modules").rename(package / "node_modules")
    amalgamation = package / "deps/sqlite3/sqlite3.c"
    stub = (harness.ROOT / "tests/suites/extra_init.c").read_text().replace('#include "sqlite3.h"\n', "")
    amalgamation.write_text("#define SQLITE_EXTRA_INIT suites_extra_init\n" + amalgamation.read_text() + stub)
    with open(folder / "build.log", "w") as log:
        command = ["node", "node_modules/node-gyp/bin/node-gyp.js", "rebuild", "--release", f"--nodedir={node}"]
        if subprocess.run(command, cwd=package, stdout=log, stderr=subprocess.STDOUT).returncode != 0:
            sys.exit((folder / "build.log").read_text()[-4000:])
    # Where the tests look for it.
    shutil.copy(package / "build/Release/test_extension.node", package / "build/test_extension.node")
    for waste in ("build/Release/obj.target", "build/Release/.deps", "build/Release/obj", "deps"):
        shutil.rmtree(package / waste, ignore_errors=True)
    (folder / ".done").touch()
    return package


def names(run):
    """Of the tests that passed, and of those that failed."""
    report = run.folder / "report.json"
    try:
        told = json.loads(report.read_text())
    except (OSError, json.JSONDecodeError):
        return set(), set()
    return ({test["fullTitle"] for test in told["passes"]}, {test["fullTitle"] for test in told["failures"]})


def main():
    package = build()
    with harness.Workspace() as workspace:
        preload = harness.build_library(workspace.folder, "preload")
        package = workspace.take(package, "better-sqlite3")
        # The tests put their databases beside themselves.
        command = ["sh", "-c", 'cp -r "$1" package && cd package && exec node node_modules/mocha/bin/mocha.js --exit '
                   '--timeout=20000 --reporter=json --reporter-option=output=../report.json', "sh", package]
        runs = {side: workspace.run(side, "node", command, LIMIT) for side in harness.SIDES}
        told = {side: names(runs[side]) for side in harness.SIDES}

        def result(run):
            passed, failed = told["ours" if run is runs["ours"] else "plain"]
            return len(passed | failed), failed

        verdict = harness.Verdict(workspace, preload, runs, result)
        # Not even run by ours.
        verdict.problems += sorted(told["plain"][0] - told["ours"][0] - told["ours"][1])
        if verdict.compared == 0:
            verdict.problems.append("no database was left behind to be compared")
        return verdict.close("test-node", harness.Proof(workspace.replicas))


if __name__ == "__main__":
    sys.exit(main())
