"""Words in questions and answers. A scan over all texts: at half a million answers it takes a fifth of a second of two cores' time. Where
there are many answers it holds only until their words are known (``store.words``), and for phrases.

DuckDB's full-text index was tried at that size (1.5.5): building took 48 s of processor time and 139 MB, a search 0.05 to 1.2 s of it,
and it neither sees what came later nor finds parts of words. So the best matches are ranked here, by the same measure (BM25), over the
answers that the scan found.
"""

from __future__ import annotations

import duckdb
import numpy as np

from ema_core.store.columns import Array

_K1, _B = 1.2, 0.75
_TEXT = "lower(concat_ws(' ', question, answer))"


def words(text: str) -> tuple[str, ...]:
    """What a search looks for: each word, and what stands in quotes as it stands there; in small letters."""
    found: list[str] = []
    for number, part in enumerate(text.lower().split('"')):
        found += [part.strip()] if number % 2 and text.count('"') > number else part.split()
    return tuple(dict.fromkeys(word for word in found if word))


def matches(cursor: duckdb.DuckDBPyConnection, text: str) -> Array:
    """The numbers (``Columns.key``) of the answers that have each word and phrase of ``text``."""
    terms = words(text)
    parts = (f"(contains(lower(answer), $t{n}) OR contains(lower(question), $t{n}))" for n in range(len(terms)))
    sql = f"SELECT hash(run_id, eval_id, sample_id) AS key FROM samples WHERE {' AND '.join(parts)}"
    return _numbers(cursor.execute(sql, _named(terms)).fetchnumpy()["key"])


def fit(cursor: duckdb.DuckDBPyConnection, text: str) -> tuple[Array, Array]:
    """Numbers of the same answers, and how well each fits: how often it has the words for its length, rare words counting more."""
    terms = words(text)
    has = [f"contains({_TEXT}, $t{n})" for n in range(len(terms))]
    total, length, having = 1, None, [1] * len(terms)
    if len(terms) > 1:  # one word alone is as rare in every answer
        counts = ", ".join(f"count(*) FILTER ({one})" for one in has)
        total, length, *having = cursor.execute(
            f"SELECT count(*), avg(length({_TEXT})), {counts} FROM samples", _named(terms)
        ).fetchone()  # type: ignore[misc]
    often = ", ".join(f"(length(said) - length(replace(said, $t{n}, ''))) / length($t{n}) AS f{n}" for n in range(len(terms)))
    sql = f"""WITH found AS MATERIALIZED (
        SELECT hash(run_id, eval_id, sample_id) AS key, {_TEXT} AS said FROM samples WHERE {" AND ".join(has)}
    ) SELECT key, length(said) AS size, {often} FROM found"""
    rows = cursor.execute(sql, _named(terms)).fetchnumpy()
    length = length or max(1.0, float(np.mean(rows["size"])) if len(rows["size"]) else 1.0)
    found = np.zeros(len(rows["key"]))
    for n, known in enumerate(having):
        weight = np.log(1 + (total - known + 0.5) / (known + 0.5))
        times = np.asarray(rows[f"f{n}"], float)
        found += weight * times * (_K1 + 1) / (times + _K1 * (1 - _B + _B * np.asarray(rows["size"], float) / length))
    return _numbers(rows["key"]), found


def _named(terms: tuple[str, ...]) -> dict[str, str]:
    return {f"t{n}": term for n, term in enumerate(terms)}


def _numbers(values: object) -> Array:
    return np.asarray(values, np.uint64)
