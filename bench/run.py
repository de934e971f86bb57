#!/usr/bin/env python3
"""`make bench`: SQLite alone, with us, with the Litestream sidecar, and through the official extension.

Every figure of a round is taken for all variants before the next round begins, in rotating order, so that a slow
minute of the machine hits all of them; ratios are taken within a round, and their median over the rounds counts.
Plain SQLite runs twice: the second run shows how far two equal things differ here (the control). In every variant the
loading process has a second, sleeping thread, as hosts have: with the first one glibc and the kernel take slower ways in
all calls. What that costs plain SQLite is measured, too.

    make bench                                 everything, about an hour
    make bench BENCH_ARGS=--quick              small counts, to see that all of it works
    make bench BENCH_ARGS='--only insert,lag'  some of it; the rest of bench/results.json stays

Writes bench/results.json, docs/bench.md, docs/bench.svg and the table in README.md.
"""
import argparse
import array
import datetime
import json
import os
import pathlib
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time

import report
from servers import Proxy, Weed, environment
from variants import Control, Failed, Official, Ours, Place, Plain, Sidecar, Single, process_cpu, process_kb, seconds

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "bench"

# name: what load does in it; count in full and in quick; which database it starts from; `repeat`: more rounds, shorter
# ones, where the disk and not SQLite sets the pace.
THROUGHPUT = {
    "insert": dict(mode="insert", synchronous="NORMAL", count=(200_000, 20_000), template="empty",
                   title="single-row inserts, WAL, NORMAL"),
    "update": dict(mode="update", synchronous="NORMAL", count=(100_000, 10_000), template="rows",
                   title="random updates over 50 MB, NORMAL"),
    "insert-full": dict(mode="insert", synchronous="FULL", count=(3_000, 1_000), template="empty", repeat=4,
                        title="single-row inserts, WAL, FULL"),
    "bulk": dict(mode="bulk", synchronous="NORMAL", count=(12, 1), template="empty",
                 title="100,000 rows in one transaction"),
    "read": dict(mode="read", synchronous="NORMAL", count=(500_000, 50_000), template="rows",
                 title="point reads beside 100 commits/s"),
    "scan": dict(mode="scan", synchronous="NORMAL", count=(60, 10), template="rows",
                 title="scans of 50 MB beside 100 commits/s"),
}


