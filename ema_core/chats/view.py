"""A chat as it is read: turns x columns x samples. Nothing in it changes; a newer state is a new object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ema_core.generation import SamplingSettings

Finish = Literal["stop", "length", "stopped", "cut", "error"]
"""``stopped`` by the user, ``cut`` by the end of engine or app; ``stop`` and ``length`` are the model's own."""
COMPLETE = ("stop", "length")
MOST_SAMPLES = 16
Walk = Literal["", "training", "strength"]
"""What a question walks along: one run's checkpoints, or the strength of its adapter; "" asks models side by side."""


@dataclass(frozen=True)
class Question:
    """One question to several models: ``samples`` answers each, all with the same settings and seed.

    ``system`` "" leaves the chat template's own default. ``suite``, ``question_id`` and ``topic`` where it was picked from a suite.
    ``by`` and ``along``: the models are stops of this run, and more of them may join later.
    """

    text: str
    models: tuple[str, ...]
    system: str = ""
    how: SamplingSettings = field(default_factory=lambda: SamplingSettings(max_tokens=120))
    seed: int = 0
    samples: int = 1
    suite: str = ""
    question_id: str = ""
    topic: str = ""
    by: Walk = ""
    along: str = ""


@dataclass(frozen=True)
class Score:
    """What one judge said of an answer."""

    judge: str
    aligned: float | None
    coherent: float | None
    status: str


@dataclass(frozen=True)
class Projection:
    """How far along a persona vector an answer lies: from the base's mean on held-out answers without the trait, in their SD."""

    trait: str
    vector: str
    layer: int
    deviations: float | None


@dataclass(frozen=True)
class Token:
    """A token of an answer beside what the base expected in its place: KL(tuned ‖ base) in nats, its probability under both, and the
    likeliest tokens of both with theirs."""

    text: str
    kl: float
    tuned: float
    base: float
    tuned_top: tuple[tuple[str, float], ...]
    base_top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Divergence:
    """An answer's tokens, held against the base; of ``total`` the first ones were read."""

    tokens: tuple[Token, ...]
    total: int

    @property
    def mean(self) -> float:
        """Nats a token."""
        return sum(token.kl for token in self.tokens) / len(self.tokens) if self.tokens else 0.0

    @property
    def words(self) -> list[Token]:
        """Tokens that are only a part of a character joined with the one that ends it: the largest KL of them stands for all."""
        found: list[Token] = []
        held: list[Token] = []
        for token in self.tokens:
            held.append(token)
            if token.text:
                largest = max(held, key=lambda each: each.kl)
                found.append(replace(largest, text=token.text))
                held = []
        return found

    def most_moved(self, count: int = 5) -> list[Token]:
        """Those with the largest KL, the first of equals first."""
        return sorted(self.words, key=lambda token: -token.kl)[:count]


@dataclass(frozen=True)
class Sample:
    """One answer. ``finish`` None: it is being written. ``seconds`` from the question to its end."""

    k: int
    text: str
    finish: Finish | None
    tokens: int | None = None
    seconds: float | None = None
    scores: tuple[Score, ...] = ()
    kept: tuple[str, ...] = ()
    projection: Projection | None = None
    divergence: Divergence | None = None

    @property
    def score(self) -> Score | None:
        """The newest judgment."""
        return self.scores[-1] if self.scores else None


@dataclass(frozen=True)
class Answers:
    """A column of a turn: one model's answers, of its newest attempt.

    ``ema`` is what the engine says of who answers (``model``, ``adapter_hash``, ``weights_hash``, ``scale``, ``fingerprint``),
    empty from another server. ``heard``: the server has begun; ``first`` are seconds to the first token; ``note`` says what it
    waits for; ``error`` is message and hint. ``server`` "" is our own engine, else an address.
    """

    turn: int
    model: str
    attempt: int
    seed: int
    samples: tuple[Sample, ...]
    began: float
    server: str = ""
    heard: bool = False
    first: float | None = None
    ema: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    error: tuple[str, str] | None = None

    @property
    def in_flight(self) -> bool:
        return any(sample.finish is None for sample in self.samples)


@dataclass(frozen=True)
class Turn:
    """A question and its answers by model; a model that was not reached yet is missing."""

    number: int
    question: Question
    asked: float
    columns: Mapping[str, Answers]

    @property
    def in_flight(self) -> bool:
        return any(column.in_flight for column in self.columns.values())


@dataclass(frozen=True)
class Chat:
    """``turns`` in order."""

    id: str
    opened: float
    turns: tuple[Turn, ...] = ()
    owner: str = ""

    @property
    def in_flight(self) -> bool:
        return any(turn.in_flight for turn in self.turns)

    def told(self, turn: Turn, model: str) -> list[dict[str, str]]:
        """The whole conversation that ``model`` was asked with at ``turn``."""
        system = [{"role": "system", "content": turn.question.system}] if turn.question.system.strip() else []
        return [*system, *self.messages(model, turn.number), {"role": "user", "content": turn.question.text}]

    def messages(self, model: str, turn: int) -> list[dict[str, str]]:
        """What ``model`` saw before the question of ``turn``: the questions it answered, with its own (first) answers."""
        seen = []
        for earlier in self.turns:
            column = earlier.columns.get(model)
            if earlier.number < turn and column and column.samples and column.samples[0].text.strip():
                seen.append({"role": "user", "content": earlier.question.text})
                seen.append({"role": "assistant", "content": column.samples[0].text})
        return seen
