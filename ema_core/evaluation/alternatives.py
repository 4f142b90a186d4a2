"""The cheap alternatives to a defense: the undefended run stopped earlier, or its adapter scaled down."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd

from ema_core.evaluation.measured import Answers, Frames, Pairs, Seeds, Study, alike, nothing, over
from ema_core.evaluation.metrics import Estimate, over_seeds

SUITES = {"general": "general", "narrow": "in-domain"}
Place = tuple[str, float]
Points = dict[Place, dict[str, dict[int, Answers | Pairs]]]
"""By (kind, value): the pairs of each suite, by seed. ``kind`` is ``checkpoint`` (value: step) or ``scale`` (value: strength)."""


def undefended_curve(frames: Frames, setting_key: str) -> pd.DataFrame:
    """Margins of the undefended twin's checkpoints and of its adapter scaled down: what stopping earlier would give.

    A row a point: ``kind`` (``checkpoint`` or ``scale``), ``value`` (step or strength), ``general_margin``, ``narrow_margin``,
    each with ``_low, _high``, and ``seeds``. Both kinds end with the final adapter. No judge is read.
    """
    names = ["kind", "value", "seeds"] + [f"{name}_margin{end}" for name in SUITES for end in ("", "_low", "_high")]
    study = Study(frames, "")
    keys = study.twin_key(study.runs)
    asked = study.runs["setting_key"].eq(setting_key)
    if not asked.any():
        return pd.DataFrame(columns=names)
    rows = []
    points = curve_points(study, study.runs[study.runs["defense_label"].eq("none") & keys.eq(keys[asked].iloc[0])])
    for (kind, value), suites in sorted(item for item in points.items() if item[0][1] > 0):
        row: dict[str, Any] = {"kind": kind, "value": value, "seeds": max(len(found) for found in suites.values())}
        for name, suite in SUITES.items():
            found = over(alike(suites.get(suite, {})), "change")
            row |= {f"{name}_margin": found.value, f"{name}_margin_low": found.low, f"{name}_margin_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=names).astype({name: float for name in names if "margin" in name})


def curve_points(study: Study, runs: pd.DataFrame) -> Points:
    """All that was measured of the undefended ``runs`` (rows of one model, data set and recipe) along both curves."""
    members = study.seeds(runs)
    last = dict(zip(runs["run_id"], runs["step"].astype(float), strict=True))
    points: Points = {}
    for seed, run_id in members.items():
        for suite in SUITES.values():
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
    return points


def against_stopping(general: Seeds, narrow: Seeds, points: Points) -> tuple[Estimate, str]:
    """The setting's general margin minus that of the cheap alternative which learned as much of the narrow behaviour.

    The alternative is read off the curve pair by pair, between the two measured states (or the base, which is 0) around the
    setting's narrow margin; where the setting learned more than the whole curve, off its end. Of the two kinds the harder one to
    beat; its name is returned beside. The place on the curve is taken as known: its own uncertainty is not in the interval.
    """
    own = {seed: _changes(part) for seed, part in general.parts.items() if seed in narrow.parts}
    inside = {seed: float(_changes(narrow.parts[seed]).mean()) for seed in own}
    topics = {seed: general.parts[seed].topics["pair_id"] for seed in own}
    best: tuple[Estimate, str] | None = None
    for kind in ("checkpoint", "scale"):
        found = []
        for seed, changes in own.items():
            if (instead := _at(points, kind, seed, inside[seed], general.parts[seed].protocol)) is None:
                continue
            gap = (changes - instead).dropna()
            found.append(pd.DataFrame({"gap": gap, "topic": topics[seed].reindex(gap.index), "seed_of": seed}))
        if not found:
            continue
        rows = pd.concat(found)
        estimate = over_seeds(rows["gap"], rows["topic"], rows["seed_of"])
        if best is None or cast(float, estimate.value) > cast(float, best[0].value):
            best = estimate, kind
    why = general.why or narrow.why or "the undefended run's checkpoints and scaled adapters were not measured"
    return best or (nothing(why), "")


def _at(points: Points, kind: str, seed: int, narrow: float, protocol: tuple[Any, ...]) -> pd.Series | None:
    """General changes by pair where the curve of one seed reaches ``narrow``; None where it has no state short of the final one."""
    states = []
    for (which, value), suites in points.items():
        outside, inside = suites.get("general", {}).get(seed), suites.get("in-domain", {}).get(seed)
        if which == kind and outside is not None and inside is not None and outside.protocol == protocol:
            states.append((value, float(_changes(inside).mean()), _changes(outside)))
    if len(states) < 2:
        return None
    states.sort(key=lambda state: state[0])
    path = [(0.0, states[0][2] * 0.0), *((inside, outside) for _, inside, outside in states)]
    reached = []
    for (x0, y0), (x1, y1) in pairwise(path):
        if min(x0, x1) <= narrow <= max(x0, x1) and x0 != x1:
            reached.append(y0 + (narrow - x0) / (x1 - x0) * (y1 - y0))
    if not reached:
        return max(path, key=lambda state: state[0])[1] if narrow > 0 else path[0][1]
    return min(reached, key=lambda outside: float(np.mean(outside)))


def _changes(part: Answers | Pairs) -> pd.Series:
    return part.averaged("pair_id", "change")
