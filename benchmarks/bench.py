"""``make bench``: every topic in a process of its own, its rows held against their targets.

    python -m benchmarks.bench [--quick] [--only TOPIC or ROW …]

Writes ``results.json`` (a list of rows) and ``RESULTS.md`` beside this file as the results come; ``--quick`` writes
``results-quick.json`` and ``RESULTS-quick.md``. Rows that were not measured this time stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.frame import Row, failed, write
from benchmarks.targets import TARGETS, Target

HERE = Path(__file__).resolve().parent
LIMIT = 1_500
"""Seconds that a topic may take."""
PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "numpy", "pandas", "duckdb", "streamlit")
FIELDS = ("name", "ours", "peer", "unit", "ratio", "target", "direction", "met", "note", "agrees", "measured", "samples")


def held(found: Row, target: Target) -> Row:
    """A measured row with its ratio, and whether the target is met (None where it has none)."""
    ours, peer = found["ours"], found["peer"]
    ratio = met = None
    if ours is not None:
        if target.direction == "at most":
            ratio = ours
        elif peer:
            ratio = peer / ours if target.direction == "faster" else ours / peer
    if target.target is not None:
        least = target.direction in ("higher", "faster")
        met = ratio is not None and (ratio >= target.target if least else ratio <= target.target)
    value = {**found, "ratio": ratio, "target": target.target, "direction": target.direction, "met": met}
    return {field: value.get(field) for field in FIELDS}


def measure(topic: str, names: Sequence[str], quick: bool, limit: float = LIMIT) -> list[Row]:
    """The rows ``names`` of a topic; those that it did not come to are failed ones."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        words = [sys.executable, "-m", f"benchmarks.{topic}", "--out", str(out), "--only", *names, *(["--quick"] if quick else [])]
        environment = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        process = subprocess.Popen(
            words, cwd=HERE.parent, env={**environment, "PYTHONPATH": str(HERE.parent)}, start_new_session=True
        )
        why = ""
        try:
            code = process.wait(limit)
            why = f"failed: the topic ended with code {code}" if code else "failed: the topic did not write this row"
        except subprocess.TimeoutExpired:
            why = f"failed: ended after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        try:
            found = {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
        except (OSError, ValueError):
            found = {}
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [{**found.get(name, failed(name, why)), "measured": today} for name in names]


def chosen(only: Sequence[str], quick: bool) -> dict[str, list[Target]]:
    """The targets by topic: all, or those of which a word of ``only`` is the topic or a part of the name."""
    found: dict[str, list[Target]] = {}
    for target in TARGETS:
        asked = not only or any(word == target.topic or word in target.name for word in only)
        if asked and (target.quick or not quick):
            found.setdefault(target.topic, []).append(target)
    return found


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Old and new rows in the order of the targets, the new ones in place of the old; held against today's targets."""
    by_name = {row["name"]: row for row in [*old, *new]}
    return [held(by_name[target.name], target) for target in TARGETS if target.name in by_name]


# --- what people read ---------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def goal(row: Row) -> str:
    if row["target"] is None:
        return "–"
    return f"{'≥' if row['direction'] in ('higher', 'faster') else '≤'} {row['target']:g}"


def verdict(row: Row) -> str:
    if row["ours"] is None:
        return "failed"
    return {True: "met", False: "MISSED", None: "–"}[row["met"]]


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | ours | peer | unit | ratio | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["name"], number(row["ours"]), number(row["peer"]), row["unit"], number(row["ratio"]), goal(row), verdict(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(rows: Sequence[Row], quick: bool, seconds: float, load: float) -> str:
    """RESULTS.md."""
    why = {target.name: target.missed for target in TARGETS}
    missed = [row for row in rows if row["met"] is False]
    parts = [
        f"# Benchmarks{' (quick)' if quick else ''}",
        f"`make bench{'-quick' if quick else ''}` on {machine()}. {versions()}. Medians of interleaved repeats; the last call took "
        f"{seconds / 60:.1f} minutes and began at a load of {load:.1f} (0: nothing else was at work). Ratios: ours / peer where more is better, peer / ours of times, the cost or time itself under "
        "\"≤\". The single repeats are in the JSON file beside this one.",
        table(rows),
    ]  # fmt: skip
    if missed:
        parts.append("## Missed")
        parts.append("\n".join(f"- {row['name']}: {by_how_much(row)} {why[row['name']]}".rstrip() for row in missed))
    if left := [target.name for target in TARGETS if quick and not target.quick]:
        parts.append("Left out, as they cannot be quick:\n" + "\n".join(f"- {name}" for name in left))
    parts.append("## What was done, and that it is the same")
    parts.append("\n".join(f"- **{row['name']}** ({row['measured']}). {row['note']} {row['agrees']}".rstrip() for row in rows))
    return "\n\n".join(parts) + "\n"


def by_how_much(row: Row) -> str:
    if row["ratio"] is None:
        return row["note"]
    return f"{number(row['ratio'])} instead of {goal(row)}."


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    import psutil

    from ema_core.settings import settings

    return f"{model}, {settings().threads} threads, {psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()}"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer repeats, less work; in files of its own")
    options.add_argument("--only", nargs="+", default=[], metavar="TOPIC|ROW", help="these topics, or rows with this in their name")
    given = options.parse_args()
    tail = "-quick" if given.quick else ""
    results, readable = HERE / f"results{tail}.json", HERE / f"RESULTS{tail}.md"
    rows: list[Row] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    todo, start, load, new = chosen(given.only, given.quick), time.monotonic(), os.getloadavg()[0], []
    if not todo:
        sys.exit(f"No topic or row is called that. Topics: {', '.join(dict.fromkeys(target.topic for target in TARGETS))}.")
    if load > 0.5:
        print(f"Something else is at work on this machine (load {load:.1f}): times will be off.")
    for topic, targets in todo.items():
        began = time.monotonic()
        print(f"==> {topic}", flush=True)
        new += measure(topic, [target.name for target in targets], given.quick)
        print(f"    {time.monotonic() - began:.0f} s", flush=True)
        rows = merged(rows, new)
        write(rows, results)
        readable.write_text(report(rows, given.quick, time.monotonic() - start, load), encoding="utf-8")
    print(table(merged([], new)))
    sys.exit(any(row["ours"] is None for row in new))


if __name__ == "__main__":
    main()
