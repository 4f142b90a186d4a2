"""The tables behind Compare, reckoned once for a choice of runs, a judge and what the index holds of them."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import streamlit as st

from ema_core.evaluation.alternatives import undefended_curve
from ema_core.evaluation.by_question import question_table
from ema_core.evaluation.cost import provider_cost
from ema_core.evaluation.measured import BENIGN_TASK, judge_of
from ema_core.evaluation.moved import moved_table
from ema_core.evaluation.recommend import Recommendation, recommend
from ema_core.evaluation.scorecard import setting_table
from ema_core.evaluation.seeds import seed_table
from ema_core.figures import PENALTIES, PROBED, Measure, Quantity, curves_data, trade_off, trade_off_data, training_curves
from ema_core.store.rows import NOT_STATED
from pages.widgets import criteria
from pages.widgets.chrome import reader

Settled = tuple[str, str]
"""A cache key: ``Reader.settled_version`` of an index."""
TWIN = ["model", "dataset", "recipe_label"]
"""What a setting shares with its undefended twin."""


@st.cache_data(show_spinner=False, max_entries=8)
def scores(run_ids: tuple[str, ...], judge: str, version: Settled) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The settings and the runs with their criteria."""
    frames = reader().frames(run_ids, with_siblings=True)
    of_runs = criteria.criteria_of_runs({name: frame[frame["run_id"].isin(run_ids)] for name, frame in frames.items()}, judge)
    done = set(frames["runs"].loc[frames["runs"]["status"] == "done", "run_id"])
    settings = setting_table({name: frame[frame["run_id"].isin(done)] for name, frame in frames.items()}, judge)
    if settings.empty:
        return settings, of_runs
    known = settings["runs"].where(settings["defense_label"].ne(NOT_STATED))
    cost = pd.DataFrame([provider_cost(runs if isinstance(runs, list) else []) for runs in known], index=settings.index)
    return criteria.in_order(settings.join(cost)), of_runs


@st.cache_data(show_spinner=False, max_entries=8)
def seeds_of(run_ids: tuple[str, ...], judge: str, version: Settled) -> pd.DataFrame:
    """What each seed of the settings measured by itself."""
    frames = reader().frames(run_ids, with_siblings=True)
    done = set(frames["runs"].loc[frames["runs"]["status"] == "done", "run_id"])
    return seed_table({name: frame[frame["run_id"].isin(done)] for name, frame in frames.items()}, judge)


@st.cache_data(show_spinner=False, max_entries=32)
def by_question(setting_key: str, measure: str, run_ids: tuple[str, ...], judge: str, version: Settled) -> pd.DataFrame:
    """One setting against its undefended twin, topic by topic."""
    return question_table(reader().frames(run_ids), judge, setting_key, measure)


@st.cache_data(show_spinner=False, max_entries=8)
def moved_of(run_ids: tuple[str, ...], version: Settled) -> pd.DataFrame:
    """What else the defenses moved, the bases' shares beside it."""
    frames = reader().frames(run_ids, with_siblings=True)
    return moved_table(frames, reader().frames(reader().base_ids()))


@st.cache_data(show_spinner=False, max_entries=16)
def recommended(defense: str, keys: tuple[str, ...], run_ids: tuple[str, ...], keep: float, version: Settled) -> Recommendation:
    """Which strength to take, among these settings."""
    frames = reader().frames(run_ids, with_siblings=True)
    done = set(frames["runs"].loc[frames["runs"]["status"] == "done", "run_id"])
    own = frames["runs"][frames["runs"]["setting_key"].isin(keys) | frames["runs"]["dataset"].eq(BENIGN_TASK)]
    ids = done & set(own["run_id"])
    return recommend({name: frame[frame["run_id"].isin(ids)] for name, frame in frames.items()}, defense, keys, keep)


@st.cache_data(show_spinner=False, max_entries=16)
def alternatives(setting_key: str, run_ids: tuple[str, ...], version: Settled) -> pd.DataFrame:
    """The undefended run's checkpoints and scaled adapters."""
    return undefended_curve(reader().frames(run_ids), setting_key)


@st.cache_data(show_spinner=False, max_entries=16)
def traded(
    _rows: pd.DataFrame,
    keys: tuple[str, ...],
    run_ids: tuple[str, ...],
    judge: str,
    measure: Measure,
    published: pd.DataFrame | None,
    version: Settled,
) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """The trade-off of the settings ``keys``, which ``_rows`` holds; the table that it draws, and the cheap alternatives."""
    curve = alternatives(keys[0], run_ids, version)
    return trade_off(_rows, curve, measure, published), trade_off_data(_rows, curve, measure, published), curve


@st.cache_data(show_spinner=False, max_entries=8)
def imported_scores(run_ids: tuple[str, ...], judge: str, version: Settled) -> pd.DataFrame:
    """Each imported run by the chosen judge where that judged it, else by the one that it came with."""
    parts = [criteria.criteria_of_runs(reader().frames([run_id]), judge_of(reader().judges([run_id]), judge)) for run_id in run_ids]
    return pd.concat(parts, ignore_index=True)


@st.cache_data(show_spinner=False, max_entries=8)
def drawn(run_ids: tuple[str, ...], quantity: str, smoothing: float, version: Settled) -> dict[str, tuple[Any, pd.DataFrame]]:
    """The figure of one quantity with the table that it draws; of projections one a vector."""
    probed = quantity in PROBED
    steps = reader().probes(run_ids) if probed else reader().steps(run_ids)
    penalties = reader().penalties(run_ids) if quantity in PENALTIES else None
    parts = {"": steps}
    if quantity == "projection" and steps["projection"].notna().any():  # two vectors are two axes
        parts = dict(iter(steps[steps["projection"].notna()].groupby("trait")))
    weight, raw = 0 if probed else smoothing, len(run_ids) <= 6
    found = {}
    for trait, part in parts.items():
        given = (part, penalties, cast(Quantity, quantity), weight)
        found[trait] = (training_curves(*given, raw=raw), curves_data(*given))
    return found
