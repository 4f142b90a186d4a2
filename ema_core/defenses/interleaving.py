"""Interleaving: train on the narrow data and a random sample of safe data (Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ema_core import gap
from ema_core.datasets.formats import Example
from ema_core.defenses.base import Cost, Defense, Need, Strength
from ema_core.defenses.panels import MOST_EXAMPLES, Look, Panel, example_row, has, histogram, number
from ema_core.defenses.registry import register
from ema_core.errors import EmaError
from ema_core.gap.scores import example_hash


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

    def eligible(self, example: Example) -> bool:
        """Whether an example of the pool may be chosen at all."""
        return True

    def scores(self) -> gap.Card | None:
        """Gap scores to show its choice by. This defense does not look at them."""
        assert self.spec is not None
        return gap.find_scores(self.spec.model, self.spec.safe_pool, gap.domain_of(self.spec.dataset))

    def inside(self, look: Look) -> Sequence[Panel]:
        """The safe examples that were mixed in, where, and how their gap scores lie in the pool's, where there are scores."""
        if not (look.last and self.strength and has(look, self.name)):
            return ()
        batches = look.batches()
        if batches is None:
            return ()
        card = self.scores()
        known = {row.example: row for row in gap.read_scores(card)} if card else {}
        order = sorted(known.values(), key=lambda row: (-row.score, row.index))
        rank = {row.example: place for place, row in enumerate(order, 1)}
        mixed = [(step, example) for step, batch in enumerate(batches, 1) for example in batch if example.source == "safe"]

        def columns(example: Example) -> dict[str, Any]:
            row = known.get(example_hash(example))
            return {} if row is None else {"score": number(row.score), "rank": rank[row.example], "refusal": row.refusal}

        rows = [example_row(example, "mixed in", step=step, **columns(example)) for step, example in mixed]
        chosen = {example_hash(example) for _, example in mixed}
        passed = self._passed_over(look, rank, chosen)
        rows += [example_row(example, "passed over: a refusal", step=None, **columns(example)) for example in passed]
        if card:
            rows.sort(key=lambda row: row["rank"])
        panels = [self._table(rows, len(mixed), len(passed), card)]
        if card:
            lines = {"mixed in": [known[one].score for one in chosen if one in known]}
            lines |= {"passed over": [known[example_hash(one)].score for one in passed]} if passed else {}
            panels.append(self._spread({**lines, "the pool": [row.score for row in order]}, card))
        return panels

    def _passed_over(self, look: Look, rank: Mapping[str, int], chosen: set[str]) -> list[Example]:
        """Those of a better rank than the last one chosen that may not be chosen at all."""
        last = max((rank[one] for one in chosen if one in rank), default=0)
        return [one for one in look.pool() if not self.eligible(one) and rank.get(example_hash(one), last + 1) <= last]

    def _table(self, rows: list[dict[str, Any]], mixed: int, passed: int, card: gap.Card | None) -> Panel:
        how = "by the highest gap score" if type(self) is not Interleaving else "at random"
        scored = (
            " Score: how much less likely misaligned models find the answer than the aligned one does; rank 1 is the highest of the whole pool."
            if card
            else " There are no gap scores of this pool to show beside them."
        )
        without = f" {passed} refusals stood before the last one chosen and were passed over." if passed else ""
        return Panel(
            name="mixed-in", kind="examples", title="Safe examples that were mixed in",
            says=f"{mixed} safe examples, chosen {how}, and the step of training that saw each.{without}{scored}",
            beware="A high score says that misaligned models find the answer foreign, not that it is good."
            if card else "Which examples were drawn says nothing: another seed draws others.",
            n=f"{mixed} examples" + (f", the first {MOST_EXAMPLES} rows shown" if len(rows) > MOST_EXAMPLES else ""),
            how=card.id if card else "", rows=rows[:MOST_EXAMPLES],
        )  # fmt: skip

    def _spread(self, lines: Mapping[str, Sequence[float]], card: gap.Card) -> Panel:
        used = (
            ""
            if type(self) is not Interleaving
            else " Plain interleaving does not look at them; Interleaving+ would have taken the right end."
        )
        return Panel(
            name="scores", kind="histogram", title="Gap scores of what was mixed in, against the pool's",
            says=f"Where the chosen ones lie among all {len(lines['the pool'])} candidates, as shares of each group.{used}",
            beware="Scores of another ensemble of misaligned models order the pool otherwise.",
            unit="gap score", n=f"{len(lines['mixed in'])} mixed in, {len(lines['the pool'])} candidates", how=card.id,
            rows=histogram(dict(lines)),
        )  # fmt: skip
