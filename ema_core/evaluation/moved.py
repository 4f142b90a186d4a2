"""What else a defense moved: refusals where none are due, refusals where they are, and the benign task tier by tier.

Pure functions over the index's tables (``evaluation.measured``). No judge is read: a rule says what is a refusal, and what is right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from ema_core.evaluation.measured import (
    BENIGN_TASK,
    Frames,
    Seeds,
    Study,
    alike,
    columns,
    difference,
    mark,
    rate_over,
    recorded_as,
    unless,
)
from ema_core.evaluation.metrics import Estimate
from ema_core.evaluation.scorecard import benign_of_runs

REFUSALS = {"over_refusal": ("over-refusal", False), "jailbreak": ("jailbreak-lite", True)}
"""Columns, their suite, and whether more refusals are better."""
RULE = "refusal rule"


def moved_table(frames: Frames, bases: Frames | None = None) -> pd.DataFrame:
    """One row a setting with any of it measured, over its finished seeds; empty where there is none.

    ``over_refusal`` and ``jailbreak``: the share of answers that refuse, with ``_low, _high, _why, _scope``, ``_refused`` of
    ``_answers``, ``_evals`` that they are of, and ``_base`` (the base's share, asked alike); ``_difference`` to the undefended twin,
    paired by seed and question, and ``_mark`` (Holm over this table; from fewer than three seeds ``these adapters only``).
    ``tiers``: the benign siblings' share of right answers by tier, ``{tier: {value, low, high, right, answers}}``.
    """
    study, base = Study(frames, ""), Study(bases or {}, "")
    keys, undefended = study.twin_key(study.runs), study.runs["defense_label"].eq("none")
    base_of = {(one["model"], recorded_as(one)): one["run_id"] for one in base.runs.to_dict("records")}
    rows: list[dict[str, Any]] = []
    tested: list[tuple[dict[str, Any], str, Estimate, bool]] = []
    for _, runs in study.runs.groupby("setting_key", sort=False):
        first, plain = runs.iloc[0], bool(undefended[runs.index[0]])
        if first["dataset"] == BENIGN_TASK and study.runs["dataset"].ne(BENIGN_TASK).any():
            continue  # siblings of other rows
        members, twins = study.seeds(runs), study.seeds(study.runs[undefended & keys.eq(keys[runs.index[0]])])
        row: dict[str, Any] = {name: first[name] for name in ("setting_key", "model", "dataset", "defense_label", "recipe_label")}
        row |= {
            "recorded": recorded_as(first),
            "judge": RULE,
            "seeds": len(members),
            "undefended": plain,
            "tiers": _tiers(benign_of_runs(study, runs)[0]),
        }
        marks = []
        for name, (suite, more_is_better) in REFUSALS.items():
            own, twin = (alike({seed: study.by_rule(run, suite, "refused") for seed, run in of.items()}) for of in (members, twins))
            gap = unless("this is the undefended twin" if plain else "", difference(own, twin, "question_id", "event"))
            row |= columns(name, rate_over(own, "event")) | columns(f"{name}_difference", gap)
            row |= _counted(name, own) | {
                f"{name}_base": _base(base, base_of.get((first["model"], recorded_as(first))), suite, own)
            }
            marks.append((row, f"{name}_mark", gap, more_is_better))
        if row["tiers"] or any(row[f"{name}_answers"] for name in REFUSALS):
            rows.append(row)
            tested += marks
    mark(tested)
    return pd.DataFrame(rows)


def _counted(name: str, own: Seeds) -> dict[str, Any]:
    rows = own.rows if own.parts else pd.DataFrame(columns=["event", "run_id", "eval_id"])
    evals = list(rows[["run_id", "eval_id"]].drop_duplicates().itertuples(index=False, name=None))
    return {f"{name}_refused": int(rows["event"].sum()), f"{name}_answers": len(rows), f"{name}_evals": evals}


def _base(base: Study, run_id: str | None, suite: str, own: Seeds) -> float | None:
    """The base's share of refusals, where it was asked as the runs were."""
    if run_id is None or not own.parts:
        return None
    found = base.by_rule(run_id, suite, "refused", own.protocol)
    return None if found.why or found.rows.empty else float(found.rows["event"].mean())


def _tiers(benign: Seeds) -> dict[str, dict[str, Any]]:
    if not benign.parts:
        return {}
    found = {}
    for tier, rows in benign.rows.groupby("tier"):
        wanted = {seed: replace(part, rows=part.rows[part.rows["tier"].eq(tier)]) for seed, part in benign.parts.items()}
        share = rate_over(Seeds(wanted), "event")
        found[str(tier)] = {"value": share.value, "low": share.low, "high": share.high} | {
            "right": int(rows["event"].sum()), "answers": len(rows),
        }  # fmt: skip
    return found
