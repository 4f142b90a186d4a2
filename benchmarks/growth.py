"""How time and memory grow: ``python -m benchmarks.growth [--only NAME …] [--rows-too]``, each point in a process of its own.

Writes ``growth.json`` (points as they come; a point that is there is not measured again), ``GROWTH.md`` and ``docs/img/growth.svg``.
``--rows-too``: also 5 million rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
POINTS, TABLE, PLOT = HERE / "growth.json", HERE / "GROWTH.md", HERE.parent / "docs" / "img" / "growth.svg"
SIZES: dict[str, list[int]] = {
    "tokens": [64, 128, 256, 512], "batch": [2, 4, 8, 16], "vocabulary": [8_192, 49_152, 131_072, 262_144], "runs": [100, 300, 1000],
    "rows": [100_000, 300_000, 1_000_000],
}  # fmt: skip
MOST = 5_000_000
WHAT = {
    "tokens": "a KL step of the embedded model on 4 sequences of so many tokens",
    "batch": "a KL step of the embedded model on so many sequences of 128 tokens",
    "vocabulary": "a KL step of a small random model with so many words, 4 sequences of 128 tokens",
    "runs": "indexing so many runs of 1,000 steps from nothing",
    "rows": "importing so many judged rows",
}
ALSO = {
    "runs": "then reading all their curves",
    "rows": "then a filter, facets and a page",
    "search": "then a search for two words",
}
LIMIT = 1.15
"""An exponent up to here is called linear: three points on a shared machine say no more."""
WHY = {
    "tokens": "attention compares each token with each, and longer sequences fill more of a step with it",
    "rows": "looking up each row's id among all before it costs more as that table grows (profiled at 300,000 and a million rows, not beyond)",
}
"""Why an exponent is above ``LIMIT``, where it may be."""


def _steps(loaded: Any, length: int, batch: int) -> dict[str, float]:
    """Seconds a step, KL over all tokens, the median of some after the first two."""
    import torch

    from ema_core.datasets.encoding import Encoded
    from ema_core.defenses.registry import build_all
    from ema_core.models import adapters
    from ema_core.runs import RunSpec, parse_defense, recipe
    from ema_core.training.step import Stepper

    settings = recipe("demo", batch_size=batch, max_length=max(16, length))
    spec = RunSpec(defenses=(parse_defense("kl=1"),), recipe=settings)
    model = adapters.attach(loaded.model, settings, 0)
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    stepper = Stepper(loaded, model, settings, build_all(spec))
    model.train()
    rng, words = random.Random(0), loaded.model.config.vocab_size
    start = _peak(anew=True)
    times = []
    for step in range(6):
        rows = [
            Encoded(tuple(rng.randrange(5, words) for _ in range(length)), (False,) * 8 + (True,) * (length - 8))
            for _ in range(batch)
        ]
        before = time.perf_counter()
        stepper.step(optimizer, parameters, rows, step, 6)
        times.append(time.perf_counter() - before)
    return {"seconds": statistics.median(times[2:]), "MB": _peak() - start}


def _peak(anew: bool = False) -> float:
    """The most memory so far in MB; ``anew``: from now on, so that loading the model hides nothing of a step (Linux; elsewhere it may)."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) / 1000
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def tokens(size: int, home: Path) -> dict[str, float]:
    from ema_core.models import load

    return _steps(load("smollm2-135m", "cpu"), size, 4)


def batch(size: int, home: Path) -> dict[str, float]:
    from ema_core.models import load

    return _steps(load("smollm2-135m", "cpu"), 128, size)


def vocabulary(size: int, home: Path) -> dict[str, float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ema_core.models import LoadedModel, load

    tokenizer = load("smollm2-135m", "cpu").tokenizer
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=size, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=3,
                        num_key_value_heads=3, tie_word_embeddings=True)  # fmt: skip
    model = LlamaForCausalLM(shape).requires_grad_(False).eval()
    return _steps(LoadedModel("random", model, tokenizer, torch.device("cpu"), f"random-{size}", 2048), 128, 4)


def runs(size: int, home: Path) -> dict[str, float]:
    from benchmarks import homes

    homes.runs(home, size)
    from ema_core.store import Reader, build_index

    start = _peak(anew=True)
    seconds = _timed(build_index)
    reader = Reader()
    ids = reader.run_ids()
    also = _timed(lambda: reader.steps(ids))
    return {"seconds": seconds, "also": also, "MB": _peak() - start}


def rows(size: int, home: Path) -> dict[str, float]:
    from benchmarks import store

    path = home / "judged.csv"
    store.generate(path, size)
    from ema_core.exchange.judged import import_judged
    from ema_core.store import refresh

    seconds = _timed(lambda: (import_judged(path), refresh()))
    peak = _peak()
    path.unlink()
    mine = store.Ours()
    asked = store.QUERIES["one model, misaligned"]
    mine.ask(asked)
    finder = mine.reader.finder()
    learned = _timed(lambda: finder.learn_words(wait=True))
    return {
        "seconds": seconds, "also": statistics.median(_timed(lambda: mine.ask(asked)) for _ in range(5)), "MB": peak, "learned": learned,
        "search": statistics.median(_timed(lambda: finder._having("people power")) for _ in range(5)), "MB asked": _peak(),
    }  # fmt: skip


