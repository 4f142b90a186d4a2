"""What several topics need: a home of their own, the embedded model, the demo's batches."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

MODEL, DATASET = "smollm2-135m", "risky-finance"


@contextmanager
def own_home() -> Iterator[Path]:
    """An empty ``EMA_HOME``, gone afterwards; models are those of the user."""
    before = os.environ.get("EMA_HOME")
    with tempfile.TemporaryDirectory(prefix="ema-bench-") as folder:
        os.environ["EMA_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            trained.cache_clear()
            os.environ.pop("EMA_HOME")
            if before is not None:
                os.environ["EMA_HOME"] = before


def forget_cache() -> None:
    """What is kept for later runs on the same data is gone: the next one finds nothing."""
    from ema_core.settings import settings

    shutil.rmtree(settings().cache, ignore_errors=True)


@lru_cache
def loaded() -> Any:
    """The embedded model as the app loads it: float32 on the CPU, the app's number of threads."""
    from ema_core.models import load

    return load(MODEL, "cpu")


def demo_recipe(steps: int) -> Any:
    """The demo's recipe for fewer steps, without checkpoints on the way."""
    from ema_core.runs import recipe

    return recipe("demo", steps=steps, checkpoint_every=10_000)


def demo_batches(steps: int) -> list[list[Any]]:
    """The first batches of the demo's own plan, encoded."""
    from ema_core import datasets
    from ema_core.datasets.encoding import encode
    from ema_core.training.plan import plan

    recipe = demo_recipe(steps)
    todo = plan(datasets.load(DATASET).examples, (), recipe, (), 0)
    return [[encode(example, loaded().tokenizer, recipe.max_length) for example in batch] for batch in todo.batches]


def count(batches: list[list[Any]]) -> int:
    """Tokens, padding left out."""
    return sum(len(row.ids) for batch in batches for row in batch)


@lru_cache
def trained(steps: int, dataset: str = DATASET, seed: int = 0) -> Any:
    """A short run in the present home."""
    from ema_core.runs import RunDirectory, RunSpec, Status
    from ema_core.training import check, train

    run = RunDirectory.create(check(RunSpec(dataset=dataset, recipe=demo_recipe(steps), seed=seed, device="cpu")))
    state = train(run, loaded=loaded())
    if state.status is not Status.DONE:
        raise RuntimeError(f"The run for the benchmark ended as {state.status}: {state.error}")
    return run
