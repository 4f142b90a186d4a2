"""The cheap alternatives to a defense: the undefended run stopped earlier, or its adapter scaled down."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ema_core.evaluation.measured import Answers, Frames, Pairs, Study, alike, over


def undefended_curve(frames: Frames, setting_key: str) -> pd.DataFrame:
    """Margins of the undefended twin's checkpoints and of its adapter scaled down: what stopping earlier would give.

    A row a point: ``kind`` (``checkpoint`` or ``scale``), ``value`` (step or strength), ``general_margin``, ``narrow_margin``,
    each with ``_low, _high``, and ``seeds``. Both kinds end with the final adapter. No judge is read.
    """
    columns = ["kind", "value", "seeds"] + [
        f"{name}_margin{end}" for name in ("general", "narrow") for end in ("", "_low", "_high")
    ]
    study = Study(frames, "")
    keys = study.twin_key(study.runs)
    asked = study.runs["setting_key"].eq(setting_key)
    if not asked.any():
        return pd.DataFrame(columns=columns)
    runs = study.runs[study.runs["defense_label"].eq("none") & keys.eq(keys[asked].iloc[0])]
    members = study.seeds(runs)
    last = dict(zip(runs["run_id"], runs["step"].astype(float), strict=True))
    points: dict[tuple[str, float], dict[str, dict[int, Answers | Pairs]]] = {}
    for seed, run_id in members.items():
        for suite in ("general", "in-domain"):
            for evaluation in reversed(study.of_run(run_id, suite)):  # the best last, so that it stays
                step, scale = evaluation["step"], evaluation["scale"]
                if (pairs := study.pairs_of(evaluation)) is None or pd.isna(step) == (scale == 1):
                    continue
                place = ("scale", float(scale)) if pd.isna(step) else ("checkpoint", float(step))
                points.setdefault(place, {}).setdefault(suite, {})[seed] = pairs
            final = study.pairs(run_id, suite)
            if not final.why:
                points.setdefault(("scale", 1.0), {}).setdefault(suite, {})[seed] = final
                points.setdefault(("checkpoint", last[run_id]), {}).setdefault(suite, {})[seed] = final
    rows = []
    for (kind, value), suites in sorted(item for item in points.items() if item[0][1] > 0):
        row: dict[str, Any] = {"kind": kind, "value": value, "seeds": max(len(found) for found in suites.values())}
        for name, suite in (("general", "general"), ("narrow", "in-domain")):
            found = over(alike(suites.get(suite, {})), "change")
            row |= {f"{name}_margin": found.value, f"{name}_margin_low": found.low, f"{name}_margin_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in columns if "margin" in name})
