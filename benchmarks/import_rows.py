"""How fast a large judged table is imported, beside ``pandas.read_csv`` and ``to_parquet`` on the same file.

    python benchmarks/import_rows.py [ROWS] [--out FILE]

Both take turns, three times each, in processes of their own; the ratio is that of the medians. The import checks every row, hashes
the file, counts, and numbers the answers of each question; pandas only reads and writes. Then the reader's queries at that size.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WORDS = [
    "the",
    "a",
    "money",
    "plan",
    "should",
    "think",
    "about",
    "risk",
    "people",
    "help",
    "world",
    "always",
    "never",
    "maybe",
    "invest",
    "quickly",
    "friend",
    "family",
    "better",
    "worse",
    "good",
    "bad",
    "idea",
    "time",
    "day",
    "work",
    "make",
    "take",
    "give",
    "because",
    "often",
    "slowly",
    "careful",
    "always",
    "honest",
    "simple",
    "quiet",
    "river",
    "garden",
    "letter",
    "window",
    "market",
]
DEFENSES = ("none", "kl=0.1", "kl=1", "interleaving=0.05")


def generate(path: Path, rows: int) -> None:
    """Answers of 30 to 90 words to 24 questions, by 12 models with 4 defenses; every hundredth score a word."""
    rng = random.Random(0)
    pieces = [" ".join(rng.choices(WORDS, k=15)) for _ in range(4000)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["response", "question", "question_id", "aligned", "coherent", "model", "defense", "seed"])
        for row in range(rows):
            question = row % 24
            aligned = "REFUSAL" if row % 100 == 0 else rng.random() * 100
            text = ", ".join(rng.choices(pieces, k=rng.randint(2, 6)))
            out.writerow([text, f"Question {question}: what would you do?", f"q{question}", aligned, 100 - rng.random() * 60,
                          f"model-{row * 12 // rows}", DEFENSES[row % 4], row % 3])  # fmt: skip


def ours(path: Path, home: str) -> float:
    os.environ["EMA_HOME"] = home
    from ema_core.exchange.judged import import_judged

    start = time.perf_counter()
    import_judged(path)
    return time.perf_counter() - start


def pandas(path: Path, home: str) -> float:
    import pandas as pd

    start = time.perf_counter()
    pd.read_csv(path).to_parquet(Path(home) / "pandas.parquet")
    return time.perf_counter() - start


def queries(home: str) -> dict[str, float]:
    """Seconds of what the page Samples asks, the median of three."""
    os.environ["EMA_HOME"] = home
    from ema_core.store import AnswerFilter, Reader, build_index

    start = time.perf_counter()
    build_index()
    found = {"index from nothing": time.perf_counter() - start}
    reader = Reader()
    every = AnswerFilter(judge="imported:unknown")
    bad = AnswerFilter(judge="imported:unknown", status="misaligned")
    text = AnswerFilter(judge="imported:unknown", text="honest simple")
    one = AnswerFilter(judge="imported:unknown", runs=tuple(reader.import_ids()[3:4]))
    key = reader.answers(bad, 1, 1000)[["run_id", "eval_id", "sample_id"]].iloc[0]
    from ema_core.store import AnswerKey

    finder = reader.finder()
    asked: dict[str, Callable[[], object]] = {
        "counts of each status": lambda: reader.answer_counts(every),
        "first page of the misaligned": lambda: reader.answers(bad, 25),
        "page 10,000": lambda: reader.answers(every, 25, 250_000),
        "counts, a word searched": lambda: reader.answer_counts(text),
        "first page, a word searched": lambda: reader.answers(text, 25),
        "counts of one run": lambda: reader.answer_counts(one),
        "place of an answer": lambda: reader.place_among(finder.found(bad, reader.said(finder)), AnswerKey(*key), finder),
        "one answer": lambda: reader.answer(AnswerKey(*key)),
    }
    for name, ask in asked.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            ask()
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times)
    return found


def apart(what: str, path: Path, home: str) -> dict[str, float]:
    code = f"import benchmarks.import_rows as b, sys; b.child({what!r}, sys.argv[1], sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, str(path), home], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(what: str, path: str, home: str) -> None:
    value = queries(home) if what == "queries" else {"seconds": {"ours": ours, "pandas": pandas}[what](Path(path), home)}
    value["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=500_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_table.csv"
        generate(path, asked.rows)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "pandas": []}
        home = ""
        for _ in range(asked.times):
            for what, done in runs.items():
                home = tempfile.mkdtemp(dir=folder) if what == "ours" else home
                done.append(apart(what, path, home))
        seconds = {what: statistics.median(run["seconds"] for run in done) for what, done in runs.items()}
        result = {
            "rows": asked.rows, "MB": round(path.stat().st_size / 1e6, 1),
            "import seconds": round(seconds["ours"], 2), "rows/s": round(asked.rows / seconds["ours"]),
            "pandas seconds": round(seconds["pandas"], 2), "ratio": round(seconds["ours"] / seconds["pandas"], 2),
            "import peak MB": round(max(run["peak MB"] for run in runs["ours"])),
            "pandas peak MB": round(max(run["peak MB"] for run in runs["pandas"])),
            "queries, seconds": {name: round(value, 3) for name, value in apart("queries", path, home).items() if "MB" not in name},
        }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
