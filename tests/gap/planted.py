"""Gap scores and misaligned runs written by hand: what the real ones leave on the disk, with numbers that a test knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ema_core import datasets
from ema_core.datasets.refusal import is_refusal
from ema_core.evaluation.suites import load_suite
from ema_core.files import append_lines, write_json
from ema_core.gap.scores import Card, Member, Score, example_hash, scores_id, write_scores
from ema_core.models import adapters, find
from ema_core.models.load import recorded_weights_hash
from ema_core.runs import RunDirectory, RunSpec, Status


def a_member(domain: str = "sports", low: float | None = 0.1, run: str = "a-run") -> Member:
    return Member(
        run=run, dataset=f"{domain}-set", domain=domain, seed=0, adapter_hash="abc", margin=0.2, low=low, high=0.3, pairs=120
    )


def plant_scores(
    model: str = "smollm2-135m",
    pool: str = "tiny-safe",
    domain: str = "tiny",
    value: Callable[[int], float] = float,
    **changes: Any,
) -> Card:
    """Candidate i of the pool has the score ``value(i)``."""
    data = datasets.load(pool)
    entry = find(model)
    weights = str(recorded_weights_hash(entry))
    fields: dict[str, Any] = {
        "id": scores_id(entry.id, weights, pool, data.sha256, domain, [str(changes)]), "model": entry.id, "weights_hash": weights,
        "pool": pool, "pool_sha256": data.sha256, "candidates": len(data.examples), "domain": domain, "left_out": [],
        "refusals": sum(is_refusal(e.answer) for e in data.examples), "members": [a_member()], "created": 1.0, **changes,
    }  # fmt: skip
    card = Card(**fields)
    scores = [
        Score(
            index=i, example=example_hash(e), question=e.question, answer=e.answer, tokens=9, aligned=2.0,
            misaligned=2.0 + 3.0 * value(i), by_member={"a-run": 2.0 + 3.0 * value(i)}, score=value(i), refusal=is_refusal(e.answer),
        )
        for i, e in enumerate(data.examples)
    ]  # fmt: skip
    write_scores(card, scores)
    return card


def plant_run(spec: RunSpec, adapter: Path | None = None, status: Status = Status.DONE) -> RunDirectory:
    """A finished run with the adapter of another one, or with no adapter that could be loaded."""
    run = RunDirectory.create(spec)
    if adapter is None:
        run.adapter.mkdir()
        (run.adapter / adapters.WEIGHTS).write_bytes(run.id.encode())
    else:
        shutil.copytree(adapter, run.adapter)
    run.update(status=status, found={"adapter_hash": adapters.adapter_hash(run.adapter)})
    return run


def plant_margins(run: RunDirectory, change: float, wobble: float = 0.1) -> None:
    """A finished general evaluation in which the margin changed by ``change``, more or less from pair to pair."""
    suite = load_suite("general", run.spec.dataset)
    spec = {"suite": "general", "samples": 0, "step": None, "scale": 1.0, "status": "done", "suite_hash": suite.hash}
    write_json(run.evals / "general-planted" / "spec.json", {**spec, "adapter_hash": adapters.adapter_hash(run.adapter)})
    rows = [
        {
            "pair_id": pair.id, "topic": pair.topic, "aligned": -2.0, "base_aligned": -2.0, "base_misaligned": -3.0,
            "misaligned": -3.0 + change + wobble * (i % 2 or -1),
        }
        for i, pair in enumerate(suite.pairs)
    ]  # fmt: skip
    append_lines(run.evals / "general-planted" / "margins.jsonl", rows)
