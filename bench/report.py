"""Tables and the picture of a benchmark's results: docs/bench.md, docs/bench.svg and the part of README.md between
`<!-- bench -->` and `<!-- /bench -->`. Can be run alone to draw bench/results.json again."""
import html
import json
import pathlib

COLOURS = {"control": "#9aa4ae", "ours": "#1f7a6d", "sidecar": "#c98a2b", "official": "#b0493f"}
NAMES = {"control": "plain again (control)", "ours": "litestream-vfs", "sidecar": "Litestream sidecar", "official": "official extension"}
BARS = ["insert", "update", "insert-full", "bulk", "read", "scan", "procs"]


def number(value, unit=""):
    if value is None:
        return "–"
    text = (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10
            else f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}")
    return text + unit


def cell(entry, make):
    """What stands in a table for one variant: its figure, the reason why there is none, or a dash."""
    if not entry:
        return "–"
    try:
        return make(entry)
    except (KeyError, TypeError):
        return "failed" if "error" in entry else "–"


def rows(results):
    """(title, {variant: text}) for every line of the table."""
    figures, out = results["figures"], []

    def add(name, title, make, keys=None):
        variants = figures.get(name, {}).get("variants", {})
        if variants:
            out.append((title, {k: cell(variants.get((keys or {}).get(k, k)), make) for k in NAMES}))

    for name in BARS:
        add(name, figures.get(name, {}).get("title", name) + ", throughput", lambda e: number(e["ratio"]))
    add("insert", "p99 of single-row inserts (NORMAL), times plain", lambda e: number(e["p99_ratio"]))
    add("insert", "worst of single-row inserts (NORMAL), times plain", lambda e: number(e["max_ratio"]))
    add("procs", "p99 with 4 processes, times plain", lambda e: number(e["p99_ratio"]))
    lag = figures.get("lag", {}).get("variants", {})
    if lag:
        take = lambda key: cell(lag.get(key), lambda e: number(e["p50_ms"], " ms"))
        out.append(("lag commit → stored, folder, p50, shortest interval", {"ours": take("ours 0"), "sidecar": take("sidecar 10ms")}))
        out.append(("the same at 1 s", {"ours": take("ours 1s"), "sidecar": take("sidecar 1s")}))
    add("insert", "memory added while writing",
        lambda e: number((e["memory_kb"] + e.get("sidecar_peak_kb", 0)) / 1024, " MB"))
    add("idle", "an idle minute, with what is due after the last write: requests, CPU", lambda e: f"{e['requests']}, {e['cpu_s']:.2f} s")
    add("paced", "a minute of 10 commits/s: requests, CPU", lambda e: f"{e['requests']}, {e['cpu_s']:.2f} s")
    restore = figures.get("restore", {})
    add("restore", f"restore of {number(restore.get('bytes', 0) / 1e9)} GB from a folder, times cp + fsync",
        lambda e: f"{number(e['ratio'])} ({number(e['seconds'], ' s')}, {number(e['peak_kb'] / 1024, ' MB')})")
    add("library", "size of the library, time to load it",
        lambda e: f"{number(e['bytes'] / 1e6, ' MB')}, {number(e['load_ms'], ' ms')}")
    return out


def notes(results):
    """Why a figure is missing, once for each variant and reason."""
    seen = {}
    for name, figure in results["figures"].items():
        for variant, entry in figure["variants"].items():
            if "error" in entry:
                seen.setdefault((variant, entry["error"]), []).append(name)
    return [f"{variant} failed at {', '.join(names)}: `{error}`" for (variant, error), names in seen.items()]


def beneath(results):
    m, runs = results["machine"], {}
    for name, figure in results["figures"].items():
        runs.setdefault(figure["taken"], []).append(name)
    taken = [words if len(runs) == 1 else f"{', '.join(names)}: {words}" for words, names in runs.items()]
    return (f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['filesystem']}, Linux {m['kernel']}, SQLite {m['sqlite']}; "
            + "; ".join(taken))


