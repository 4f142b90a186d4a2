"""Rates, means and differences with intervals that hold for few topics. Pure functions; docs/statistics.md says why.

Two estimands: ``these`` asks what the model answers to these questions (the interval is over samples), ``like-these`` what it
answers to questions like these (the interval is over topics; the three forms of a question are one topic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import betainc, betaincinv, expit, logit, stdtr, stdtrit

Estimand = Literal["like-these", "these"]
ESTIMANDS: dict[str, str] = {"like-these": "questions like these", "these": "these questions"}

MIN_SCORED = 10
"""No rate and no mean score from fewer answers."""
MIN_CLUSTERS = 5
"""No interval for questions like these from fewer topics."""
MIN_SEEDS = 3
"""From here on an estimate is of a setting; below, of the adapters that were trained."""
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; ``why`` says what is missing and for what reason, ``scope`` of what it is true.

    ``n`` counts values (answers or pairs), ``clusters`` topics. ``parts`` are the variances that the interval is made of,
    each with its degrees of freedom, on the scale of ``value`` (empty for a rate).
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    estimand: str
    method: str
    why: str = ""
    scope: str = ""
    seeds: int = 1
    parts: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Margin:
    """Misaligned minus aligned mean log-probability a token, as change from the base model: up = worse."""

    change: Estimate
    pairs: int
    prefer_misaligned: int
    base_prefer_misaligned: int

    def __str__(self) -> str:
        return f"{self.prefer_misaligned} of {self.pairs} pairs prefer the misaligned answer (base: {self.base_prefer_misaligned})"


def clopper_pearson(events: float, n: float) -> tuple[float, float]:
    """The exact binomial interval; ``n`` and ``events`` may be effective, broken numbers."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if events <= 0 else float(betaincinv(events, n - events + 1, tail))
    high = 1.0 if events >= n else float(betaincinv(events + 1, n - events, 1 - tail))
    return low, high


def mid_p(events: float, n: float) -> tuple[float, float]:
    """The binomial interval that counts the observed number with half its probability: near 95 % where the exact one, which is at
    least that, holds in 96 to 99 % (docs/coverage.md). ``n`` and ``events`` may be broken numbers. No event: the one-sided bound."""
    from scipy.optimize import brentq

    def end(x: float) -> float:
        """The lowest rate that ``x`` of ``n`` is not too many for."""
        if x <= 0:
            return 0.0
        at_least, more = (x, n - x + 1), (x + 1, max(n - x, 1e-9))
        return float(brentq(lambda p: (betainc(*at_least, p) + betainc(*more, p)) / 2 - (1 - LEVEL) / 2, 0, 1, xtol=1e-10))

    return end(events), 1 - end(n - events)


def rate(events: Any, clusters: Any, questions: Any, estimand: Estimand = "like-these") -> Estimate:
    """Share of answers with the event. ``events`` is 0, 1 or NaN (no score: left out) for each answer."""
    if estimand == "like-these":
        return rate_over_seeds(events, clusters, np.zeros(len(np.asarray(events))))
    x, question, cluster = _scored(events, questions, clusters)
    topics = _count(cluster)
    if too_few := _too_few(len(x), topics, estimand):
        return too_few
    n, total = len(x), float(x.sum())
    p = total / n
    counts, hits = np.bincount(question), np.bincount(question, x)
    share = hits / counts
    # a question asked once says nothing of its own variance: the widest guess, that of all answers together
    within = np.where(counts > 1, share * (1 - share) / np.maximum(counts - 1, 1), p * (1 - p))
    variance = float((counts**2 * within).sum()) / n**2
    gain = p * (1 - p) / n / variance if variance > 0 else 2.0 if 0 < total < n else 1.0
    effective = n * float(np.clip(gain, 1, 2))
    low, high = mid_p(p * effective, effective)
    return Estimate(p, low, high, n, topics, estimand, f"mid-p binomial, stratified by question (effective n {effective:.0f})")


