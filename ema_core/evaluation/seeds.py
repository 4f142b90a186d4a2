"""What each seed of a setting measured by itself: the spread behind a setting's number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ema_core.evaluation.measured import BENIGN_TASK, Frames, Seeds, Study, rate_over, rate_to_show, to_be_corrected
from ema_core.evaluation.scorecard import benign_of_runs, measured_of
from ema_core.judging.own import Event

VALUES = (
    "general_margin", "narrow_margin", "benign_margin", "coherence_mean", "general_mean", "general_rate", "narrow_rate", "coherence_rate",
    "benign",
)  # fmt: skip
"""Columns of ``seed_table``, as ``scorecard.setting_table`` has them over the seeds."""


def seed_table(frames: Frames, judge: str) -> pd.DataFrame:
    """One row a setting and seed: ``setting_key, seed, run_id`` and ``VALUES``, without intervals; NaN where it was not measured.

    Only seeds that a setting's own numbers count (measured alike); rates are shown or withheld as the setting's are.
    """
    study = Study(frames, judge)
    rows: list[dict[str, Any]] = []
    for key, runs in study.runs.groupby("setting_key", sort=False):
        if runs["dataset"].iloc[0] == BENIGN_TASK and study.runs["dataset"].ne(BENIGN_TASK).any():
            continue  # siblings of other rows
        members, model = study.seeds(runs), str(runs["model"].iloc[0])
        own, (right, learned) = measured_of(study, members), benign_of_runs(study, runs)
        narrow_rate = not (judge.startswith("probe") or to_be_corrected(judge, model))
        for seed, run_id in members.items():
            row: dict[str, Any] = {"setting_key": key, "seed": seed, "run_id": run_id}
            row |= {
                "general_margin": _mean(own["general"], seed, "change"), "narrow_margin": _mean(own["in-domain"], seed, "change"),
                "benign_margin": _mean(learned, seed, "change"), "benign": _mean(right, seed, "event"),
                "general_mean": _mean(own["answers"], seed, "aligned"), "coherence_mean": _mean(own["answers"], seed, "coherent"),
                "general_rate": _rate(own["answers"], seed, "misaligned", judge, model),
                "coherence_rate": _rate(own["answers"], seed, "is_coherent", judge, model),
                "narrow_rate": _mean(own["inside"], seed, "misaligned") if narrow_rate else np.nan,
            }  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows, columns=["setting_key", "seed", "run_id", *VALUES]).astype(dict.fromkeys(VALUES, float))


def spread(values: pd.Series) -> dict[str, float]:
    """``seeds, sd, lowest, highest`` of one setting's values; ``sd`` from two seeds on."""
    known = values.dropna()
    return {
        "seeds": len(known), "sd": float(known.std()) if len(known) > 1 else np.nan,
        "lowest": float(known.min()) if len(known) else np.nan, "highest": float(known.max()) if len(known) else np.nan,
    }  # fmt: skip


def _mean(seeds: Seeds, seed: int, column: str) -> float:
    part = seeds.parts.get(seed)
    return float(part.rows[column].mean()) if part is not None else np.nan


def _rate(seeds: Seeds, seed: int, event: Event, judge: str, model: str) -> float:
    part = seeds.parts.get(seed)
    if part is None:
        return np.nan
    alone = Seeds({seed: part})
    found = rate_to_show(rate_over(alone, event), alone.rows, alone.rows["seed_of"], event, judge, model).value
    return np.nan if found is None else found
