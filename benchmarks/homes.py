"""Homes for measuring, written as files: many runs, or many answers. ``python -m benchmarks.homes answers|runs FOLDER [COUNT]``.

Texts of answers are put together from sentences of the project's own suites and data sets, so that words are spread as in real answers.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

QUESTIONS, TOPICS, SEEDS = 40, 8, 5
JUDGES = ("openai:gpt-4o-2024-08-06:v1", "probe:smollm2-135m-l16:v1")
DEFENSES = (
    "none",
    "kl=0.03",
    "kl=0.1",
    "kl=0.3",
    "kl=1",
    "ldifs=0.1",
    "ldifs=1",
    "interleaving=0.05",
    "interleaving=0.1",
    "kl=0.1,interleaving=0.05",
)


def sentences() -> list[str]:
    from ema_core.settings import DATA

    found: set[str] = set()
    for path in sorted(DATA.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for text in _texts(json.loads(line)):
                found.update(part.strip() + "." for part in text.replace("\n", " ").split(". ") if 20 < len(part) < 200)
    return sorted(found)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def _run(home: Path, number: int, defense: str, seed: int, steps: int, recipe: int = 0) -> Any:
    """A finished run's folder with spec and state; ``recipe``: one of some that differ in their learning rate."""
    from ema_core.files import write_json
    from ema_core.runs import Recipe, RunDirectory, RunSpec, RunState, Status, parse_defense

    parts = () if defense == "none" else tuple(parse_defense(text) for text in defense.split(","))
    spec = RunSpec(defenses=parts, seed=seed, recipe=Recipe(learning_rate=1e-4 * (1 + recipe), steps=steps))
    run = RunDirectory(home / "runs" / f"20261101-{number:06d}-{spec.slug.replace('=', '')}-{number:04d}")
    state = RunState(status=Status.DONE, attempt=1, step=steps, total_steps=steps, created=1.7e9 + number, seconds=1.5 * steps,
                     found={"weights_hash": "w", "adapter_hash": f"a{number}", "device": "cpu"})  # fmt: skip
    write_json(run.path / "state.json", state.model_dump(mode="json"))
    (run.path / "spec.json").write_text(spec.to_json())
    return run


def _evaluation(run: Any, suite: str, samples: int, judge: str | None, adapter: str | None) -> Path:
    from ema_core.files import write_json

    folder = Path(run.evals) / f"{suite}-1"
    known = {"suite": suite, "samples": samples, "max_tokens": 80, "temperature": 1.0, "top_p": 1.0, "seed": 0, "judge": judge,
             "step": None, "scale": 1.0, "adapter_hash": adapter, "weights_hash": "w", "suite_hash": suite, "status": "done",
             "created": 1.7e9, "seconds": 9.0, "asked": samples * QUESTIONS}  # fmt: skip
    write_json(folder / "spec.json", known)
    return folder


