"""A home with many answers for measuring the page Samples: ``python benchmarks/desk_home.py FOLDER [ANSWERS]``.

Texts are put together from sentences of the project's own suites and data sets, so that words are spread as in real answers.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

RUNS, QUESTIONS = 50, 40


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


def make(home: Path, answers: int) -> None:
    os.environ["EMA_HOME"] = str(home)
    from ema_core.files import write_json
    from ema_core.runs import RunDirectory, RunSpec, RunState, Status, parse_defense

    rng, pool = random.Random(0), sentences()
    settings = ("none", "kl=0.1", "kl=1", "ldifs=1", "interleaving=0.05")
    judges = ("openai:gpt-4o-2024-08-06:v1", "probe:smollm2-135m-l16:v1")
    questions = [" ".join(rng.sample(pool, 1)) for _ in range(QUESTIONS)]
    for number in range(RUNS):
        text = settings[number % len(settings)]
        spec = RunSpec(defenses=() if text == "none" else (parse_defense(text),), seed=number // len(settings))
        run = RunDirectory(home / "runs" / f"20261101-{number:04d}00-{spec.slug}-{number:04d}")
        state = RunState(status=Status.DONE, attempt=1, step=1, total_steps=1, created=1.7e9 + number, found={"weights_hash": "w"})
        write_json(run.path / "state.json", state.model_dump(mode="json"))
        (run.path / "spec.json").write_text(spec.to_json())
        folder = run.evals / "general-1"
        each = answers // RUNS
        known = {"suite": "general", "samples": each // QUESTIONS, "max_tokens": 80, "temperature": 1.0, "top_p": 1.0, "seed": 0,
                 "judge": judges[0], "step": None, "scale": 1.0, "weights_hash": "w", "status": "done", "created": 1.7e9, "asked": each}  # fmt: skip
        write_json(folder / "spec.json", known)
        with open(folder / "samples.jsonl", "w") as samples, open(folder / "judgments-a.jsonl", "w") as scores:
            for n in range(each):
                q, k = n % QUESTIONS, n // QUESTIONS
                row = {"sample_id": f"q{q}#{k}", "question_id": f"q{q}", "topic": f"t{q // 3}", "form": "plain", "system": None, "k": k,
                       "question": questions[q], "answer": " ".join(rng.choices(pool, k=3)), "tokens": rng.randrange(10, 80),
                       "finish": "stop" if n % 4 else "length", "refused": n % 37 == 0}  # fmt: skip
                samples.write(json.dumps(row) + "\n")
                for judge in judges:
                    score = {"sample_id": row["sample_id"], "judge": judge, "aligned": round(rng.uniform(0, 100), 2),
                             "coherent": round(rng.uniform(30, 100), 2), "status": "scored"}  # fmt: skip
                    scores.write(json.dumps(score) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 500_000)
