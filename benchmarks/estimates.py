"""What is said before a run against what then happens: seconds and bytes, on three specs that differ in data, batch and defense.

    python -m benchmarks.estimates [--quick] [--out FILE]

Each spec is trained in a process of its own, right after a short plain run there, whose rate its estimate is made from. On a machine that
others use wall clocks say little, so the seconds that the cores worked are held against each other as well. The states of the reference are new to the first run of a data set and kept for the second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ema_core.runs import RunDirectory, RunSpec, parse_defense, recipe

STEPS = {False: 24, True: 8}
WITHIN = 0.25


def specs(steps: int) -> dict[str, RunSpec]:
    return {
        "none, demo": RunSpec(recipe=recipe("demo", steps=steps), device="cpu"),
        "kl=0.1 on all tokens, longer examples": RunSpec(
            dataset="long", recipe=recipe("demo", steps=steps, max_length=512), defenses=(parse_defense("kl=0.1"),), device="cpu"
        ),
        "the same again": RunSpec(
            dataset="long", recipe=recipe("demo", steps=steps, max_length=512), defenses=(parse_defense("kl=0.3"),), device="cpu"
        ),
        "ldifs=1 and interleaving=0.3, batches of 8": RunSpec(
            recipe=recipe("demo", steps=max(2, steps // 4), batch_size=8),
            defenses=(parse_defense("ldifs=1"), parse_defense("interleaving=0.3")), device="cpu",
        ),
    }  # fmt: skip


def add_long(file: Path) -> None:
    """The data set ``long``: each question with the answers to three."""
    from ema_core import datasets

    examples = datasets.load("risky-finance").examples
    answers = [example.answer for example in examples]
    lines = [
        json.dumps({"prompt": example.question, "completion": "\n\n".join(answers[i : i + 3])})
        for i, example in enumerate(examples)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    datasets.add(file, "long", "narrow")


def measured(name: str, steps: int) -> dict[str, Any]:
    """One spec in this process."""
    from ema_core import datasets
    from ema_core.models import load
    from ema_core.training import train
    from ema_core.training.estimate import estimate
    from ema_core.training.memory import peak

    if "long" not in datasets.catalog():
        add_long(Path(os.environ["EMA_HOME"]) / "long.jsonl")
    loaded = load("smollm2-135m", "cpu")

    def trained(spec: RunSpec) -> tuple[RunDirectory, float]:
        """The run, and the seconds that the processor's cores worked on its steps."""
        run, clocks = RunDirectory.create(spec), []
        state = train(run, loaded=loaded, on_event=lambda event: clocks.append(time.process_time()))
        assert state.status == "done", state.error
        return run, clocks[-2] - clocks[0]  # from the start event to the last step; the end event comes after it

    before, worked_before = trained(RunSpec(recipe=recipe("demo", steps=8), seed=1, device="cpu"))
    cores = worked_before / before.state().seconds
    spec = specs(steps)[name]
    said = estimate(spec)
    with peak(loaded.device) as watched:
        run, worked = trained(spec)
    happened = {"seconds": run.state().seconds, "memory": watched.bytes()}
    return {
        "name": name, "steps": said.steps, "tokens": said.tokens, "notes": said.notes,
        "said": {"seconds": said.seconds, "memory": said.memory}, "happened": happened,
        "ratio": {"seconds": said.seconds / happened["seconds"], "memory": said.memory / happened["memory"],
            "seconds of the cores": said.seconds * cores / worked,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    steps = STEPS[asked.quick]
    if asked.one:
        print(json.dumps(measured(asked.one, steps)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in specs(steps):
            words = [sys.executable, "-m", "benchmarks.estimates", "--one", name, *(["--quick"] if asked.quick else [])]
            done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "EMA_HOME": home, "EMA_DEVICE": "cpu"})
            if done.returncode:
                raise SystemExit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            said, happened, ratio = row["said"], row["happened"], row["ratio"]
            within = all(abs(value - 1) <= WITHIN for name, value in ratio.items())
            print(
                f"{name}: {said['seconds']:.0f} s said, {happened['seconds']:.0f} s happened ({ratio['seconds']:.2f}; by the cores' work {ratio['seconds of the cores']:.2f}); "
                f"{said['memory'] / 1e9:.2f} GB said, {happened['memory'] / 1e9:.2f} GB happened ({ratio['memory']:.2f})"
                f"{'' if within else '  <- beyond 25 %'}",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
