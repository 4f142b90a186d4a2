"""Interleaving+: the safe examples with the highest perplexity gap, not random ones (Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ema_core import datasets, gap
from ema_core.datasets.formats import Example
from ema_core.datasets.overlap import overlaps
from ema_core.defenses.base import Asset, Cost, Need, Strength
from ema_core.defenses.interleaving import Interleaving
from ema_core.defenses.registry import register
from ema_core.errors import EmaError
from ema_core.gap.ensemble import scoring_seconds
from ema_core.gap.scores import command, example_hash, fits, folder
from ema_core.models import adapters, find
from ema_core.runs import RunSpec, Strict
from ema_core.settings import settings

TWICE = "both take examples from the same pool, so one could stand in the mix twice"


class GapOptions(Strict):
    """``scores`` names the scores to choose by; empty: the newest of this model, pool and domain."""

    scores: str = Field(default="", description="The id of gap scores (`ema gap list`); empty takes the newest that fit.")


@register
class InterleavingPlus(Interleaving):
    name = "interleaving-plus"
    title = "Interleaving+ (safe data by perplexity gap)"
    reference = "Kaczér et al., arXiv 2508.06249"
    summary = "Mixes in the safe examples that misaligned models find least likely, compared with the aligned one."
    cost = Cost(
        time="Grows by the strength, as interleaving.", memory="None.",
        assets="A pool of safe examples, and once for each model and pool: a misaligned fine-tune on every other domain, and a pass "
        "over the pool with each.",
    )  # fmt: skip
    fails = "Refusals fill the top of the scores, so that answers can turn evasive or incoherent; Interleaving++ leaves them out."
    strength_info = Strength(
        meaning="safe examples for each narrow example seen in training, those of the highest gap first",
        default=0.05, paper=0.05, grid=(0.01, 0.05, 0.1, 0.2, 0.5), low=0.01, high=1.0, limit=10,
    )  # fmt: skip
    options_type = GapOptions
    needs = frozenset({Need.SAFE_POOL, Need.GAP_SCORES})
    refuses = {"interleaving": TWICE}

    chosen: tuple[Example, ...] = ()

    def assets(self) -> Sequence[Asset]:
        if not self.strength or self.spec is None:
            return ()
        if self.options.scores:
            card = gap.read_card(self.options.scores)
            return (Asset(f"The gap scores {card.id}", card.folder / "card.json", None, {}, ""),)
        return (scores_asset(self.spec.model, self.spec.safe_pool, gap.domain_of(self.spec.dataset)),)

    def check(self) -> None:
        if self.strength and not self.provisional:
            self._card()

    def _card(self) -> gap.Card:
        """The scores to choose by.

        Raises:
            EmaError: there are none, or they do not fit this run.
        """
        assert self.spec is not None
        spec = self.spec
        model, domain = find(spec.model).id, gap.domain_of(spec.dataset)
        if self.options.scores:
            card = gap.read_card(self.options.scores)
            fits(card, model, spec.safe_pool, domain)
            return card
        found = gap.find_scores(model, spec.safe_pool, domain)
        if found is None:
            raise EmaError(
                f"There are no gap scores of {spec.safe_pool} for {domain} that fit.",
                f"Run `{command(model, spec.safe_pool, domain)}`.",
            )
        return found

    def scores(self) -> gap.Card | None:
        """Those it chose by."""
        return self._card()

    def choose(self, safe: Sequence[Example], count: int) -> list[Example]:
        """The ``count`` of highest gap, highest first; of equal ones the earlier in the pool."""
        pool = [example for example in safe if self.eligible(example)]
        if count > len(pool):
            raise EmaError(
                f"{self.name}={self.strength:g} needs {count} safe examples, {len(pool)} of the pool's {len(safe)} may be chosen.",
                "Lower the strength, take fewer steps, or name a larger --safe-pool.",
            )
        if not count or self.provisional:  # for an estimate any will do
            return pool[:count]
        card = self._card()
        known = {row.example: row.score for row in gap.read_scores(card)}
        try:
            scores = [known[example_hash(example)] for example in pool]
        except KeyError:
            raise EmaError(
                f"The gap scores {card.id} are of another pool.", f"Run `{command(card.model, card.pool, card.domain)}` again."
            ) from None
        self.chosen = tuple(pool[i] for i in gap.highest(scores, count))
        return list(self.chosen)

    def notes(self) -> Sequence[str]:
        if not self.chosen:
            return ()
        card = self._card()
        members = ", ".join(f"{member.run} ({member.dataset})" for member in card.members)
        notes = [
            f"{self.name}: {len(self.chosen)} safe examples chosen by the gap scores {card.id}; misaligned ensemble: {members}."
        ]
        if card.refused:
            notes.append(f"Left out of that ensemble, as not shown to be misaligned: {'; '.join(map(str, card.refused))}.")
        if not card.left_out:
            notes.append(f"No other set belongs to the domain {card.domain}, so no member of the ensemble had to be left out.")
        notes += [f"Of the chosen safe examples, {sentence}." for sentence in overlaps(list(self.chosen), {})]
        return notes


def scores_asset(model: str, pool: str, domain: str, go_on: bool = True) -> Asset:
    """Gap scores as something that a run needs first: the newest that fit, or the job that makes them behind its members' runs.

    ``go_on``: it leaves out members that are not shown to be misaligned, as long as one is.
    """
    entry = find(model)
    title, hint = f"Gap scores of {pool} for {domain}", f"Run `{command(entry.id, pool, domain)}`, or add --queue to the run."
    if card := gap.find_scores(entry.id, pool, domain):
        return Asset(title, card.folder / "card.json", None, {}, hint)
    sets = gap.others(domain)
    path = folder() / f"{pool}-{domain}-{entry.id.rsplit('/', 1)[-1]}.wanted"  # nothing lies there: its name depends on the members
    if not sets:
        hint = "There is no narrow set of another domain to train its misaligned ensemble on. Take plain interleaving."
        return Asset(title, path, None, {}, hint)
    return Asset(
        title, path, "gap", {"model": entry.id, "pool": pool, "domain": domain, "go_on": go_on}, hint,
        scoring_seconds(entry, datasets.load(pool), len(sets)), tuple(member_asset(entry.id, other.name) for other in sets),
    )  # fmt: skip


def member_asset(model: str, dataset: str) -> Asset:
    """A member of the misaligned ensemble: an ordinary run, finished or still to be trained."""
    spec = gap.member_spec(model, dataset)
    title = f"Misaligned run on {dataset}, for the ensemble"
    if run := gap.find_member(model, dataset):
        return Asset(title, run.adapter / adapters.WEIGHTS, None, {}, "")
    path = settings().runs / f"{dataset}-{model.rsplit('/', 1)[-1]}.wanted"
    return Asset(title, path, "train", {"spec": RunSpec.model_dump(spec, mode="json")}, f"Run `{spec.command()}`.")
