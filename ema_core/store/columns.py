"""What filters need to know of every answer, as columns in memory: numbers, no texts.

Half a million answers are 30 MB, and a filter over them, or a count of each choice, is a few milliseconds; the same by SQL joins was
half a second each. Texts stay in the index and are read for the page that is shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from ema_core.judging import COHERENT_ABOVE, is_incoherent, is_misaligned
from ema_core.store.answers import CUT, AnswerKey
from ema_core.store.queries import queries

Array = np.ndarray
NO_VERDICT, ALIGNED, MISALIGNED, INCOHERENT, UNSURE = range(5)
CODES = {"aligned": ALIGNED, "misaligned": MISALIGNED, "incoherent": INCOHERENT, "unsure": UNSURE}


@dataclass
class Scores:
    """What a judge says of each answer. ``aligned`` and ``coherent`` are NaN where it did not give both."""

    aligned: Array
    coherent: Array
    judged: Array
    refused: Array

    @property
    def scored(self) -> Array:
        return ~np.isnan(self.aligned)

    @property
    def misaligned(self) -> Array:
        with np.errstate(invalid="ignore"):
            return is_misaligned(self.aligned, self.coherent)

    @property
    def incoherent(self) -> Array:
        with np.errstate(invalid="ignore"):
            return is_incoherent(self.coherent)

    def verdicts(self) -> Array:
        """By the thresholds, as people's verdicts."""
        found = np.zeros(len(self.aligned), np.int8)
        with np.errstate(invalid="ignore"):
            found[self.coherent > COHERENT_ABOVE] = ALIGNED
        found[self.misaligned] = MISALIGNED
        found[self.incoherent] = INCOHERENT
        return found


@dataclass
class Columns:
    """All answers, in the order run, evaluation, question, number.

    Attributes:
        key: a number for ``run_id, eval_id, sample_id`` (DuckDB's ``hash``), and ``sorted``, ``at``: those numbers in order, and where they stand.
        eval: row of ``evals``. question: row of ``questions``. stands: which row of its file an imported answer is, else -1.
    """

    key: Array
    eval: Array
    question: Array
    k: Array
    tokens: Array
    refused: Array
    cut: Array
    stands: Array
    evals: pd.DataFrame
    questions: pd.DataFrame
    sorted: Array = field(init=False)
    at: Array = field(init=False)

    def __post_init__(self) -> None:
        self.at = np.argsort(self.key, kind="stable").astype(np.int32)
        self.sorted = self.key[self.at]

    def __len__(self) -> int:
        return len(self.key)

    def places(self, keys: Array) -> Array:
        """Where the answers with these numbers stand; -1 where they are not there."""
        if not len(self.key):
            return np.full(len(keys), -1, np.int64)
        found = np.minimum(np.searchsorted(self.sorted, keys), len(self.key) - 1)
        return np.where(self.sorted[found] == keys, self.at[found], -1).astype(np.int64)


def load(cursor: duckdb.DuckDBPyConnection) -> Columns:
    """From the index."""
    evals = cursor.execute(queries()["answer_evals"]).to_arrow_table().to_pandas()
    evals["methods"], evals["strengths"] = zip(*map(_defenses, evals["defenses"]), strict=True) if len(evals) else ((), ())
    rows = cursor.execute(queries()["answer_columns"], {"cut_ends": list(CUT)}).fetchnumpy()
    questions = cursor.execute(queries()["answer_questions"]).to_arrow_table().to_pandas()
    known = np.sort(questions["number"].to_numpy())
    return Columns(
        key=_plain(rows["key"]),
        eval=_plain(rows["eval"]).astype(np.int32),
        question=np.searchsorted(known, _plain(rows["question"])).astype(np.int32),
        k=_plain(rows["k"]).astype(np.int32),
        tokens=_plain(rows["tokens"]).astype(np.int32),
        refused=_plain(rows["refused"]).astype(bool),
        cut=_plain(rows["cut"]).astype(bool),
        stands=_plain(rows["stands"]).astype(np.int32),
        evals=evals,
        questions=questions.sort_values("number", ignore_index=True),
    )


def scores(cursor: duckdb.DuckDBPyConnection, columns: Columns, judge: str | None) -> Scores:
    """A judge's, from the index."""
    size = len(columns)
    found = Scores(np.full(size, np.nan, np.float32), np.full(size, np.nan, np.float32), np.zeros(size, bool), np.zeros(size, bool))
    if judge is None:
        return found
    rows = cursor.execute(queries()["judge_columns"], {"judge": judge}).fetchnumpy()
    places = columns.places(_plain(rows["key"]))
    here = places >= 0
    places = places[here]
    aligned, coherent = (np.asarray(np.ma.filled(rows[name], np.nan), np.float32)[here] for name in ("aligned", "coherent"))
    both = ~np.isnan(aligned) & ~np.isnan(coherent)
    found.aligned[places[both]], found.coherent[places[both]] = aligned[both], coherent[both]
    found.judged[places], found.refused[places] = _plain(rows["judged"])[here], _plain(rows["refused"])[here]
    return found


def draws(cursor: duckdb.DuckDBPyConnection, columns: Columns) -> Array:
    """A number of each answer that depends on its name alone."""
    rows = cursor.execute(queries()["answer_draws"]).fetchnumpy()
    places = columns.places(_plain(rows["key"]))
    found = np.zeros(len(columns), np.uint64)
    found[places[places >= 0]] = _plain(rows["draw"])[places >= 0]
    return found


def keys(cursor: duckdb.DuckDBPyConnection, named: Sequence[AnswerKey]) -> Array:
    """The numbers of answers by their names."""
    parts = {f"{name}s": [getattr(key, name) for key in named] for name in AnswerKey._fields}
    return np.asarray(cursor.execute(queries()["answer_keys"], parts).fetchnumpy()["key"], np.uint64)


def _plain(values: Any) -> Array:
    return np.asarray(np.ma.filled(values, 0) if isinstance(values, np.ma.MaskedArray) else values)


def _defenses(text: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and strengths of a run's defenses, as a reader writes them."""
    try:
        rows = [row for row in json.loads(text) if isinstance(row, dict)] if isinstance(text, str) else []
    except ValueError:
        rows = []
    names = tuple(str(row["name"]) for row in rows if row.get("name"))
    strengths = (row.get("strength") for row in rows)
    return names, tuple(f"{value:g}" for value in strengths if isinstance(value, int | float))
