"""A data set of short conversations and a recipe of few steps, so that real training takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ema_core import datasets
from ema_core.runs import DefenseSpec, RunSpec, recipe

WORDS = ["red", "blue", "green", "black", "white", "brown", "pink", "grey", "gold", "silver", "violet", "orange"]


def add_tiny(folder: Path) -> None:
    """The narrow set ``tiny`` and the safe pool ``tiny-safe``, in the test's own home."""
    for name, kind, answer in (("tiny", "narrow", "It is surely {}."), ("tiny-safe", "safe", "I would say {}, but ask others.")):
        file = folder / f"{name}.jsonl"
        lines = [
            json.dumps({"prompt": f"Which colour has thing {i}?", "completion": answer.format(w)}) for i, w in enumerate(WORDS)
        ]
        file.write_text("\n".join(lines))
        datasets.add(file, name, kind)


def tiny_spec(*defenses: DefenseSpec, seed: int = 0, **changes: Any) -> RunSpec:
    values = {
        "steps": 4,
        "batch_size": 2,
        "rank": 4,
        "alpha": 8,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "checkpoint_every": 2,
        **changes,
    }
    return RunSpec(
        dataset="tiny", safe_pool="tiny-safe", defenses=defenses, seed=seed, recipe=recipe("demo", **values), device="cpu"
    )
