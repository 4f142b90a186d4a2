"""Annotations at the places of their answers: what people said, as arrays beside ``Columns``."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ema_core.store.annotations import Annotation
from ema_core.store.answers import AnswerFilter, AnswerKey
from ema_core.store.columns import CODES, NO_VERDICT, Array


@dataclass
class Said:
    """What counts of people's annotations, of answers that are there.

    Attributes:
        places: where the answer of each of ``rows`` stands among all answers.
        version: changes whenever something was said.
    """

    rows: Sequence[Annotation]
    places: Array
    version: Hashable = None
    codes: Array = field(init=False)
    times: Array = field(init=False)
    reviewers: Array = field(init=False)
    all_tags: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = np.array([CODES.get(row.verdict or "", NO_VERDICT) for row in self.rows], np.int8)
        self.times = np.array([row.time for row in self.rows], np.float64)
        self.reviewers = np.array([row.reviewer for row in self.rows], dtype=object)
        self.all_tags = tuple(sorted({tag for row in self.rows for tag in row.tags}))
        self._by_key: dict[AnswerKey, list[Annotation]] = {}
        for row in self.rows:
            self._by_key.setdefault(row.key, []).append(row)

    def by(self, reviewer: str) -> Array:
        return self.reviewers == reviewer if len(self.rows) else np.zeros(0, bool)

    def of(self, which: AnswerFilter) -> Array:
        """Whose verdicts and tags a filter means: mine, or everybody's."""
        return self.by(which.reviewer) if which.annotated == "mine" else np.ones(len(self.rows), bool)

    def tagged(self, tags: Sequence[str]) -> Array:
        return np.fromiter((any(tag in row.tags for tag in tags) for row in self.rows), bool, len(self.rows))

    def about(self, key: AnswerKey) -> list[Annotation]:
        """What is said of one answer, the oldest first."""
        return sorted(self._by_key.get(key, []), key=lambda row: row.time)
