"""Django's own tests of what it does to databases, on files, in WAL and DELETE, plain and with ours as the default VFS and
replicating: no test may fail that passes plain, and the databases left behind must equal their replicas.

The tests come with Django's source distribution on PyPI, which is installed without dependencies of theirs: those tests
are skipped on both sides.
"""
import subprocess
import sys

import harness

RELEASE = "5.2.19"
MODES = ("wal", "delete")
LIMIT = 1200
# What moves transactions, schemas and large results; the rest of Django's tests is about other things.
LABELS = ["transactions", "transaction_hooks", "backends", "schema", "introspection", "inspectdb", "indexes",
          "constraints", "basic", "bulk_create", "custom_pk", "delete", "delete_regress", "fixtures", "force_insert_update",
          "get_or_create", "lookup", "many_to_many", "multiple_database", "queries", "raw_query", "save_delete_hooks",
          "select_for_update", "test_utils", "update"]
SETTINGS = """
import os
OPTIONS = {"init_command": "PRAGMA journal_mode = " + os.environ["SUITES_MODE"]}
def database(name):
    file = os.path.join(os.environ["SUITES_FOLDER"], name)
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": file + ".db", "TEST": {"NAME": file + "-test.db"}, "OPTIONS": OPTIONS}
DATABASES = {"default": database("default"), "other": database("other")}
SECRET_KEY = "for tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""


def fetch():
    """The folder with Django's tests and, in `site`, Django; fetched once."""
    folder = harness.ROOT / "target/suites" / f"django-{RELEASE}"
    if not (folder / ".done").exists():
        print(f"Fetching Django {RELEASE}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", folder / "venv"], check=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", folder, f"django=={RELEASE}"], check=True)
        archive, = (path for path in folder.glob("*.tar.gz"))
        subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
        unpacked, = (path.parent.parent for path in folder.glob("*/tests/runtests.py"))
        subprocess.run([*pip, "install", "--target", folder / "site", unpacked], check=True)
        (unpacked / "tests").rename(folder / "tests")
        (folder / ".done").touch()
    return folder


def main():
    folder = fetch()
    with harness.Workspace() as workspace:
        preload = harness.build_library(workspace.folder, "preload")
        site, tests = workspace.take(folder / "site"), workspace.take(folder / "tests")
        (workspace.folder / "settings").mkdir()
        (workspace.folder / "settings/suites_settings.py").write_text(SETTINGS)
        command = ["/usr/bin/python3", tests / "runtests.py", "--settings=suites_settings", "--parallel=1", "--noinput",
                   "--keepdb", *LABELS]
        passed = failed_in_all = 0
        for mode in MODES:
            runs = {}
            for side in harness.SIDES:
                environment = {"LD_PRELOAD": str(preload), "PYTHONPATH": f"{site}:{workspace.folder / 'settings'}",
                               "SUITES_MODE": mode, "SUITES_FOLDER": str(workspace.folder / side / mode)}
                runs[side] = workspace.run(side, mode, command, LIMIT, environment)
            verdict = harness.Verdict(workspace, preload, runs, harness.unittest_result)
            if verdict.compared == 0:
                verdict.problems.append("no database was left behind to be compared")
            print(f"{mode:8} plain {verdict.plain_ran} tests, {len(verdict.plain_failed)} failures, {runs['plain'].seconds:.0f} s; "
                  f"ours {verdict.ran}, {len(verdict.failed)}, {runs['ours'].seconds:.0f} s; {verdict.compared} databases compared "
                  f"with their replicas", flush=True)
            for problem in verdict.problems:
                print(f"  FAILED {mode}: {problem}", flush=True)
            passed, failed_in_all = passed + verdict.passed(), failed_in_all + len(verdict.problems)
        print(f"ours: {harness.Proof(workspace.replicas)}")
        print(f"test-django: {passed} passed, {failed_in_all} failed")
        return 1 if failed_in_all else 0


if __name__ == "__main__":
    sys.exit(main())
