"""A setting against its undefended twin, question by question: where the difference of the means comes from.

Pure functions over the index's tables (``evaluation.measured``). Differences are defended minus undefended, paired by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ema_core.evaluation.measured import Answers, Frames, Pairs, Study
from ema_core.evaluation.metrics import MIN_SEEDS, ends
from ema_core.evaluation.scorecard import measured_of

MIN_PAIRS = 3
"""No interval from fewer pairs of a topic: t(1) is 12.7."""


@dataclass(frozen=True)
class Measure:
    """What is compared question by question. ``source`` is a key of ``scorecard.measured_of``."""

    title: str
    source: str
    value: str
    up_is_better: bool
    judged: bool


MEASURES: dict[str, Measure] = {
    "general": Measure("General margin", "general", "change", False, False),
    "narrow": Measure("Narrow margin", "in-domain", "change", True, False),
    "alignment": Measure("Mean alignment of general answers", "answers", "aligned", True, True),
    "coherence": Measure("Mean coherence of general answers", "answers", "coherent", True, True),
}
_COLUMNS = ["topic", "difference", "low", "high", "method", "why", "n", "n_twin", "seeds", "own", "twin", "questions"]
Parts = tuple[tuple[float, float], ...]


def question_table(frames: Frames, judge: str, setting_key: str, measure: str) -> pd.DataFrame:
    """One row a topic that both have, sorted by its difference: ``difference`` with ``low, high`` (or ``why`` there is no interval),
    ``own`` and ``twin`` (their means), ``n`` and ``n_twin`` (answers or pairs over all seeds), ``seeds``, ``questions`` (ids).

    The interval of a topic's answers is over samples, for these questions; of its pairs over pairs, from ``MIN_PAIRS`` on. From three
    seeds on the seeds' variance is added (docs/statistics.md); with fewer it speaks of these adapters. It is not corrected for the
    number of topics: some intervals without 0 are to be expected where nothing differs. ``attrs`` has ``evals``, those counted.
    """
    asked, study = MEASURES[measure], Study(frames, judge)
    own_rows = study.runs[study.runs["setting_key"].eq(setting_key)]
    empty = pd.DataFrame(columns=_COLUMNS)
    if own_rows.empty:
        return empty
    keys = study.twin_key(study.runs)
    twin_rows = study.runs[study.runs["defense_label"].eq("none") & keys.eq(keys[own_rows.index[0]])]
    own, twin = (measured_of(study, study.seeds(rows))[asked.source] for rows in (own_rows, twin_rows))
    both = [seed for seed in own.parts if seed in twin.parts]
    if not both or own.protocol != twin.protocol:
        return empty
    by_topic = [{seed: _by_topic(side.parts[seed], asked.value) for seed in both} for side in (own, twin)]
    rows = []
    for topic in dict.fromkeys(topic for seed in both for topic in by_topic[0][seed]):
        mine, its = ({seed: found[seed][topic] for seed in both if topic in found[seed]} for found in by_topic)
        if shared := [seed for seed in mine if seed in its]:
            of = _of_answers if asked.judged else _of_pairs
            rows.append({"topic": topic, **of(mine, its, shared, asked.value)})
    found = pd.DataFrame([row for row in rows if row.get("difference") is not None], columns=_COLUMNS)
    found = found.sort_values("difference", kind="stable").reset_index(drop=True)
    parts = [part for side in (own, twin) for part in side.parts.values() if isinstance(part, Answers)]
    found.attrs["evals"] = [key for part in parts for key in part.evals]
    return found


def _by_topic(part: Answers | Pairs, value: str) -> dict[str, pd.DataFrame]:
    rows = part.rows[part.rows[value].notna()]
    return {str(topic): group for topic, group in rows.groupby("topic", sort=False)}


def _of_answers(own: Mapping[int, pd.DataFrame], twin: Mapping[int, pd.DataFrame], seeds: list[int], value: str) -> dict[str, Any]:
    """Means by question, each question and seed weighing the same; the interval is over samples (Welch)."""
    gaps, ours, theirs, variances, spoken = [], [], [], [], True
    questions: list[str] = []
    for seed in seeds:
        sides = [side[seed].groupby("question_id")[value].agg(["mean", "var", "size"]) for side in (own, twin)]
        both = sides[0].index.intersection(sides[1].index)
        if both.empty:
            continue
        questions += [str(name) for name in both]
        a, b = (side.loc[both] for side in sides)
        gaps.append(float((a["mean"] - b["mean"]).mean()))
        ours.append(float(a["mean"].mean()))
        theirs.append(float(b["mean"].mean()))
        for side in (a, b):
            spoken &= bool((side["size"] >= 2).all())
            each = side["var"].fillna(0) / side["size"] / len(both) ** 2
            variances += list(zip(each, side["size"] - 1, strict=True))
    if not gaps:
        return {"difference": None}
    parts: Parts = ()
    if spoken:
        total = sum(float(each) for each, _ in variances)
        squares = sum(float(each) ** 2 / max(df, 1) for each, df in variances)
        parts = ((total / len(gaps) ** 2, total**2 / squares if squares > 0 else float(sum(df for _, df in variances))),)
    n, n_twin = (sum(len(side[seed]) for seed in seeds) for side in (own, twin))
    counts = {"n": n, "n_twin": n_twin, "questions": list(dict.fromkeys(questions))}
    why = "" if spoken else "no interval: a question has fewer than two scored answers"
    return _told(gaps, parts, "over samples", why) | counts | {"own": float(np.mean(ours)), "twin": float(np.mean(theirs))}


def _of_pairs(own: Mapping[int, pd.DataFrame], twin: Mapping[int, pd.DataFrame], seeds: list[int], value: str) -> dict[str, Any]:
    """Differences pair by pair, averaged over the seeds; the interval is over the topic's pairs."""
    apart = {}
    for seed in seeds:
        mine, its = (side[seed].groupby("pair_id")[value].mean() for side in (own, twin))
        apart[seed] = (mine - its).dropna()
    table = pd.DataFrame(apart)
    if table.empty:
        return {"difference": None}
    each = table.mean(axis=1)
    parts: Parts = ((float(each.var(ddof=1)) / len(each), len(each) - 1.0),) if len(each) >= MIN_PAIRS else ()
    why = "" if parts else f"no interval: {len(each)} pair{'s' if len(each) != 1 else ''} of this topic"
    counts = {
        "n": int(table.notna().to_numpy().sum()),
        "n_twin": int(table.notna().to_numpy().sum()),
        "questions": list(each.index),
    }
    means = {name: float(np.mean([side[seed][value].mean() for seed in seeds])) for name, side in (("own", own), ("twin", twin))}
    return _told([float(gap) for gap in table.mean()], parts, "over pairs", why) | counts | means


def _told(gaps: list[float], parts: Parts, method: str, why: str) -> dict[str, Any]:
    """The mean over seeds with its interval: what is known of each seed, and from three on how far they are apart."""
    value = float(np.mean(gaps))
    if len(gaps) >= MIN_SEEDS:
        parts += ((float(np.var(gaps, ddof=1)) / len(gaps), len(gaps) - 1.0),)
        method, why = (f"{method}, with {len(gaps)} seeds", "") if not why else (f"over {len(gaps)} seeds", "")
    low, high = ends(value, parts, None) if parts else (np.nan, np.nan)
    return {"difference": value, "low": low, "high": high, "method": method if parts else "none", "why": why, "seeds": len(gaps)}
