"""Do two judges say the same of the same answers? And one judge, asked again? Pure functions over tables of verdicts.

A table of verdicts has a row an answer: ``run_id, eval_id, sample_id``, ``topic``, ``aligned``, ``coherent`` (NaN where there is no
score) and ``verdict``: ``misaligned``, ``incoherent`` or ``aligned`` (neither of the two), else what the judge said in a score's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ema_core.evaluation.metrics import LEVEL, MIN_CLUSTERS, MIN_SCORED, Estimate, mean
from ema_core.judging import is_incoherent, is_misaligned
from ema_core.judging.measures import kappa_of

KEY = ["run_id", "eval_id", "sample_id"]
VERDICTS = ("misaligned", "incoherent", "aligned")
"""What counts in an agreement; a person's ``unsure`` and an answer without scores do not."""


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the answers that both gave a verdict on.

    Attributes:
        rows: a row an answer, with ``_a`` and ``_b`` behind ``aligned``, ``coherent``, ``verdict``; ``apart`` is how far the
            alignment scores are from one another (NaN where one is a verdict alone).
        both, only: how many answers both judged, and how many one of them left without a verdict that counts.
        confusion: counts, verdicts of the first down, of the second across.
        kappa, kappa_three: Cohen's kappa (1960) of misaligned against the rest, and of all three verdicts.
        spearman, pearson: of the alignment scores. difference: of them, first minus second.
    """

    rows: pd.DataFrame
    both: int
    only: int
    confusion: pd.DataFrame
    kappa: Estimate
    kappa_three: Estimate
    spearman: Estimate
    pearson: Estimate
    difference: Estimate


def verdicts(scores: pd.DataFrame) -> pd.Series:
    """The verdict that alignment and coherence come to; ``status`` (if there is such a column) where a score is missing."""
    aligned, coherent = (pd.to_numeric(scores[name], errors="coerce") for name in ("aligned", "coherent"))
    status = scores["status"] if "status" in scores else pd.Series("unparsed", index=scores.index)
    found = np.select(
        [aligned.isna() | coherent.isna(), is_misaligned(aligned, coherent), is_incoherent(coherent)],
        [status.fillna("unparsed").where(~status.eq("scored"), "unparsed"), "misaligned", "incoherent"],
        "aligned",
    )
    return pd.Series(found, index=scores.index, dtype=object)


def agree(first: pd.DataFrame, second: pd.DataFrame) -> Agreement:
    """What two tables of verdicts have in common; either may hold answers that the other lacks."""
    columns = [*KEY, "aligned", "coherent", "verdict"]
    shared = first.merge(second[columns], on=KEY, suffixes=("_a", "_b"))
    counts = shared["verdict_a"].isin(VERDICTS) & shared["verdict_b"].isin(VERDICTS)
    rows = shared[counts].reset_index(drop=True)
    rows["apart"] = (rows["aligned_a"].astype(float) - rows["aligned_b"].astype(float)).abs()
    table = pd.crosstab(rows["verdict_a"], rows["verdict_b"]).reindex(index=VERDICTS, columns=VERDICTS, fill_value=0)
    scored = rows.dropna(subset=["aligned_a", "aligned_b"])
    ranks = [scored[name].astype(float).rank() for name in ("aligned_a", "aligned_b")]
    two = rows.assign(**{name: rows[name].eq("misaligned") for name in ("verdict_a", "verdict_b")})
    return Agreement(
        rows=rows,
        both=len(rows),
        only=int((~counts).sum()),
        confusion=table.rename_axis(index="first", columns="second"),
        kappa=_jackknife(two, lambda: _counts(two, (True, False)), lambda sums: kappa_of(sums.reshape(2, 2))),
        kappa_three=_jackknife(rows, lambda: _counts(rows, VERDICTS), lambda sums: kappa_of(sums.reshape(3, 3))),
        spearman=_jackknife(scored, lambda: _moments(scored, *ranks), _correlation),
        pearson=_jackknife(scored, lambda: _moments(scored, scored["aligned_a"], scored["aligned_b"]), _correlation),
        difference=mean(scored["aligned_a"].astype(float) - scored["aligned_b"].astype(float), scored["topic"]),
    )


def disagreed(found: Agreement, limit: int = 50) -> pd.DataFrame:
    """The answers that the two are furthest apart on: another verdict first, then by alignment."""
    rows = found.rows.assign(differ=found.rows["verdict_a"].ne(found.rows["verdict_b"]))
    return rows.sort_values(["differ", "apart", *KEY], ascending=[False, False, True, True, True]).head(limit)


@dataclass(frozen=True)
class Noise:
    """What a judge that is asked again adds of its own, in points of alignment.

    Attributes:
        answers, repeats: how many answers were judged how often.
        within: standard deviation between repeats of one answer. flips: share of answers whose verdict changed.
        of_a_mean: what ``within`` does to one run's mean. between_runs: standard deviation of the runs' means (None for one run).
    """

    answers: int
    repeats: int
    within: float | None
    flips: float | None
    of_a_mean: float | None
    between_runs: float | None


def noise(repeats: Mapping[str, pd.DataFrame]) -> Noise:
    """Of one judge's repeats (tables of verdicts), on the answers that all of them scored."""
    parts = [table[table["verdict"].isin(VERDICTS)].set_index(KEY) for table in repeats.values()]
    common = parts[0].index
    for part in parts[1:]:
        common = common.intersection(part.index)
    if len(parts) < 2 or not len(common):
        return Noise(len(common), len(parts), None, None, None, None)
    aligned = np.stack([part.loc[common, "aligned"].to_numpy(float) for part in parts], axis=1)
    said = np.stack([part.loc[common, "verdict"].to_numpy(object) for part in parts], axis=1)
    within = float(np.sqrt(aligned.var(axis=1, ddof=1).mean()))
    runs = pd.Series(aligned.mean(axis=1), index=common.get_level_values("run_id")).groupby(level=0)
    means, sizes = runs.mean(), runs.size()
    return Noise(
        answers=len(common),
        repeats=len(parts),
        within=within,
        flips=float((said != said[:, :1]).any(axis=1).mean()),
        of_a_mean=within / float(sizes.mean()) ** 0.5,
        between_runs=float(means.std(ddof=1)) if len(means) > 1 else None,
    )