class Bench:
    def __init__(self, args):
        self.quick = args.quick
        self.rounds = args.rounds or (2 if args.quick else 5)
        self.tools = {
            "ours": str(ROOT / "target/release/liblitestream_vfs.so"),
            "cli": str(ROOT / "target/release/litestream-vfs"),
            "litestream": os.environ.get("LITESTREAM_05", "litestream"),
            "official": os.environ.get("LITESTREAM_OFFICIAL_VFS", ""),
            "weed": os.environ.get("LITESTREAM_TEST_WEED", "weed"),
        }
        self.serial = 0
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
        (FOLDER / "run").mkdir(parents=True)
        self.load = str(FOLDER / "load")
        subprocess.run(["cc", "-O2", "-Wall", "-o", self.load, str(ROOT / "bench/load.c"), "-lsqlite3", "-lpthread"], check=True)
        self.weed = Weed(self.tools["weed"], FOLDER / "run" / "weed")
        self.templates = {"empty": self.template("empty", 0), "rows": self.template("rows", 50_000_000)}

    def template(self, name, size):
        path = FOLDER / "run" / f"{name}.db"
        self.run_load(["--db", str(path), "--mode", "fill", "--bytes", str(size)])
        return path

    def place(self, variant, figure):
        """A database of its own and an empty prefix of the bucket for one run."""
        self.serial += 1
        folder = FOLDER / "run" / f"{self.serial:03}-{figure}-{variant.name}"
        folder.mkdir()
        return folder / "app.db", folder.name

    def run_load(self, arguments, variant=None, timeout=600, wait=True):
        command = [self.load, *arguments]
        if variant and variant.before:
            command += ["--before", variant.before]
        if variant and variant.after:
            command += ["--after", variant.after]
        process = subprocess.Popen(command, env=environment(variant and variant.environment), cwd=FOLDER / "run",
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self.result_of(process, timeout) if wait else process

    @staticmethod
    def result_of(process, timeout=600):
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Failed(f"no end within {timeout} s")
        if process.returncode:
            raise Failed((err.strip().splitlines() or [f"exit status {process.returncode}"])[-1][:300])
        return json.loads(out.strip().splitlines()[-1])

    def measure(self, variant, figure, arguments, template="empty", place=None, interval="1s", timeout=600):
        """One run of `load` with a variant on a fresh database; what it printed."""
        database, prefix = self.place(variant, figure)
        place = place or Place(weed=self.weed, prefix=prefix)
        if variant.copies_template:
            shutil.copyfile(self.templates[template], database)
        os.sync()
        try:
            variant.start(database, place, interval)
            cpu = process_cpu(variant.pid) if variant.pid else 0
            result = self.run_load([*variant.arguments(database, place, interval), *arguments], variant, timeout)
            if variant.pid:
                result.update(sidecar_cpu_s=process_cpu(variant.pid) - cpu, sidecar_peak_kb=process_kb(variant.pid, "VmHWM"))
            return result
        finally:
            variant.stop()
            shutil.rmtree(database.parent, ignore_errors=True)

    def variants(self, name):
        kinds = (Plain, Control, Ours, Sidecar, Official) + ((Single,) if name == "insert" else ())
        return [kind(self.tools) for kind in kinds]

    def in_rounds(self, name, variants, once, repeat=1):
        """Calls once(variant) for all of them in every round. {variant: [result or None], ...} and errors."""
        results, errors = {v.name: [] for v in variants}, {}
        rounds = self.rounds * repeat
        for number in range(rounds):
            turn = number % len(variants)
            for variant in variants[turn:] + variants[:turn]:
                if number > 1 and (variant.name in errors or variant.name == "official"):
                    results[variant.name].append(None)  # what failed twice fails again; the official one takes minutes
                    continue
                try:
                    result = once(variant)
                except Failed as failure:
                    errors[variant.name], result = str(failure), None
                results[variant.name].append(result)
                say(f"{name} {number + 1}/{rounds} {variant.name}: " + (brief(result) if result else f"failed: {errors[variant.name]}"))
        return results, errors

    def throughput(self, name):
        spec = THROUGHPUT[name]
        arguments = ["--mode", spec["mode"], "--synchronous", spec["synchronous"], "--count", str(spec["count"][self.quick])]

        def once(variant):
            if variant.name == "official":
                return self.official(variant, name, spec, arguments)
            return self.measure(variant, name, arguments, spec["template"])

        results, errors = self.in_rounds(name, self.variants(name), once, spec.get("repeat", 1))
        figure = dict(title=spec["title"], operations=spec["count"][self.quick], variants={})
        for variant, rows in results.items():
            entry = summarize(rows, results["plain"])
            if variant in errors:
                entry["error"] = errors[variant]
            figure["variants"][variant] = entry
        return figure

    def official(self, variant, name, spec, arguments):
        """The official extension: its own new database to write, and what the sidecar has stored to read (nothing is
        written meanwhile). Fewer operations, since each takes so much longer."""
        arguments = list(arguments)
        arguments[arguments.index("--count") + 1] = str(max(1, spec["count"][1] // (100 if name == "read" else 10)))
        if spec["template"] == "empty":
            return self.measure(variant, name, arguments, timeout=120)
        if name == "update":
            raise Failed("it cannot take over a local database")
        database, prefix = self.place(variant, name)
        place = Place(weed=self.weed, prefix=prefix)
        shutil.copyfile(self.templates["rows"], database)
        sidecar = Sidecar(self.tools)
        sidecar.start(database, place, "1s")
        sidecar.stop()
        variant.start(database, place, "1s")
        variant.environment["LITESTREAM_WRITE_ENABLED"] = "false"
        try:
            return self.run_load([*variant.arguments(database, place, "1s"), *arguments, "--reads-only"], variant, 120)
        finally:
            shutil.rmtree(database.parent, ignore_errors=True)

    def lag(self):
        figure = dict(title="lag from commit to stored, folder", variants={})
        for variant, interval in ((Ours(self.tools), "0"), (Sidecar(self.tools), "10ms"), (Ours(self.tools), "1s"), (Sidecar(self.tools), "1s")):
            count = (40 if self.quick else 300) if seconds(interval) < 1 else (5 if self.quick else 60)
            folder = FOLDER / "run" / f"replica-{self.serial}-{variant.name}"
            key = f"{variant.name} {interval}"
            try:
                result = self.measure(variant, "lag", ["--mode", "lag", "--count", str(count), "--watch", str(folder / "ltx/0")],
                                      place=Place(folder=folder), interval=interval)
                figure["variants"][key] = {k.replace("_us", "_ms"): result[k] / 1000 for k in ("p50_us", "p99_us", "max_us")}
            except Failed as failure:
                figure["variants"][key] = dict(error=str(failure))
            say(f"lag {key}: {figure['variants'][key]}")
            shutil.rmtree(folder, ignore_errors=True)
        return figure

    def requests(self, name, title, mode):
        """Requests and CPU of a minute, seen by a proxy between the variant and the store."""
        length = 10 if self.quick else 60
        figure = dict(title=title, seconds=length, variants={})
        for variant in (Plain(self.tools), Ours(self.tools), Sidecar(self.tools)):
            proxy = Proxy(self.weed.port)
            database, prefix = self.place(variant, name)
            place = Place(weed=self.weed, prefix=prefix, port=proxy.port)
            shutil.copyfile(self.templates["empty"], database)
            try:
                variant.start(database, place, "1s")
                ready = FOLDER / "run" / f"{prefix}.ready"
                # The load says when it is ready by its first commit being stored; what came before is not counted.
                process = self.run_load([*variant.arguments(database, place, "1s"), "--mode", mode, "--rate", "10",
                                         "--seconds", str(length), "--ready", str(ready)], variant, wait=False)
                while not ready.exists() and process.poll() is None:
                    time.sleep(0.01)
                settle = 3 if mode == "idle" else 0
                time.sleep(settle)
                proxy.counts.clear()
                cpu = process_cpu(variant.pid) if variant.pid else 0
                time.sleep(length - settle - 1 if mode == "idle" else length - 0.5)
                counted = dict(proxy.counts)
                sidecar_cpu = process_cpu(variant.pid) - cpu if variant.pid else 0
                result = self.result_of(process)
                figure["variants"][variant.name] = dict(requests=sum(counted.values()), by_method=counted,
                                                        cpu_s=round(result["cpu_s"] + sidecar_cpu, 4))
            except Failed as failure:
                figure["variants"][variant.name] = dict(error=str(failure))
            finally:
                variant.stop()
                proxy.stop()
            say(f"{name} {variant.name}: {figure['variants'][variant.name]}")
        return figure

    def restore(self):
        """A restore of a large database from a folder, beside cp and fsync of the same file."""
        size = 100_000_000 if self.quick else 1_000_000_000
        source = FOLDER / "run" / "large.db"
        self.run_load(["--db", str(source), "--mode", "fill", "--bytes", str(size)])
        places = {}
        figure = dict(title="restore from a folder, times cp + fsync", bytes=source.stat().st_size, variants={})
        for variant in (Ours(self.tools), Sidecar(self.tools)):
            folder = FOLDER / "run" / f"large-{variant.name}"
            try:
                variant.start(source, Place(folder=folder), "1s")
                if variant.name == "ours":
                    self.run_load([*variant.arguments(source, Place(folder=folder), "1s"), "--mode", "idle", "--seconds", "0"], variant)
                places[variant.name] = folder
            except Failed as failure:
                figure["variants"][variant.name] = dict(error=str(failure))
            finally:
                variant.stop()
        target = FOLDER / "run" / "restored.db"
        commands = {"cp": ["cp", str(source), str(target)],
                    "ours": [self.tools["cli"], "restore", "-o", str(target), f"file://{places.get('ours')}"],
                    "sidecar": [self.tools["litestream"], "restore", "-o", str(target), f"file://{places.get('sidecar')}"]}
        rows = {name: [] for name in commands}
        for number in range(2 if self.quick else 3):
            for name, command in commands.items():
                if name != "cp" and name not in places:
                    continue
                target.unlink(missing_ok=True)
                os.sync()
                start = time.monotonic()
                process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL,
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                output = process.stdout.read().decode(errors="replace")
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode or not target.exists():
                    figure["variants"][name] = dict(error=output.strip()[-300:] or "it restored nothing")
                    continue
                with open(target, "rb+") as file:
                    os.fsync(file.fileno())
                took = time.monotonic() - start
                rows[name].append(dict(seconds=took, peak_kb=usage.ru_maxrss))
                say(f"restore {number + 1} {name}: {took:.2f} s, {usage.ru_maxrss} KiB")
        for name, results in rows.items():
            if results:
                ratios = [r["seconds"] / c["seconds"] for r, c in zip(results, rows["cp"])]
                figure["variants"][name] = dict(figure["variants"].get(name, {}), seconds=statistics.median(r["seconds"] for r in results),
                                                ratio=statistics.median(ratios), peak_kb=max(r["peak_kb"] for r in results))
        for path in FOLDER.joinpath("run").glob("large*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        target.unlink(missing_ok=True)
        return figure

    def library(self):
        """Size of the library, and how long SQLite takes to load it into a fresh process."""
        figure = dict(title="size and load time of the library", variants={})
        for variant in (Ours(self.tools), Official(self.tools)):
            path = self.tools[variant.name]
            variant.environment = {"LITESTREAM_REPLICA_URL": f"file://{FOLDER}/run/none"} if variant.name == "official" else {}
            arguments = ["--extension", path, "--mode", "load"] + (["--entry", "sqlite3_litestreamvfs_init"] if variant.name == "official" else [])
            variant.before = variant.after = None
            try:
                times = [self.run_load(arguments, variant)["load_ms"] for _ in range(5 if self.quick else 30)]
                figure["variants"][variant.name] = dict(bytes=os.stat(path).st_size, load_ms=statistics.median(times))
            except (Failed, OSError) as failure:
                figure["variants"][variant.name] = dict(error=str(failure))
            say(f"library {variant.name}: {figure['variants'][variant.name]}")
        return figure

    def procs(self):
        """4 processes of 3 connections each on one database; every transaction takes the write lock."""
        length = 2 if self.quick else 10

        def once(variant):
            database, prefix = self.place(variant, "procs")
            place = Place(weed=self.weed, prefix=prefix)
            shutil.copyfile(self.templates["empty"], database)
            os.sync()
            try:
                variant.start(database, place, "1s")
                start_at = time.time() + 2
                processes = [self.run_load(
                    [*variant.arguments(database, place, "1s"), "--mode", "procs", "--threads", "3", "--seconds", str(length),
                     "--start-at", repr(start_at), "--dump", str(database.with_name(f"{n}.ns"))], variant, wait=False)
                    for n in range(4)]
                results = [self.result_of(process, 120) for process in processes]
                samples = array.array("Q")
                for n in range(4):
                    samples.frombytes(database.with_name(f"{n}.ns").read_bytes())
                connection = sqlite3.connect(database)
                counter, rows = connection.execute("SELECT n, (SELECT count(*) FROM log) FROM counter").fetchone()
                connection.close()
                if not counter == rows == len(samples):
                    raise Failed(f"{len(samples)} transactions returned, the counter says {counter}, the table has {rows}")
                ordered = sorted(samples)
                return dict(operations=len(samples), per_second=len(samples) / length, seconds=length,
                            p50_us=ordered[len(ordered) // 2] / 1e3, p99_us=ordered[len(ordered) * 99 // 100] / 1e3,
                            max_us=ordered[-1] / 1e3, cpu_s=sum(r["cpu_s"] for r in results), rss_peak_kb=max(r["rss_peak_kb"] for r in results))
            finally:
                variant.stop()
                shutil.rmtree(database.parent, ignore_errors=True)

        variants = [kind(self.tools) for kind in (Plain, Control, Ours, Sidecar)]
        results, errors = self.in_rounds("procs", variants, once)
        figure = dict(title="4 processes × 3 connections, IMMEDIATE", operations=None, variants={})
        for variant, rows in results.items():
            figure["variants"][variant] = summarize(rows, results["plain"]) | ({"error": errors[variant]} if variant in errors else {})
        return figure


def summarize(rows, plain):
    """Medians over the rounds; ratios to plain SQLite within each round, with their spread."""
    pairs = [(row, base) for row, base in zip(rows, plain) if row and base]
    if not pairs:
        return {}
    median = lambda key: statistics.median(row[key] for row, _ in pairs)
    ratio = lambda key: [row[key] / base[key] for row, base in pairs if base[key]]
    rates = ratio("per_second")
    entry = dict(per_second=median("per_second"), ratio=statistics.median(rates), ratio_min=min(rates), ratio_max=max(rates),
                 p50_us=median("p50_us"), p99_us=median("p99_us"), max_us=median("max_us"),
                 p99_ratio=statistics.median(ratio("p99_us")), max_ratio=statistics.median(ratio("max_us")),
                 cpu_ratio=statistics.median(ratio("cpu_s")),
                 memory_kb=statistics.median(row["rss_peak_kb"] - base["rss_peak_kb"] for row, base in pairs))
    if "sidecar_peak_kb" in pairs[0][0]:
        entry.update(sidecar_peak_kb=median("sidecar_peak_kb"), sidecar_cpu_s=median("sidecar_cpu_s"))
    return entry


def brief(result):
    return f"{result['per_second']:,.0f}/s, p99 {result['p99_us']:,.0f} us, worst {result['max_us']:,.0f} us"


def say(text):
    print(text, flush=True)


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    mounts = [line.split() for line in open("/proc/mounts")]
    mount = max((m for m in mounts if str(FOLDER).startswith(m[1])), key=lambda m: len(m[1]))
    return dict(cpu=model, cores=os.cpu_count(), memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
                kernel=platform.release(), filesystem=mount[2], sqlite=sqlite3.sqlite_version)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small counts; writes target/bench/ and leaves the tables alone")
    parser.add_argument("--only", help="names of figures, separated by commas")
    parser.add_argument("--rounds", type=int, help="how often each throughput is taken (5)")
    args = parser.parse_args()
    figures = list(THROUGHPUT) + ["procs", "lag", "idle", "paced", "restore", "library"]
    wanted = args.only.split(",") if args.only else figures
    if unknown := set(wanted) - set(figures):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(figures)}")

    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "results.json" if args.quick else ROOT / "bench" / "results.json"
    results = json.loads(path.read_text()) if args.only and path.exists() else {"figures": {}}
    bench = Bench(args)
    # Figures that are not taken again keep the words of their own run.
    command = "make bench" + (f" BENCH_ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    taken = f"{datetime.date.today().isoformat()}; `{command}`, median of {bench.rounds} rounds"
    results["machine"] = machine()
    try:
        for name in wanted:
            if name in THROUGHPUT:
                figure = bench.throughput(name)
            elif name == "idle":
                figure = bench.requests("idle", "requests to the store in an idle minute, with what is due after the last write", "idle")
            elif name == "paced":
                figure = bench.requests("paced", "requests to the store in a minute of 10 commits/s", "paced")
            else:
                figure = getattr(bench, name)()
            results["figures"][name] = figure | {"taken": taken}
            path.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        bench.weed.stop()
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
    report.write(results, FOLDER if args.quick else ROOT / "docs", None if args.quick else ROOT / "README.md")
    say(report.table(results))


if __name__ == "__main__":
    sys.exit(main())
