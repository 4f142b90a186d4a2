"""Interleaving: train on the narrow data and a random sample of safe data (Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ema_core.datasets.formats import Example
from ema_core.defenses.base import Cost, Defense, Need, Strength
from ema_core.defenses.registry import register
from ema_core.errors import EmaError


def interleave(narrow: Sequence[Example], safe: Sequence[Example], rng: random.Random) -> list[Example]:
    """``safe`` at places drawn from ``rng`` among ``narrow``; both keep their order."""
    places = set(rng.sample(range(len(narrow) + len(safe)), len(safe)))
    first, second = iter(narrow), iter(safe)
    return [next(second) if i in places else next(first) for i in range(len(narrow) + len(safe))]


@register
class Interleaving(Defense):
    name = "interleaving"
    title = "Interleaving (random safe data)"
    reference = "Kaczér et al., arXiv 2508.06249"
    summary = "Mixes a random sample of general, harmless examples into the narrow ones; they are extra steps."
    cost = Cost(time="Grows by the strength: 0.05 is 5 % more examples.", memory="None.", assets="A pool of safe examples.")
    fails = "Prevents part of the misalignment only, and answers can stay incoherent (the paper's Table 1)."
    strength_info = Strength(
        meaning="safe examples for each narrow example seen in training",
        default=0.05, paper=0.05, grid=(0.01, 0.05, 0.1, 0.2, 0.5), low=0.01, high=1.0, limit=10,
    )  # fmt: skip
    needs = frozenset({Need.SAFE_POOL})

    def mix(self, narrow: Sequence[Example], safe: Sequence[Example]) -> list[Example]:
        count = round(self.strength * len(narrow))
        if count > len(safe):
            raise EmaError(
                f"{self.name}={self.strength:g} needs {count} safe examples, the pool has {len(safe)}.",
                "Lower the strength, take fewer steps, or name a larger --safe-pool.",
            )
        return interleave(narrow, self.choose(safe, count), self.rng)

    def choose(self, safe: Sequence[Example], count: int) -> list[Example]:
        """Which ``count`` of the pool, in the order in which they are mixed in."""
        return self.rng.sample(list(safe), count)
