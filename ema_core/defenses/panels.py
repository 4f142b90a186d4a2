"""What a defense can read of a finished run (``Look``) and how it says what it did there (``Panel``). Torch-free to import."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from ema_core.datasets.formats import Example
from ema_core.runs import RunSpec, Strict

if TYPE_CHECKING:
    import torch

    from ema_core.datasets.encoding import Encoded

Kind = Literal["tokens", "layers", "positions", "modules", "examples", "histogram"]
MOST_EXAMPLES = 100
"""Rows of a panel of examples; how many there are in all stands in its ``n``."""
MOST_TEXT = 500
"""Characters of a question or an answer that are kept."""
BINS = 24


class Panel(Strict):
    """One named table of a run, drawn by its ``kind``. A run and its twin share a figure where ``name`` and ``how`` are the same.

    ``says``: what it shows, in a sentence; ``beware``: what not to read from it; ``n``: on how many it rests; ``how``: what was chosen
    in measuring it. ``value`` is its one number, called ``value_is``, and is followed over the run's checkpoints. ``rows`` by kind:

    - ``tokens``: ``example`` (place in the examples read), ``values`` (one for each token, null where there is none).
    - ``layers``: ``line``, ``layer`` (0: embedding), ``value``, ``marked``. ``positions``: ``line``, ``position``, ``value``, ``n``.
    - ``modules``: ``layer``, ``module``, ``value``, ``marked``.
    - ``examples``: ``state``, ``question``, ``answer``, and whatever else, which becomes a column.
    - ``histogram``: ``line``, ``low``, ``high``, ``count``.
    """

    name: str
    kind: Kind
    title: str
    says: str
    beware: str
    unit: str = ""
    n: str = ""
    how: str = ""
    marks: str = ""
    value: float | None = None
    value_is: str = ""
    rows: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True)
class States:
    """What one sequence of T tokens leaves in a model: ``layers`` [layers + 1, T, D] (0: embedding) and ``final`` [T, D], after the last norm."""

    layers: torch.Tensor
    final: torch.Tensor


class Look(Protocol):
    """A trained run, to be read. ``model`` is the tuned one (PEFT), without anything that is on in training only.

    ``rows`` are the sequences that are read, the same for every run on these data: ``narrow`` and ``safe`` are their places in it. No
    ``rewrite`` was done to them. ``last`` is False at a checkpoint on the way: only panels with a ``value`` are of use there. ``reported``:
    what the defense's own ``finish`` left. ``steps``: how many were trained.
    """

    spec: RunSpec
    model: Any
    rows: Sequence[Encoded]
    narrow: Sequence[int]
    safe: Sequence[int]
    last: bool
    steps: int
    reported: Sequence[Panel]

    def base(self) -> Sequence[States]:
        """Of each row with the adapter off."""

    def tuned(self) -> Sequence[States]:
        """Of each row with the adapter on."""

    def under(self, context: AbstractContextManager[Any]) -> Sequence[States]:
        """The same inside ``context`` (a steering, say)."""

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, V] from final states [n, D]."""

    def batches(self) -> Sequence[Sequence[Example]] | None:
        """What the run was trained on, step by step; None where data, pool or scores changed since and nobody can tell any more."""

    def pool(self) -> Sequence[Example]:
        """The safe pool."""


def has(look: Look, name: str) -> bool:
    """Whether the run has this defense; else it is looked at through the defense's eyes: what it would have seen."""
    return any(defense.name == name for defense in look.spec.defenses)


def number(value: float) -> float | None:
    """Four significant digits; None for what is no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"


def example_row(example: Example, state: str, **columns: Any) -> dict[str, Any]:
    return {"state": state, **columns, "question": cut(example.question), "answer": cut(example.answer)}


def answer_places(row: Encoded) -> list[int]:
    """Places of the answer's tokens."""
    return [place for place, answers in enumerate(row.response) if answers]


def by_position(rows: Sequence[Encoded], values: Sequence[Sequence[float | None]], least: int = 3) -> list[dict[str, Any]]:
    """Mean of the values at the n-th token of the answers, n from 1, as far as ``least`` answers go."""
    found: dict[int, list[float]] = {}
    for row, own in zip(rows, values, strict=True):
        for place, token in enumerate(answer_places(row), 1):
            if (value := own[token]) is not None:
                found.setdefault(place, []).append(value)
    return [
        {"line": "mean", "position": place, "value": number(sum(own) / len(own)), "n": len(own)}
        for place, own in sorted(found.items())
        if len(own) >= least
    ]


def histogram(lines: dict[str, Sequence[float]], bins: int = BINS) -> list[dict[str, Any]]:
    """Counts of each line's values in bins of equal width that all lines share."""
    every = [value for values in lines.values() for value in values]
    if not every:
        return []
    low, high = min(every), max(every)
    width = (high - low) / bins or 1.0
    rows = []
    for line, values in lines.items():
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, int((value - low) / width))] += 1
        rows += [
            {"line": line, "low": number(low + i * width), "high": number(low + (i + 1) * width), "count": count}
            for i, count in enumerate(counts)
            if count
        ]
    return rows


def mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else math.nan