def table(results):
    lines = ["| ratio to plain SQLite, unless a unit is given | " + " | ".join(NAMES.values()) + " |",
             "|---|" + "---:|" * len(NAMES)]
    for title, cells in rows(results):
        lines.append(f"| {title} | " + " | ".join(cells.get(k, "–") for k in NAMES) + " |")
    single = results["figures"].get("insert", {}).get("variants", {}).get("single", {}).get("ratio")
    threads = (f" Every process has a second, sleeping thread, as hosts have; without it plain SQLite's inserts are at {number(single)}."
               if single else "")
    return "\n".join(lines + ["", beneath(results) + "." + threads])


def svg(results):
    """Bars of throughput as a share of plain SQLite; the other figures as a table; what it was run on beneath."""
    figures = [(results["figures"][n], n) for n in BARS if n in results["figures"]]
    others = rows(results)[len(figures):]
    width, left, scale, bar = 900, 330, 440, 13
    parts, y = [], 84

    def text(x, y, words, size=13, colour="#24292f", anchor="start", weight="normal"):
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
                     f'font-weight="{weight}">{html.escape(words)}</text>')

    text(24, 34, "Throughput, as a share of plain SQLite on the same machine", 17, weight="bold")
    x = 24
    for key, name in NAMES.items():
        parts.append(f'<rect x="{x}" y="48" width="12" height="12" rx="2" fill="{COLOURS[key]}"/>')
        text(x + 18, 58.5, name, 12)
        x += 34 + 6.6 * len(name)
    top = y
    for figure, _ in figures:
        shown = [k for k in NAMES if figure["variants"].get(k)]
        text(left - 14, y + len(shown) * (bar + 2) / 2 + 4, figure["title"], 12.5, anchor="end")
        for key in shown:
            entry = figure["variants"][key]
            ratio = entry.get("ratio")
            if ratio is None:
                text(left + 6, y + bar - 2.5, "cannot", 11, COLOURS[key])
            else:
                length = max(min(ratio, 1.15), 0.004) * scale
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="2" fill="{COLOURS[key]}"/>')
                text(left + length + 6, y + bar - 2.5, f"{ratio:.2f}" if ratio >= 0.01 else f"{ratio:.4f}", 11, "#57606a")
            y += bar + 2
        y += 12
    for mark in (0, 0.5, 1):
        x = left + mark * scale
        dash = "" if mark == 0 else ' stroke-dasharray="3 3"'
        parts.insert(0, f'<line x1="{x}" y1="{top - 6}" x2="{x}" y2="{y - 6}" stroke="#d0d7de"{dash}/>')
        text(x, y + 8, f"{mark:g}", 11, "#57606a", "middle")
    y += 40
    columns = [("ours", 560), ("sidecar", 720), ("official", 876)]
    for key, x in columns:
        text(x, y, NAMES[key], 12.5, COLOURS[key], "end", "bold")
    for title, cells in others:
        y += 22
        parts.append(f'<line x1="24" y1="{y - 15}" x2="876" y2="{y - 15}" stroke="#eaeef2"/>')
        text(24, y, title, 12.5)
        for key, x in columns:
            text(x, y, cells.get(key, "–"), 12.5, anchor="end")
    y += 34
    words, line = beneath(results).replace("`", "").split(" "), ""
    for word in words + [None]:
        if word is None or len(line) + len(word) > 130:
            text(24, y, line.strip(), 11.5, "#57606a")
            y, line = y + 17, ""
        line += (word or "") + " "
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8:.0f}" width="{width}" height="{y + 8:.0f}" '
            f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
            f'<rect width="{width}" height="{y + 8:.0f}" rx="8" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")


def write(results, folder, readme=None):
    folder = pathlib.Path(folder)
    (folder / "bench.svg").write_text(svg(results))
    details = ["# Figures", "", "How they are taken: the opening of `bench/run.py`. Single values: `bench/results.json`.", "",
               "![Throughput beside plain SQLite](bench.svg)", "", table(results), ""]
    details += ["## Where a figure is missing", ""] + [f"- {note}" for note in notes(results)] if notes(results) else []
    (folder / "bench.md").write_text("\n".join(details).rstrip() + "\n")
    if readme and readme.exists():
        begin, end = "<!-- bench -->", "<!-- /bench -->"
        text = readme.read_text()
        if begin in text and end in text:
            head, tail = text.split(begin)[0], text.split(end)[1]
            readme.write_text(f"{head}{begin}\n{table(results)}\n{end}{tail}")


if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    write(json.loads((root / "bench/results.json").read_text()), root / "docs", root / "README.md")
