"""What every topic is made of: parts that measure rows, interleaved repeats, and the command line.

A topic is run by itself, ``python -m benchmarks.TOPIC [--quick] [--only ROW …] --out FILE``, and writes a JSON list of rows. A row is
``name, ours, peer, unit, note, agrees, samples``: ``ours`` and ``peer`` are medians of ``samples``, ``note`` says what both sides did,
``agrees`` how their results were compared. What does not agree raises, and its row is written as failed, never as fast.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.targets import TARGETS

Row = dict[str, Any]
Part = Callable[[bool], list[Row]]


class Disagree(Exception):
    """Two ways of doing the same work gave different results."""


def measures(*names: str) -> Callable[[Part], Part]:
    """Says which rows a part of a topic writes; it gets whether it is to be quick."""

    def named(part: Part) -> Part:
        part.rows = names  # type: ignore[attr-defined]
        return part

    return named


def interleaved(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """What each side returned in its rounds: ours, peer, ours, peer, …"""
    found = in_turn({"ours": ours, "peer": peer}, rounds)
    return found["ours"], found["peer"]


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The same for any number of sides."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, go in sides.items():
            clock, work = time.perf_counter(), time.process_time()
            found[side].append(go())
            took = f"{time.perf_counter() - clock:.1f} s, {time.process_time() - work:.1f} s of processor time"
            print(f"  {side} {number + 1}/{rounds}: {found[side][-1]:.4g} ({took})", file=sys.stderr, flush=True)
    return found


def row(name: str, ours: Sequence[float], peer: Sequence[float] | None, unit: str, note: str, agrees: str) -> Row:
    """A measured row. ``peer`` None: there is no other side, only a limit."""
    return {
        "name": name, "ours": statistics.median(ours), "peer": statistics.median(peer) if peer else None, "unit": unit, "note": note,
        "agrees": agrees, "samples": {"ours": list(ours), "peer": list(peer or ())},
    }  # fmt: skip


def failed(name: str, error: str) -> Row:
    return {
        "name": name, "ours": None, "peer": None, "unit": "", "note": error, "agrees": "", "samples": {"ours": [], "peer": []},
    }  # fmt: skip


def write(rows: Sequence[Row], out: Path) -> None:
    out.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(*parts: Part) -> None:
    """A topic's command line. A part that raises fails its own rows and no others; exit code 1 then."""
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true", help="fewer repeats, less work")
    options.add_argument("--only", nargs="+", metavar="ROW", help="the parts that write one of these rows")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    wanted = set(given.only or [target.name for target in TARGETS if target.quick or not given.quick])
    rows: list[Row] = []
    for part in parts:
        names = part.rows  # type: ignore[attr-defined]
        if not wanted & set(names):
            continue
        print(f"{part.__name__} …", file=sys.stderr, flush=True)
        try:
            rows += part(given.quick)
        except Exception as error:
            traceback.print_exc()
            rows += [failed(name, f"failed: {type(error).__name__}: {error}"[:500]) for name in names]
        write(rows, given.out)
    sys.exit(any(one["ours"] is None for one in rows))