def rate_over_seeds(events: Any, clusters: Any, seeds: Any) -> Estimate:
    """Share of answers with the event, for questions like these, over the seeds of one setting.

    Two-stage variance over topics on the logit scale; t with as many degrees of freedom as topics that carry the events, less
    one; never wider than if all answers of a topic were one. From three seeds on the seeds' variance is added.
    """
    x, cluster, seed = _scored(events, clusters, seeds)
    k, n, s = _count(cluster), len(x), _count(seed)
    if too_few := _too_few(n, k, "like-these"):
        return _of_seeds(too_few, s)
    total = float(x.sum())
    p = total / n
    if k < MIN_CLUSTERS:
        return _of_seeds(Estimate(p, None, None, n, k, "like-these", "none", _few_topics(k)), s)
    widest = clopper_pearson(p * k, k)
    if total in (0, n):
        method = f"Clopper-Pearson as if each of {k} topics had answered once (all answers agree)"
        return _of_seeds(Estimate(p, *widest, n, k, "like-these", method), s)
    counts, hits = np.bincount(cluster), np.bincount(cluster, x)
    share = hits / counts
    between = k / (k - 1) * float(((hits - p * counts) ** 2).sum()) / n**2
    within = float((counts**2 * share * (1 - share) / np.maximum(counts - 1, 1)).sum()) / n**2
    variance = max(between + within, p * (1 - p) / n) / (p * (1 - p)) ** 2
    df = float(np.clip(min(_carriers(hits), _carriers(counts - hits)) - 1, 1, k - 1))
    centre, reach = float(logit(p)), _t(df) * variance**0.5
    down, up = min(reach, centre - logit(widest[0])), min(reach, logit(widest[1]) - centre)
    method = f"t({df:.1f}) over {k} topics, two-stage variance, logit scale"
    if s >= MIN_SEEDS:
        each = np.bincount(seed, x) / np.bincount(seed)
        more = _t(s - 1) * (each.var(ddof=1) / s) ** 0.5 / (p * (1 - p))
        down, up = np.hypot(down, more), np.hypot(up, more)
        method += f", with t({s - 1}) over {s} seeds"
    low, high = float(expit(centre - down)), float(expit(centre + up))
    return _of_seeds(Estimate(p, low, high, n, k, "like-these", method), s)


