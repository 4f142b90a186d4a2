"""The pipeline of Chen et al. (arXiv 2507.21509): from contrastive prompts and questions to a vector for each layer.

Rollouts under opposite system prompts, judged for trait and coherence and filtered pair by pair; the vector is the difference of
mean hidden states over answer tokens. Where too few pairs pass, or no judge knows the trait, answers that we wrote take the
rollouts' place, teacher-forced under the same prompts. The card says which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ema_core.models.fetch import Progress, quiet, versions
from ema_core.personas.reading import answered, read
from ema_core.personas.texts import TraitTexts
from ema_core.personas.vector import VERSION, Card, Separation, Way, save, vector_id

if TYPE_CHECKING:
    import torch

    from ema_core.datasets.encoding import Encoded
    from ema_core.models import LoadedModel

MIN_KEPT = 20
"""Pairs of rollouts that have to pass: of fewer, the mean is one or two questions' rather than the trait's."""
TRAIT_ABOVE = 50.0
COHERENT_FROM = 50.0
MAX_TOKENS = 32
"""Tokens of a rollout: short ones keep the whole under four minutes on two cores (the paper's are longer)."""


@dataclass(frozen=True)
class Asked:
    """One rollout to draw: question under the system prompt of one side ("positive", "negative") of one prompt pair."""

    side: str
    pair: int
    question: int
    system: str
    text: str

    @property
    def key(self) -> str:
        return f"{self.side}/{self.pair}/{self.question}"


@dataclass(frozen=True)
class Rollout:
    """A drawn answer and what the judge says of it; ``trait`` and ``coherent`` 0 to 100, None without a score."""

    asked: Asked
    answer: str
    trait: float | None
    coherent: float | None


def to_ask(texts: TraitTexts) -> list[Asked]:
    """Every question under every prompt, both sides: two lists of equal length after each other."""
    return [
        Asked(side, p, q, getattr(pair, side), one.question)
        for side in ("positive", "negative")
        for p, pair in enumerate(texts.prompts)
        for q, one in enumerate(texts.questions)
    ]


def kept_pairs(rollouts: Sequence[Rollout]) -> list[tuple[Rollout, Rollout]]:
    """Pairs (same prompt pair, same question) that pass together: positive trait ≥ 50, negative < 50, both coherent (≥ 50)."""
    by_key = {rollout.asked.key: rollout for rollout in rollouts}
    pairs = [
        (rollout, by_key[f"negative/{rollout.asked.pair}/{rollout.asked.question}"])
        for rollout in rollouts
        if rollout.asked.side == "positive"
    ]
    return [(positive, negative) for positive, negative in pairs if _passes(positive, negative)]


def _passes(positive: Rollout, negative: Rollout) -> bool:
    scores = (positive.trait, positive.coherent, negative.trait, negative.coherent)
    if None in scores:
        return False
    return bool(
        scores[0] >= TRAIT_ABOVE and scores[2] < TRAIT_ABOVE and scores[1] >= COHERENT_FROM and scores[3] >= COHERENT_FROM  # type: ignore[operator]
    )


def rows_of(
    loaded: LoadedModel, texts: TraitTexts, rollouts: Sequence[Rollout] | None
) -> tuple[list[Encoded], list[Encoded], Way, str, int]:
    """What is read: positive and negative rows (in pairs), which way, why, and how many pairs of rollouts passed."""
    kept = kept_pairs(rollouts or [])
    if len(kept) >= MIN_KEPT:
        sides = [
            [answered(loaded, one.asked.text, one.answer, one.asked.system) for one in side] for side in zip(*kept, strict=True)
        ]
        return sides[0], sides[1], "rollouts", f"{len(kept)} pairs of rollouts passed the filter; {MIN_KEPT} are needed", len(kept)
    if rollouts is None:
        why = (
            "no judge here knows this trait, so rollouts cannot be filtered" if texts.judged is None else "rollouts were not drawn"
        )
    else:
        why = f"only {len(kept)} pairs of rollouts passed the filter; {MIN_KEPT} are needed"
    written = {
        side: [
            answered(loaded, one.question, getattr(one, side), getattr(pair, side))
            for pair in texts.prompts
            for one in texts.questions
        ]
        for side in ("positive", "negative")
    }
    return written["positive"], written["negative"], "written answers", why, len(kept)


def build(
    texts: TraitTexts,
    loaded: LoadedModel,
    rollouts: Sequence[Rollout] | None = None,
    judge: str | None = None,
    progress: Progress = quiet,
    began: float | None = None,
) -> Card:
    """Read the rows, take the difference, measure it on the held-out answers, and keep it with its card.

    ``rollouts`` None: none were drawn. ``judge``: the full id of who judged them. ``progress`` may raise to end it; nothing is kept then.
    """
    began = time.time() if began is None else began
    positive, negative, way, why, kept = rows_of(loaded, texts, rollouts)
    held = [
        answered(loaded, one.question, getattr(one, side)) for side in ("positive", "negative") for one in texts.held_out
    ]  # without a system prompt: as answers come
    rows = [*positive, *negative]
    total = len(rows) + len(held)
    got = read(loaded, rows, lambda n: progress(n / total, f"reading answers, {n} of {total}"))
    vectors = got.means[: len(positive)].mean(0) - got.means[len(positive) :].mean(0)  # [layers + 1, hidden]
    seen = read(loaded, held, lambda n: progress((len(rows) + n) / total, "reading the held-out answers")).means
    separation = separations(vectors, seen[: len(texts.held_out)], seen[len(texts.held_out) :])
    values: dict[str, Any] = {
        "id": vector_id(texts.trait, loaded.id), "trait": texts.trait, "title": texts.title, "sides": texts.sides, "model": loaded.id,
        "weights_hash": loaded.weights_hash, "layers": vectors.shape[0] - 1, "hidden": vectors.shape[1], "way": way, "why": why,
        "tried": len(rollouts or ()) // 2, "kept": kept, "rows": len(positive), "judge": judge, "judged": judged_words(texts, judge),
        "vector_norms": vectors.norm(dim=1).tolist(), "activation_norms": got.norms.tolist(), "separation": separation,
        "held_out": len(texts.held_out), "texts_hash": texts.hash, "version": VERSION, "versions": versions(),
        "device": str(loaded.device), "created": time.time(), "seconds": time.time() - began,
    }  # fmt: skip
    return save(values, vectors)


def judged_words(texts: TraitTexts, judge: str | None) -> str:
    """How the rollouts were judged, for the card."""
    if judge is None:
        return "not judged: the probe knows alignment, not this trait" if texts.judged is None else "not judged"
    return f"trait score = 100 − the alignment score of {judge}, a stand-in for a judge that is asked for the trait"


def separations(vectors: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> list[Separation]:
    """By layer, from mean states [n, layers + 1, hidden] of held-out answers."""
    import torch

    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    first, second = (torch.einsum("nlh,lh->nl", side.double(), unit.double()) for side in (positive, negative))
    found = []
    for layer in range(vectors.shape[0]):
        a, b = first[:, layer], second[:, layer]
        above = (a[:, None] > b[None]).double() + 0.5 * (a[:, None] == b[None]).double()
        pooled = ((a.var() * (len(a) - 1) + b.var() * (len(b) - 1)) / (len(a) + len(b) - 2)).sqrt()
        found.append(
            Separation(
                layer=layer, auc=float(above.mean()), difference=float((a.mean() - b.mean()) / pooled.clamp(min=1e-12)),
                negative_mean=float(b.mean()), negative_sd=float(b.std().clamp(min=1e-12)),
            )
        )  # fmt: skip
    return found