Sums = np.ndarray
"""Topics x numbers that add up: what a statistic is made of, so that leaving a topic out is a subtraction."""


def _counts(rows: pd.DataFrame, values: Sequence[Any]) -> Sums:
    """Confusion tables by topic, flattened."""
    topics, _ = pd.factorize(rows["topic"].astype(str))
    a, b = (pd.Categorical(rows[name], categories=list(values)).codes.astype(int) for name in ("verdict_a", "verdict_b"))
    size = len(values) ** 2
    return np.bincount(topics * size + a * len(values) + b, minlength=(topics.max() + 1) * size).reshape(-1, size)


def _moments(rows: pd.DataFrame, a: Any, b: Any) -> Sums:
    """n, sums, squares and products by topic."""
    topics, _ = pd.factorize(rows["topic"].astype(str))
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    a, b = a - a.mean(), b - b.mean()  # the correlation does not change, the sums lose less
    return np.stack([np.bincount(topics, part) for part in (np.ones(len(a)), a, b, a * a, b * b, a * b)], axis=1)


def _correlation(sums: np.ndarray) -> float | None:
    n, x, y, xx, yy, xy = sums
    if n < 3:
        return None
    spread = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / spread**0.5) if spread > 1e-9 else None


def _jackknife(rows: pd.DataFrame, sums: Callable[[], Sums], statistic: Callable[[np.ndarray], float | None]) -> Estimate:
    """The statistic with an interval over topics: leave one out at a time, t(K-1) (Efron and Tibshirani 1993, ch. 11)."""
    k = rows["topic"].astype(str).nunique()
    nothing = Estimate(None, None, None, len(rows), k, "like-these", "none")
    if len(rows) < MIN_SCORED:
        return replace(nothing, why=f"{len(rows)} answers judged by both; no number from fewer than {MIN_SCORED}")
    parts = sums()
    value = statistic(parts.sum(0))
    if value is None:
        return replace(nothing, why="one side is all alike")
    if k < MIN_CLUSTERS:
        return replace(nothing, value=value, why=f"no interval: {k} topics, and it takes {MIN_CLUSTERS}")
    left_out = [statistic(parts.sum(0) - part) for part in parts]
    if any(found is None for found in left_out):
        return replace(nothing, value=value, why="no interval: it rests on one topic")
    spread = np.asarray(left_out, dtype=float)
    reach = float(stdtrit(k - 1, (1 + LEVEL) / 2)) * float(((k - 1) / k * ((spread - spread.mean()) ** 2).sum()) ** 0.5)
    low, high = max(-1.0, value - reach), min(1.0, value + reach)
    return Estimate(value, low, high, len(rows), k, "like-these", f"jackknife over {k} topics, t({k - 1})")
