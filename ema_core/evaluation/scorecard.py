"""The four criteria of a run and of a setting. Pure functions over the index's tables (``evaluation.measured``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ema_core.evaluation.measured import (
    COUNTS,
    LIKE_THESE,
    PERCENT,
    Answers,
    Frames,
    Pairs,
    Seeds,
    Study,
    alike,
    columns,
    difference,
    mark,
    over,
    rate_over,
    unless,
)
from ema_core.evaluation.metrics import MIN_SCORED, Estimate, margin, mean, rate

NO_PROBE_IN_DOMAIN = "the probe reads topic; in-domain it is not used, the margin is the measure"
NO_SIBLING = "no sibling run trained on a benign task yet; the benign task arrives with opswap"


def run_criteria(run_id: str, frames: Frames, judge: str) -> dict[str, dict[str, Any]]:
    """One run's ``general, narrow, benign, coherence``: numbers with intervals and counts, or null and ``why``.

    ``low`` and ``high`` belong to ``rate``, ``mean_low`` and ``mean_high`` to ``mean``; ``margin`` has its own.
    """
    study = Study(frames, judge)
    answers, inside = study.answers(run_id, "general"), study.answers(run_id, "in-domain")
    coherent = replace(answers, rows=answers.rows[answers.rows["is_coherent"].eq(1)])
    rated, given, narrow = _rate(answers, "misaligned"), _rate(coherent, "misaligned"), _rate(inside, "misaligned")
    aligned, fluent, share = _mean(answers, "aligned"), _mean(answers, "coherent"), _rate(answers, "is_coherent")
    narrow = unless(_not_in_domain(judge), narrow)
    general: dict[str, Any] = {
        **_interval("rate", rated),
        **_interval("mean", aligned, "mean_"),
        **_margin(study.pairs(run_id, "general")),
        "given_coherent": {**_interval("value", given), "scored": given.n},
    }
    coherence: dict[str, Any] = {**_interval("mean", fluent, "mean_"), **_interval("rate", share)}
    domain: dict[str, Any] = {**_interval("rate", narrow), **_margin(study.pairs(run_id, "in-domain"))}
    rows = answers.rows
    general |= {"misaligned": int(rows["misaligned"].sum()), "evals": answers.evals}
    coherence |= {"coherent": int(rows["is_coherent"].sum()), "evals": answers.evals}
    domain |= {"evals": inside.evals}
    shared = {"judge": judge, "estimand": LIKE_THESE}
    return {
        "general": general | answers.counts() | shared | {"why": rated.why or None},
        "narrow": domain | inside.counts() | shared | {"why": narrow.why or None},
        "benign": {"rate": None, "low": None, "high": None, "judge": judge, "why": NO_SIBLING},
        "coherence": coherence | answers.counts() | shared | {"why": share.why or None},
    }


def setting_table(frames: Frames, judge: str) -> pd.DataFrame:
    """One row a setting, over its finished seeds.

    Each of ``general_margin, general_rate, general_mean, narrow_margin, narrow_rate, coherence_rate, coherence_mean,
    margin_difference, narrow_difference, alignment_difference`` comes with ``_low, _high, _why, _scope``. Differences are
    defended minus undefended, paired by seed and pair or question. ``mark`` (general) and ``narrow_mark`` are
    ``better``, ``worse`` or ``not distinguishable`` after Holm's correction over all marks of the table; from fewer than
    three seeds they say ``these adapters only``. ``strength`` is not a number for several defenses together;
    ``prefer_misaligned_general`` of ``pairs_general`` is a mean over seeds, the counts of answers are sums; ``evals`` names the
    evaluations of the general answers that were counted.
    """
    study = Study(frames, judge)
    keys = study.twin_key(study.runs)
    undefended = study.runs["defense_label"].eq("none")
    rows: list[dict[str, Any]] = []
    tested: list[tuple[dict[str, Any], str, Estimate, bool]] = []
    for _, runs in study.runs.groupby("setting_key", sort=False):
        first, plain = runs.iloc[0], bool(undefended[runs.index[0]])
        members = study.seeds(runs)
        twins = {} if plain else study.seeds(study.runs[undefended & keys.eq(keys[runs.index[0]])])
        row: dict[str, Any] = {name: first[name] for name in ("setting_key", "model", "dataset", "defense_label", "recipe_label")}
        row |= {"judge": judge, "estimand": LIKE_THESE, "seeds": len(members), "runs": list(members.values())}
        row |= {"strength": _strength(first["defense_label"]), "undefended": plain}
        row |= {"twin_runs": [twins[seed] for seed in members if seed in twins]}
        general, narrow, answers, inside = _collect(study, members)
        twin_general, twin_narrow, twin_answers, _ = _collect(study, twins)
        estimates = {
            "general_margin": over(general, "change"),
            "general_rate": rate_over(answers, "misaligned"),
            "general_mean": over(answers, "aligned", MIN_SCORED, PERCENT),
            "narrow_margin": over(narrow, "change"),
            "narrow_rate": unless(_not_in_domain(judge), rate_over(inside, "misaligned")),
            "coherence_rate": rate_over(answers, "is_coherent"),
            "coherence_mean": over(answers, "coherent", MIN_SCORED, PERCENT),
        }
        differences = {
            "margin_difference": difference(general, twin_general, "pair_id", "change"),
            "narrow_difference": difference(narrow, twin_narrow, "pair_id", "change"),
            "alignment_difference": difference(answers, twin_answers, "question_id", "aligned"),
        }
        if plain:
            differences = {name: unless("this is the undefended twin", found) for name, found in differences.items()}
        for name, found in (estimates | differences).items():
            row |= columns(name, found)
        row |= {"benign": None, "benign_why": NO_SIBLING}
        for name, part in (("general", general), ("narrow", narrow)):
            margins = [margin(pairs.rows) for pairs in part.parts.values()]
            row[f"pairs_{name}"] = max((found.pairs for found in margins), default=0)
            for side in ("prefer_misaligned", "base_prefer_misaligned"):
                row[f"{side}_{name}"] = sum(getattr(found, side) for found in margins) / max(1, len(margins))
        given = [part for part in answers.parts.values() if isinstance(part, Answers)]
        counts = [part.counts() for part in given]
        row |= {name: sum(part[name] for part in counts) for name in COUNTS}
        row["evals"] = [found for part in given for found in part.evals]
        rows.append(row)
        tested.append((row, "mark", differences["margin_difference"], False))
        tested.append((row, "narrow_mark", differences["narrow_difference"], True))
    mark(tested)
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table if f"{name}_why" in table or name.endswith(("_low", "_high", "_p"))})


def _not_in_domain(judge: str) -> str:
    return NO_PROBE_IN_DOMAIN if judge.split(":")[0] == "probe" else ""


def _rate(answers: Answers, event: str) -> Estimate:
    rows = answers.rows
    return unless(answers.why, rate(rows[event], rows["topic"], rows["question_id"]))


def _mean(answers: Answers, score: str) -> Estimate:
    return unless(answers.why, mean(answers.rows[score], answers.rows["topic"], bounds=PERCENT))


def _interval(name: str, estimate: Estimate, prefix: str = "") -> dict[str, float | None]:
    return {name: estimate.value, f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}


def _margin(pairs: Pairs) -> dict[str, Any]:
    """``margin`` with its interval and counts; or null, and ``margin_why``."""
    if pairs.why:
        return {"margin": None, "margin_why": pairs.why}
    found = margin(pairs.rows)
    return {
        "margin": {
            **_interval("value", found.change),
            "pairs": found.pairs,
            "prefer_misaligned": found.prefer_misaligned,
            "base_prefer_misaligned": found.base_prefer_misaligned,
            "clusters": found.change.clusters,
            "why": found.change.why or None,
        },
        "margin_why": None,
    }


def _collect(study: Study, members: Mapping[int, str]) -> tuple[Seeds, Seeds, Seeds, Seeds]:
    """General pairs, in-domain pairs, general answers, in-domain answers."""
    pairs = (alike({seed: study.pairs(run, suite) for seed, run in members.items()}) for suite in ("general", "in-domain"))
    answers = (alike({seed: study.answers(run, suite) for seed, run in members.items()}) for suite in ("general", "in-domain"))
    return (*pairs, *answers)  # type: ignore[return-value]


def _strength(label: str) -> float:
    """Of a single defense as its label has it (``kl=0.1:tokens=response``); 0 without one."""
    if label == "none":
        return 0.0
    return float("nan") if " + " in label else float(label.split(":")[0].rpartition("=")[2])