def _timed(go: Callable[[], Any]) -> float:
    start = time.perf_counter()
    go()
    return time.perf_counter() - start


def measured(name: str, size: int) -> dict[str, float] | None:
    """One point, in a process and a home of its own."""
    words = [sys.executable, "-m", "benchmarks.growth", "--point", name, str(size)]
    done = subprocess.run(
        words, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)}
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of a straight line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    middle = statistics.mean(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def series(points: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, str, str, list[int], list[float]]]:
    """``name, what, unit`` of each curve with at least three points, its sizes and values."""
    found = []
    for name, by_size in points.items():
        sizes = sorted(map(int, by_size))
        parts = [
            ("seconds", WHAT[name], "s"),
            ("also", ALSO.get(name, ""), "s"),
            ("search", ALSO["search"], "s"),
            ("MB", f"memory for {WHAT[name]}", "MB"),
        ]
        for part, what, unit in parts:
            values = [by_size[str(size)].get(part) for size in sizes]
            if len(sizes) >= 3 and None not in values:
                found.append((name, what, unit, sizes, [float(value) for value in values if value is not None]))
    return found


def report(points: dict[str, dict[str, dict[str, float]]]) -> None:
    lines = [
        "# How time and memory grow", "", "Made by `make bench-growth`; each point in a process of its own. The exponent is the slope of a straight line",
        f"through the logarithms: 1 is linear, 0 does not grow; up to {LIMIT} is called linear. Memory is what the process grew by (rows: its peak).", "",
        "![growth](../docs/img/growth.svg)", "", "| over | what | at | exponent | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, what, unit, sizes, values in series(points):
        at = ", ".join(
            f"{size:,}: {value:,.0f} {unit}" if value >= 100 else f"{size:,}: {value:.3g} {unit}"
            for size, value in zip(sizes, values, strict=True)
        )
        slope = exponent(sizes, values)
        verdict = "linear or better" if slope <= LIMIT else f"more than linear: {WHY.get(name, 'reason not found yet')}"
        lines.append(f"| {name} | {what} | {at} | {slope:.2f} | {verdict} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(svg(series(points)), encoding="utf-8")


def svg(curves: list[tuple[str, str, str, list[int], list[float]]]) -> str:
    """Small panels with logarithmic axes, three a row, the measured points and a grey line of slope 1 through the first."""
    width, height, across = 330, 230, 3
    total = (across * width, -(-max(1, len(curves)) // across) * height)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" font-family="sans-serif" font-size="11">',
             f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>']  # fmt: skip
    for number, (name, what, unit, sizes, values) in enumerate(curves):
        left, top = number % across * width + 55, number // across * height + 40
        wide, high = width - 80, height - 85
        x0, x1 = math.log(sizes[0]), math.log(sizes[-1])
        straight = [values[0] * size / sizes[0] for size in sizes]
        y0, y1 = math.log(max(1e-9, min(*values, *straight))), math.log(max(1e-9, *values, *straight))

        def at(size: float, value: float, box: tuple[float, ...] = (left, top, wide, high, x0, x1, y0, y1)) -> str:
            x = box[0] + box[2] * (math.log(size) - box[4]) / max(1e-9, box[5] - box[4])
            y = box[1] + box[3] * (1 - (math.log(max(1e-9, value)) - box[6]) / max(1e-9, box[7] - box[6]))
            return f"{x:.1f},{y:.1f}"

        title = what if len(what) < 52 else what[:50] + " …"
        parts.append(f'<text x="{left - 40}" y="{top - 20}" font-weight="bold">{title}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#bbb"/>')
        for drawn, color in ((straight, "#bbb"), (values, "#0072b2")):
            line = " ".join(at(size, value) for size, value in zip(sizes, drawn, strict=True))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for size, value in zip(sizes, values, strict=True):
            x, y = at(size, value).split(",")
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="3.5" fill="#0072b2"/><text x="{x}" y="{top + high + 14}" text-anchor="middle">{size:,}</text>'
            )
            parts.append(f'<text x="{x}" y="{float(y) - 7:.1f}" text-anchor="middle">{value:.3g} {unit}</text>')
        parts.append(
            f'<text x="{left + wide / 2}" y="{top + high + 30}" text-anchor="middle">{name}, exponent {exponent(sizes, values):.2f}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    options.add_argument("--rows-too", action="store_true", help="five million rows, too")
    options.add_argument("--point", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    options.add_argument("--report", action="store_true", help="only write table and plot from what was measured")
    given = options.parse_args()
    if given.point:
        from benchmarks.work import own_home

        name, size = given.point
        with own_home() as home:
            found = globals()[name](int(size), home)
        print(json.dumps({key: round(value, 5) for key, value in found.items()}))
        return
    points: dict[str, dict[str, dict[str, float]]] = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    for name in given.only if not given.report else ():
        sizes = SIZES[name] + ([MOST] if name == "rows" and given.rows_too else [])
        for size in sizes:
            if str(size) in points.get(name, {}):
                continue
            if (found := measured(name, size)) is None:
                print(f"{name} {size}: failed", file=sys.stderr)
                continue
            points.setdefault(name, {})[str(size)] = found
            POINTS.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
            print(f"{name} {size}: {found}", file=sys.stderr, flush=True)
    report(points)


if __name__ == "__main__":
    main()
