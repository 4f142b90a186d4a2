"""Which examples are trained on, in which order. Pure and torch-free."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ema_core.datasets.formats import Example
from ema_core.defenses.base import Defense
from ema_core.runs import Recipe


@dataclass(frozen=True)
class Plan:
    """Batches in training order; the last one may be smaller."""

    batches: tuple[tuple[Example, ...], ...]
    narrow: int
    safe: int

    @property
    def total_steps(self) -> int:
        return len(self.batches)


def exposures(narrow: Sequence[Example], recipe: Recipe, seed: int) -> list[Example]:
    """The narrow examples in the order of ``seed``: whole shuffled passes, cut to steps x batch size.

    Depends on data, steps, batch size and seed alone, so that a defended run and its twin see the same ones in the same order.
    """
    wanted = recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * len(narrow)
    rng = random.Random(f"{seed}/order")
    order: list[Example] = []
    while len(order) < wanted:
        epoch = list(narrow)
        rng.shuffle(epoch)
        order += epoch
    return order[:wanted]


def plan(narrow: Sequence[Example], safe: Sequence[Example], recipe: Recipe, defenses: Sequence[Defense], seed: int) -> Plan:
    """The whole run's batches.

    Raises:
        EmaError: a defense asks for more safe examples than there are.
    """
    sequence = exposures(narrow, recipe, seed)
    for defense in defenses:
        sequence = defense.mix(sequence, safe)
    rewritten = []
    for example in sequence:
        for defense in defenses:
            example = defense.rewrite(example)
        rewritten.append(example)
    size = recipe.batch_size
    batches = tuple(tuple(rewritten[i : i + size]) for i in range(0, len(rewritten), size))
    safe_count = sum(example.source == "safe" for example in rewritten)
    return Plan(batches, len(rewritten) - safe_count, safe_count)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then linear decay to nearly 0; ``step`` counts from 0."""
    warmup = min(recipe.warmup_steps, total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (total - step) / max(1, total - warmup)
