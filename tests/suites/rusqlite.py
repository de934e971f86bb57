"""rusqlite's own tests, with the SQLite that it bundles, plain and with ours as the default VFS and replicating: no test may
fail that passes plain, and the databases left behind must equal their replicas.

The crate as it is published carries its tests and a Cargo.lock. A newer release is taken when its tests compile.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

import harness

RELEASE = "0.37.0"
LIMIT = 300
MANIFEST = """[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[lib]
path = "/dev/null"

[dependencies]
rusqlite = "=RELEASE"

[workspace]
"""


def build():
    """The folder of the crate and its test programs, with our stub linked in."""
    folder = harness.ROOT / "target/suites" / f"rusqlite-{RELEASE}"
    crate = folder / "rusqlite"
    if not crate.exists():
        print(f"Fetching rusqlite {RELEASE}", flush=True)
        fetch = folder / "fetch"
        fetch.mkdir(parents=True, exist_ok=True)
        (fetch / "Cargo.toml").write_text(MANIFEST.replace("RELEASE", RELEASE))
        told = subprocess.run(["cargo", "metadata", "--format-version=1"], cwd=fetch, check=True, stdout=subprocess.PIPE)
        found, = (package for package in json.loads(told.stdout)["packages"] if package["name"] == "rusqlite")
        copy = folder / "copy"
        subprocess.run(["cp", "-r", pathlib.Path(found["manifest_path"]).parent, copy], check=True)
        with open(copy / "Cargo.toml", "a") as manifest:
            manifest.write("\n[workspace]\n")
        copy.rename(crate)
    stub = folder / "extra_init.o"
    subprocess.run(["cc", "-O1", "-fPIC", "-c", "-o", stub, harness.ROOT / "tests/suites/extra_init.c"], check=True)
    host = re.search(r"^host: (\S+)", subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout, re.M)
    # With a target given, what is for the programs alone does not reach build scripts and macros.
    command = ["cargo", "test", "--locked", "--no-run", "--lib", "--tests", "--features", "bundled-full", "--target",
               host.group(1), "--message-format=json"]
    env = dict(os.environ, CARGO_TARGET_DIR=str(folder / "target"), RUSTFLAGS=f"-Clink-arg={stub}",
               LIBSQLITE3_FLAGS="-DSQLITE_EXTRA_INIT=suites_extra_init")
    print(f"Building the tests of rusqlite {RELEASE}", flush=True)
    with open(folder / "build.log", "w") as log:
        built = subprocess.run(command, cwd=crate, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    if built.returncode != 0:
        sys.exit((folder / "build.log").read_text()[-4000:])
    artifacts = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    return crate, [pathlib.Path(artifact["executable"]) for artifact in artifacts if artifact.get("executable")]


def result(run):
    """Tests that passed, and the names of those that failed."""
    passed = re.findall(r"^test result: \S+ (\d+) passed", run.output, re.M)
    return sum(map(int, passed)), set(re.findall(r"^test (\S+) \.\.\. FAILED", run.output, re.M))


def main():
    crate, programs = build()
    with harness.Workspace() as workspace:
        preload = harness.build_library(workspace.folder, "preload")
        data = workspace.take(crate / "test.csv")
        totals, problems, starts, compared = {side: [0, 0, 0.0] for side in harness.SIDES}, [], 0, 0
        for program in programs:
            name = program.name.rsplit("-", 1)[0]
            program = workspace.take(program)
            # The tests look for this file where they run.
            command = ["sh", "-c", 'cp "$1" . && exec "$2"', "sh", data, program]
            runs = {side: workspace.run(side, name, command, LIMIT) for side in harness.SIDES}
            results = {side: result(runs[side]) for side in harness.SIDES}
            for side, (passed, failed) in results.items():
                totals[side] = [had + more for had, more in zip(totals[side], (passed, len(failed), runs[side].seconds))]
            found = [f"{name}: {test}" for test in sorted(results["ours"][1] - results["plain"][1])]
            if results["ours"][0] + len(results["ours"][1]) < results["plain"][0]:
                found.append("\n".join(runs["ours"].output.splitlines()[-20:]))
            count, differing = harness.compare(workspace, preload, runs["ours"])
            problems, compared = problems + found + differing, compared + count
            starts += runs["ours"].starts()
            # A program may have no test of these features.
            if runs["ours"].starts() == 0 and results["plain"][0] > 0:
                problems.append(f"{name}: our VFS was not used")
        proof = harness.Proof(workspace.replicas)
        if proof.files == 0 or totals["ours"][0] == 0:
            problems.append("nothing was replicated")
        for side, (passed, failed, seconds) in totals.items():
            print(f"{side}: {passed} passed, {failed} failed, {seconds:.1f} s")
        print(f"ours: {starts} processes with our VFS as the default; {proof}; {compared} databases left behind compared with "
              f"their replicas")
        for problem in problems:
            print(f"FAILED {problem}")
        print(f"test-rusqlite: {totals['ours'][0] + compared} passed, {len(problems)} failed")
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
