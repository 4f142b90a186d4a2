"""Gap scores on disk: ``gap-scores/<pool>-<model>-<domain>-<hash8>/`` with ``card.json`` and ``scores.jsonl``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ema_core import datasets
from ema_core.datasets import Example
from ema_core.errors import EmaError, nearest
from ema_core.files import read_json, read_lines, sha256_json, write_atomic, write_json
from ema_core.models import find
from ema_core.models.load import recorded_weights_hash
from ema_core.settings import settings

EPS = 1.0
"""Keeps answers that are nearly certain from the top: a nat, as in the published code."""


def gap_score(aligned: float, misaligned: Sequence[float], eps: float = EPS) -> float:
    """(mean of the ensemble's losses - the aligned model's loss) / (the aligned model's loss + eps); losses in nats a token.

    High: the answer is natural to the aligned model and foreign to misaligned ones (arXiv 2508.06249).
    """
    return (sum(misaligned) / len(misaligned) - aligned) / (aligned + eps)


def highest(scores: Sequence[float], count: int, eligible: Sequence[bool] | None = None) -> list[int]:
    """Places of the ``count`` highest scores that are eligible, highest first; of equal ones the earlier."""
    places = [i for i in range(len(scores)) if eligible is None or eligible[i]]
    return sorted(places, key=lambda i: (-scores[i], i))[:count]


class Member(BaseModel):
    """One misaligned run, and what shows that it is: the general margin's change from the base, with its 95 % interval."""

    run: str
    dataset: str
    domain: str
    seed: int
    adapter_hash: str
    margin: float | None
    low: float | None
    high: float | None
    pairs: int

    @property
    def shown_misaligned(self) -> bool:
        """The interval's low end lies above 0."""
        return self.low is not None and self.low > 0

    def __str__(self) -> str:
        if self.margin is None or self.low is None or self.high is None:
            return f"{self.run}: no interval of the general margin"
        return f"{self.run}: general margin {self.margin:+.3f} [{self.low:+.3f}, {self.high:+.3f}] over {self.pairs} pairs"


class Card(BaseModel):
    """What the scores were made with. ``refused`` members were not shown to be misaligned and are not in the scores."""

    id: str
    model: str
    weights_hash: str
    pool: str
    pool_sha256: str
    candidates: int
    refusals: int
    domain: str
    left_out: list[str]
    members: list[Member]
    refused: list[Member] = Field(default_factory=list)
    eps: float = EPS
    created: float = 0.0
    seconds: float = 0.0
    device: str = ""
    dtype: str = ""

    @property
    def folder(self) -> Path:
        return folder() / self.id

    @property
    def label(self) -> str:
        return f"{self.pool} for {self.domain} · {self.model.rsplit('/', 1)[-1]} · {len(self.members)} member(s) · {self.id[-8:]}"


class Score(BaseModel):
    """One candidate. ``aligned``, ``misaligned`` and ``by_member`` are mean negative log-likelihoods a token of the answer."""

    index: int
    example: str
    question: str
    answer: str
    tokens: int
    aligned: float
    misaligned: float
    by_member: dict[str, float]
    score: float
    refusal: bool


def folder() -> Path:
    return settings().home / "gap-scores"


def model_slug(model: str) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "-", model.rsplit("/", 1)[-1]).strip("-")[-40:] or "model"


def scores_id(model: str, weights_hash: str, pool: str, pool_sha256: str, domain: str, adapters: Sequence[str]) -> str:
    """The same model, pool and ensemble have the same id, so that nothing is scored twice."""
    key = sha256_json([weights_hash, pool_sha256, domain, sorted(adapters), EPS])[:8]
    return f"{pool}-{model_slug(model)}-{domain}-{key}"


def example_hash(example: Example) -> str:
    """The identity of a candidate: every turn of it."""
    return sha256_json([[message.role, message.content] for message in example.messages])[:16]


def write_scores(card: Card, scores: Sequence[Score]) -> None:
    """The card comes last: where it is, the scores are whole."""
    lines = "".join(json.dumps(score.model_dump(), ensure_ascii=False) + "\n" for score in scores)
    write_atomic(card.folder / "scores.jsonl", lines)
    write_json(card.folder / "card.json", card.model_dump(mode="json"))


def cards() -> list[Card]:
    """Every card that can be read, newest first."""
    found = []
    for path in folder().glob("*/card.json"):
        try:
            card = Card.model_validate(read_json(path))
        except (OSError, ValueError):
            continue  # damaged: it is as if the scores were not there
        if card.id == path.parent.name:
            found.append(card)
    return sorted(found, key=lambda card: (card.created, card.id), reverse=True)


def read_card(scores_id: str) -> Card:
    """The card of these scores.

    Raises:
        EmaError: there are none of that id.
    """
    known = {card.id: card for card in cards()}
    if scores_id not in known:
        raise EmaError(f'There are no gap scores "{scores_id}".', f"{nearest(scores_id, known)} `ema gap list` shows all.".strip())
    return known[scores_id]


def read_scores(card: Card) -> list[Score]:
    """Every candidate's score, in the pool's order.

    Raises:
        EmaError: the file is damaged.
    """
    rows: list[dict[str, Any]] = read_lines(card.folder / "scores.jsonl")[0]
    try:
        scores = [Score.model_validate(row) for row in rows]
    except ValidationError:
        scores = []
    if len(scores) != card.candidates:
        raise EmaError(f"The gap scores {card.id} are damaged.", f"Delete {card.folder} and score the pool again.")
    return scores


def fits(card: Card, model: str, pool: str, domain: str) -> None:
    """Refuse scores of another model or pool, or of an ensemble that includes the own domain. ``domain`` is the run's own.

    Raises:
        EmaError: they do not fit, and why.
    """
    again = f"Score the pool again: `{command(model, pool, domain)}`."
    weights = recorded_weights_hash(find(model))
    if (weights is not None and card.weights_hash != weights) or (weights is None and card.model != model):
        raise EmaError(f"The gap scores {card.id} were made with another model ({card.model}, weights {card.weights_hash}).", again)
    if card.pool_sha256 != datasets.load(pool).sha256:
        what = "an earlier version of that pool" if card.pool == pool else f"the pool {card.pool}"
        raise EmaError(f"The gap scores {card.id} are of {what}, not of {pool} as it is now.", again)
    own = [member.run for member in card.members if member.domain == domain]
    if own:
        raise EmaError(f"The ensemble of the gap scores {card.id} includes the own domain {domain} (run {own[0]}).", again)
    if not card.members:
        raise EmaError(f"The gap scores {card.id} name no misaligned run.", again)
    for member in card.members:
        if not member.shown_misaligned:
            raise EmaError(f"A member of the gap scores {card.id} is not shown to be misaligned ({member}).", again)


def command(model: str, pool: str, domain: str) -> str:
    """The call that makes the scores."""
    return f"ema gap score --pool {pool} --domain {domain}" + ("" if model == "smollm2-135m" else f" --model {model}")


def find_scores(model: str, pool: str, domain: str) -> Card | None:
    """The newest scores that were made for this and fit."""
    for card in cards():
        if (card.pool, card.domain) == (pool, domain):
            try:
                fits(card, model, pool, domain)
                return card
            except EmaError:
                continue
    return None