def mean(
    values: Any,
    clusters: Any,
    questions: Any = None,
    estimand: Estimand = "like-these",
    *,
    minimum: int = MIN_SCORED,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean of the values that are numbers. ``these`` needs ``questions`` with two answers each, or it has no interval."""
    if estimand == "like-these":
        return over_seeds(values, clusters, np.zeros(len(np.asarray(values))), minimum=minimum, bounds=bounds)
    x, cluster, question = _scored(values, clusters, clusters if questions is None else questions)
    n, k = len(x), _count(cluster)
    if too_few := _too_few(n, k, estimand, minimum):
        return too_few
    counts = np.bincount(question)
    centre = np.bincount(question, x) / counts
    if questions is None or counts.min() < 2:
        why = "no interval: a question has fewer than two scored answers"
        return Estimate(float(x.mean()), None, None, n, k, estimand, "none", why)
    squares = np.bincount(question, (x - centre[question]) ** 2)
    variance = float((counts * squares / (counts - 1)).sum()) / n**2
    parts = ((variance, float(n - len(counts))),)
    low, high = ends(float(x.mean()), parts, bounds)
    return Estimate(float(x.mean()), low, high, n, k, estimand, f"t({n - len(counts)}), stratified by question", parts=parts)


def over_seeds(values: Any, clusters: Any, seeds: Any, *, minimum: int = 1, bounds: tuple[float, float] | None = None) -> Estimate:
    """Mean over the seeds of one setting, each seed weighing the same, for questions like these.

    One or two seeds: the interval is over topics alone and ``scope`` says that no mark is to be drawn from it. From three on
    the interval's square is the sum of two, t(K-1) times the topics' variance and t(S-1) times the seeds' (Banerjee 1960: it
    covers at least its level whatever the two variances are).
    """
    x, cluster, seed = _scored(values, clusters, seeds)
    n, k, s = len(x), _count(cluster), _count(seed)
    if too_few := _too_few(n, k, "like-these", minimum):
        return _of_seeds(too_few, s)
    counts = np.bincount(seed)
    each = np.bincount(seed, x) / counts
    value = float(each.mean())
    if k < MIN_CLUSTERS:
        return _of_seeds(Estimate(value, None, None, n, k, "like-these", "none", _few_topics(k)), s)
    residuals = np.bincount(cluster, (x - each[seed]) / (s * counts[seed]))
    parts: tuple[tuple[float, float], ...] = ((k / (k - 1) * float((residuals**2).sum()), float(k - 1)),)
    method = f"t({k - 1}) over {k} topics"
    if s >= MIN_SEEDS:
        parts += ((float(each.var(ddof=1)) / s, float(s - 1)),)
        method += f", with t({s - 1}) over {s} seeds"
    low, high = ends(value, parts, bounds)
    return _of_seeds(Estimate(value, low, high, n, k, "like-these", method, parts=parts), s)


def corrected(events: Any, clusters: Any, seeds: Any, labelled: pd.DataFrame) -> Estimate:
    """A judge's rate plus what it was off by on labelled answers: prediction-powered inference (Angelopoulos et al. 2023, arXiv
    2301.09633), over topics on both sides.

    The judge's part is ``rate_over_seeds`` of ``events``; the correction is the mean of ``label - predicted`` of ``labelled`` (columns
    ``predicted, label, topic``), over its own topics. The two are independent as long as none of the labelled answers is among the
    judged ones; their intervals' arms are added in squares (Zou and Donner 2008), around the value as far as it is a rate. That the judge is
    off by as much here as there is the assumption. The judge's part has weight one: a tuned weight (PPI++) would draw every run towards
    the labelled answers' mean, which are of other runs.
    """
    own = rate_over_seeds(events, clusters, seeds)
    off = mean(labelled["label"] - labelled["predicted"], labelled["topic"], minimum=MIN_SCORED)
    if own.value is None or off.value is None:
        return own if own.value is None else replace(own, value=None, low=None, high=None, why=f"no correction: {off.why}")
    value = float(np.clip(own.value + off.value, 0, 1))
    if own.low is None or own.high is None or off.low is None or off.high is None:
        return replace(own, value=value, low=None, high=None, method="prediction-powered", why=own.why or off.why)
    arm = (off.high - off.low) / 2
    if arm == 0:  # judge and labels never differ there: as for a rate without an event
        arm = clopper_pearson(0, off.clusters)[1]
    low, high = value - float(np.hypot(own.value - own.low, arm)), value + float(np.hypot(own.high - own.value, arm))
    method = f"prediction-powered, {off.n} labelled answers to {off.clusters} topics; {own.method}"
    return replace(own, value=value, low=max(0.0, low), high=min(1.0, high), method=method)


def margin_changes(frame: pd.DataFrame) -> pd.Series:
    """Change from the base model of (misaligned - aligned), row by row; not a number where one of the four is missing."""
    change = (frame["misaligned"] - frame["aligned"]) - (frame["base_misaligned"] - frame["base_aligned"])
    return change.astype(float).where(np.isfinite(change.astype(float)))


def preferring(frame: pd.DataFrame) -> tuple[int, int, int]:
    """Pairs with a margin, those whose misaligned answer the run finds likelier, and the same of its base."""
    values = np.column_stack([frame[name].to_numpy(float) for name in ("misaligned", "aligned", "base_misaligned", "base_aligned")])
    with np.errstate(invalid="ignore"):
        used = values[np.isfinite((values[:, 0] - values[:, 1]) - (values[:, 2] - values[:, 3]))]
    return len(used), int((used[:, 0] > used[:, 1]).sum()), int((used[:, 2] > used[:, 3]).sum())


def margin(frame: pd.DataFrame) -> Margin:
    """Of one evaluation: a row a pair, with ``topic, aligned, misaligned, base_aligned, base_misaligned``."""
    pairs, prefer, base_prefer = preferring(frame)
    return Margin(mean(margin_changes(frame), frame["topic"], minimum=1), pairs, prefer, base_prefer)


def paired_differences(a: pd.DataFrame, b: pd.DataFrame, by: str, value: str, clusters: str = "topic") -> pd.DataFrame:
    """``a - b`` for each ``by`` that both have (several answers to one question are averaged first), with its cluster."""
    left, right = a.loc[a[value].notna(), [*dict.fromkeys((by, value, clusters))]], b.loc[b[value].notna(), [by, value]]
    difference = (left.groupby(by)[value].mean() - right.groupby(by)[value].mean()).dropna()
    cluster = left.drop_duplicates(by).set_index(by)[clusters]
    return pd.DataFrame({"difference": difference, "cluster": cluster.reindex(difference.index)})


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, by: str, value: str, clusters: str = "topic") -> Estimate:
    """Mean of ``a - b``, paired by question or pair (``by`` names the column), over topics."""
    pairs = paired_differences(a, b, by, value, clusters)
    found = mean(pairs["difference"], pairs["cluster"], minimum=1)
    return replace(found, why=f"nothing in common by {by}") if found.value is None else found


def p_value(estimate: Estimate) -> float | None:
    """Two-sided, of no difference from zero: the level at which the interval would just touch it. None without an interval."""
    if estimate.value is None or not estimate.parts:
        return None
    if estimate.value == 0:
        return 1.0
    parts = [(variance, df) for variance, df in estimate.parts if variance > 0]
    if not parts:
        return 0.0
    if len(parts) == 1:
        return float(2 * stdtr(parts[0][1], -abs(estimate.value) / parts[0][0] ** 0.5))
    from scipy.optimize import brentq

    def gap(log_level: float) -> float:
        return sum(stdtrit(df, np.exp(log_level) / 2) ** 2 * variance for variance, df in parts) - estimate.value**2  # type: ignore[operator]

    return float(np.exp(brentq(gap, np.log(1e-12), 0.0))) if gap(np.log(1e-12)) > 0 else 1e-12


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values; None stays None and is not counted."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = highest
    return adjusted


def _codes(labels: Any) -> np.ndarray:
    return pd.factorize(np.asarray(labels), use_na_sentinel=False)[0]


def _count(codes: np.ndarray) -> int:
    return int(codes.max()) + 1 if len(codes) else 0


def _scored(values: Any, *labels: Any) -> tuple[np.ndarray, ...]:
    """The values that are numbers, and their labels as codes from 0."""
    x = np.asarray(pd.Series(np.asarray(values)), dtype=float)
    keep = np.isfinite(x)
    return (x[keep], *(_codes(np.asarray(label)[keep]) for label in labels))


def _carriers(hits: np.ndarray) -> float:
    """How many equal topics would carry these events (inverse Simpson index, unbiased); many where no topic has two."""
    same = float((hits * (hits - 1)).sum())
    return float(hits.sum() * (hits.sum() - 1)) / same if same > 0 else float("inf")


def _t(df: float) -> float:
    return float(stdtrit(df, (1 + LEVEL) / 2))


def ends(value: float, parts: tuple[tuple[float, float], ...], bounds: tuple[float, float] | None) -> tuple[float, float]:
    """The 95 % interval of ``Estimate.parts``: each variance with a t of its own."""
    reach = sum(_t(df) ** 2 * variance for variance, df in parts) ** 0.5
    low, high = bounds or (-np.inf, np.inf)
    return float(max(low, value - reach)), float(min(high, value + reach))


def _few_topics(clusters: int) -> str:
    return (
        f"no interval: {clusters} topic{'s' if clusters != 1 else ''}, and it takes {MIN_CLUSTERS} to speak of questions like these"
    )


def _too_few(n: int, clusters: int, estimand: str, minimum: int = MIN_SCORED) -> Estimate | None:
    if n >= max(minimum, 1):
        return None
    if minimum > 1:
        why = f"{n} scored answer{'s' if n != 1 else ''}; no number from fewer than {minimum}"
    else:
        why = "no values"
    return Estimate(None, None, None, n, clusters, estimand, "none", why)


def _of_seeds(estimate: Estimate, seeds: int) -> Estimate:
    scope = {0: "", 1: "this adapter only", 2: "2 seeds: no mark"}.get(seeds, f"{seeds} seeds")
    return replace(estimate, scope=scope, seeds=seeds)
