"""The ways to run SQLite that are compared: plain, plain again (the control), ours, the Litestream sidecar and the
official extension. Each knows how to open a database so that it replicates to a URL, and what must run beside it."""
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.parse

from servers import BUCKET, environment


class Failed(Exception):
    """A variant could not do the thing; the text is its own last word."""


def process_kb(pid, key):
    """A figure in KiB from /proc, for example VmHWM."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def process_cpu(pid):
    """CPU seconds that a process has used."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Place:
    """Where a variant replicates to: a folder, or a prefix in the bucket behind a port."""

    def __init__(self, folder=None, weed=None, prefix=None, port=None):
        self.folder, self.weed, self.prefix = folder, weed, prefix
        self.port = port or (weed.port if weed else None)

    def url(self):
        if self.folder:
            return f"file://{self.folder}"
        return f"s3://{BUCKET}/{self.prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1&force-path-style=true"

    def ltx_files(self):
        names = [str(p) for p in pathlib.Path(self.folder).rglob("*")] if self.folder else self.weed.objects(self.prefix)
        return [name for name in names if name.endswith(".ltx")]


class Plain:
    name, title = "plain", "plain SQLite"
    before = after = None
    environment = {}
    copies_template = True
    pid = None

    def __init__(self, tools):
        self.tools = tools

    def start(self, database, place, interval):
        """Whatever must run beside the application, ready when this returns."""

    def stop(self):
        """Ends what `start` began."""

    def arguments(self, database, place, interval):
        return ["--db", str(database)]


class Control(Plain):
    name, title = "control", "plain again (control)"


class Single(Plain):
    """What the second thread that every other variant has costs plain SQLite."""
    name, title = "single", "plain SQLite in a process with one thread"

    def arguments(self, database, place, interval):
        return ["--db", str(database), "--single"]


class Ours(Plain):
    name, title = "ours", "litestream-vfs"
    before = after = "SELECT litestream_sync(300)"

    def arguments(self, database, place, interval):
        replica = urllib.parse.quote(place.url(), safe="")
        uri = f"file:{urllib.parse.quote(str(database))}?vfs=litestream&replica={replica}&sync-interval={interval}"
        return ["--db", uri, "--extension", self.tools["ours"]]


class Sidecar(Plain):
    name, title = "sidecar", "Litestream 0.5.17 beside it"

    def start(self, database, place, interval):
        # Litestream refuses an interval of 0; 10 ms is what its figures here were always taken with.
        interval = "10ms" if interval == "0" else interval
        self.config = pathlib.Path(f"{database}.yml")
        self.config.write_text(json.dumps({"dbs": [{"path": str(database), "monitor-interval": min(interval, "1s", key=seconds),
                                                    "replica": {"url": place.url(), "sync-interval": interval}}]}))
        self.log = open(f"{database}.log", "wb")
        self.process = subprocess.Popen([self.tools["litestream"], "replicate", "-config", str(self.config)],
                                        env=environment(), stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        deadline = time.monotonic() + 60
        while not place.ltx_files():
            if time.monotonic() > deadline or self.process.poll() is not None:
                last = open(self.log.name).read().strip().splitlines()[-1:]
                self.stop()
                raise Failed("the sidecar stored nothing: " + " ".join(last))
            time.sleep(0.1)
        time.sleep(0.5)

    def stop(self):
        if self.pid is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.pid = None


class Official(Plain):
    """Keeps the only copy in the bucket: it opens the replica itself, and there is no local file to copy."""
    name, title = "official", "official extension 0.5.17"
    copies_template = False

    def start(self, database, place, interval):
        self.environment = {
            "LITESTREAM_REPLICA_URL": place.url(), "LITESTREAM_WRITE_ENABLED": "true", "LITESTREAM_SYNC_INTERVAL": interval,
            "LITESTREAM_BUFFER_PATH": f"{database}.buffer", "LITESTREAM_LOG_FILE": f"{database}.log"}

    def arguments(self, database, place, interval):
        return ["--db", f"file:{database.name}?vfs=litestream", "--extension", self.tools["official"],
                "--entry", "sqlite3_litestreamvfs_init"]


def seconds(text):
    """`10ms` or `1s` as a number."""
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text.rstrip("s"))