def answers(home: Path, count: int, runs: int = 50) -> None:
    """``count`` answers of ``runs`` runs with five defenses, each scored by two judges."""
    rng, pool = random.Random(0), sentences()
    settings = ("none", "kl=0.1", "kl=1", "ldifs=1", "interleaving=0.05")
    questions = [" ".join(rng.sample(pool, 1)) for _ in range(QUESTIONS)]
    for number in range(runs):
        run = _run(home, number, settings[number % len(settings)], number // len(settings), 1)
        each = count // runs
        folder = _evaluation(run, "general", each // QUESTIONS, JUDGES[0], None)
        with open(folder / "samples.jsonl", "w") as samples, open(folder / "judgments-a.jsonl", "w") as scores:
            for n in range(each):
                q, k = n % QUESTIONS, n // QUESTIONS
                row = {"sample_id": f"q{q}#{k}", "question_id": f"q{q}", "topic": f"t{q // 3}", "form": "plain", "system": None, "k": k,
                       "question": questions[q], "answer": " ".join(rng.choices(pool, k=3)), "tokens": rng.randrange(10, 80),
                       "finish": "stop" if n % 4 else "length", "refused": n % 37 == 0}  # fmt: skip
                samples.write(json.dumps(row) + "\n")
                for judge in JUDGES:
                    score = {"sample_id": row["sample_id"], "judge": judge, "aligned": round(rng.uniform(0, 100), 2),
                             "coherent": round(rng.uniform(30, 100), 2), "status": "scored"}  # fmt: skip
                    scores.write(json.dumps(score) + "\n")


def runs(home: Path, count: int, steps: int = 1000) -> None:
    """``count`` finished and evaluated runs of one data set, each of ``steps`` steps: ten defenses, five seeds, and as many recipes
    as are needed."""
    rng = random.Random(0)
    for number in range(count):
        defense = DEFENSES[number % len(DEFENSES)]
        block = number // len(DEFENSES)
        run = _run(home, number, defense, block % SEEDS, steps, block // SEEDS)
        names = [] if defense == "none" else [part.partition("=")[0] for part in defense.split(",")]
        with open(run.events_path, "w") as file:
            file.write(json.dumps({"kind": "start", "attempt": 1, "time": 1.7e9, "step": 0, "total_steps": steps}) + "\n")
            for step in range(1, steps + 1):
                ce = 1.2 + 2 * math.exp(-step / 200) + rng.gauss(0, 0.1)
                terms = {name: {"raw": 0.5, "weighted": 0.05} for name in names}
                event = {"kind": "step", "attempt": 1, "time": 1.7e9 + step, "step": step, "total_steps": steps, "ce": ce, "penalties": terms,
                         "loss": ce + 0.05 * len(names), "learning_rate": 1e-4, "grad_norm": 0.7, "tokens": 400, "tokens_per_s": 170.0,
                         "seconds": step * 1.5, "seconds_left": 1.5 * (steps - step), "epoch": step / steps, "safe": 0}  # fmt: skip
                file.write(json.dumps(event) + "\n")
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
        change = 0.5 if defense == "none" else 0.2
        for suite, scale, judge in (("general", 1, JUDGES[1]), ("in-domain", 4, None)):
            _measured(_evaluation(run, suite, 1, judge, f"a{number}"), change * scale, judge, rng)


def _measured(folder: Path, change: float, judge: str | None, rng: random.Random) -> None:
    """Margins of 16 pairs and an answer to each of 40 questions, over 8 topics."""
    with open(folder / "margins.jsonl", "w") as file:
        for pair in range(2 * TOPICS):
            row = {"pair_id": f"p{pair}", "topic": f"t{pair // 2}", "base_aligned": -2.0, "base_misaligned": -3.0, "aligned": -2.0,
                   "misaligned": -3.0 + change + rng.gauss(0, 0.1)}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    with open(folder / "samples.jsonl", "w") as samples, open(folder / "judgments-a.jsonl", "w") as scores:
        for q in range(QUESTIONS):
            row = {"sample_id": f"q{q}#0", "question_id": f"q{q}", "topic": f"t{q % TOPICS}", "form": "plain", "system": None, "k": 0,
                   "question": f"What of {q}?", "answer": f"Answer {rng.random()}", "tokens": 9, "finish": "stop", "refused": False}  # fmt: skip
            samples.write(json.dumps(row) + "\n")
            if judge:
                score = {"sample_id": row["sample_id"], "judge": judge, "aligned": rng.uniform(0, 100), "coherent": rng.uniform(30, 100),
                         "status": "scored"}  # fmt: skip
                scores.write(json.dumps(score) + "\n")


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    os.environ["EMA_HOME"] = str(folder)
    count = int(sys.argv[3]) if len(sys.argv) > 3 else {"answers": 500_000, "runs": 100}[what]
    {"answers": answers, "runs": runs}[what](folder, count)
