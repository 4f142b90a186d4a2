"""What Compare compares: runs by filters or one by one, and the one judge whose scores are shown."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.measured import with_twins
from ema_core.judging import resolve
from pages.widgets import criteria
from pages.widgets.answer_data import judges_of
from pages.widgets.chrome import by_user, reader
from pages.widgets.index import Version
from pages.widgets.recorded import recorded_note
from pages.widgets.run_picker import pick_runs


def choose(runs: pd.DataFrame, imports: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs that are compared: by data set, model, preset and setting, or single ones with their undefended twins. Imported runs
    stand beside them where they are asked for by name."""
    done = runs[runs["status"] == "done"]
    single = st.session_state.get("compare-chosen") or st.query_params.get_all("run")
    why = "Single runs are chosen below; clear them to use this filter." if single else None
    if done.empty:
        return done, tuple(pick_runs("Imported runs", key="compare", only=lambda _: False, also=imports))
    every, done = done, of_origin(done, bool(single), why)
    with st.container(horizontal=True, key="compare-filters"):
        newest = str(done.sort_values("created")["dataset"].iloc[-1])
        kept = done
        for title, column, default in (("Data set", "dataset", [newest]), ("Model", "model", None), ("Preset", "preset", None)):
            options = sorted(done[column].unique())
            wanted = st.multiselect(
                title,
                options,
                default=default,
                key=column,
                bind="query-params",
                placeholder="all",
                disabled=bool(single),
                help=why,
                width=300,
                on_change=_filters_changed,
                select_all=False,
            )
            if wanted:
                kept = kept[kept[column].isin(wanted)]
    kept = with_tags(kept, bool(single), why)
    if kept.empty and not single:
        st.info("No finished run fits these filters; all data sets are shown.", icon=":material/filter_alt_off:")
        kept = done
    found = kept.drop_duplicates("setting_key")
    labels = criteria.one_line(found)
    wanted = st.multiselect(
        "Settings",
        list(criteria.in_order(found)["setting_key"]),
        format_func=lambda key: labels.get(key, key),
        key="setting",
        placeholder=f"all {len(labels)}",
        disabled=bool(single),
        help=why or "Their undefended twins stay beside them.",
        select_all=False,
        bind="query-params",
    )
    with st.expander("Single runs", expanded=bool(single), key="compare-single"):
        picked = pick_runs(
            "Only these runs, and their undefended twins", key="compare", help="Empty: all runs of the filters above.", also=imports
        )
    if picked:
        return with_twins(runs[runs["run_id"].isin(picked)], every), tuple(one for one in picked if one in imports)
    return (with_twins(kept[kept["setting_key"].isin(wanted)], done) if wanted else kept), ()


def of_origin(done: pd.DataFrame, single: bool, why: str | None) -> pd.DataFrame:
    """One's own runs, or those of a recorded study; both only where both are asked for. They share no setting, twin or figure."""
    known = sorted(done["origin"].unique())
    chosen = known
    if len(known) > 1:
        default = ["own"] if _evaluated(done) else [one for one in known if one != "own"][:1]
        chosen = st.pills(
            "Whose runs", known, selection_mode="multi", default=default, key="origin", bind="query-params",
            disabled=single, help=why, on_change=_filters_changed,
        ) or known  # fmt: skip
    if studies := [one.removeprefix("recorded: ") for one in chosen if one != "own"]:
        recorded_note([] if single else studies)
    return done[done["origin"].isin(chosen)] if not single else done


def _evaluated(done: pd.DataFrame) -> bool:
    """Is there a run of one's own to compare? One that waits for its evaluation would open an empty scorecard over the recorded one."""
    own = list(done.loc[done["origin"].eq("own"), "run_id"])
    return bool(own) and not reader().evals(own).empty


def with_tags(rows: pd.DataFrame, single: bool, why: str | None) -> pd.DataFrame:
    """Runs with all tags of a filter, which stands there once a run has one; their undefended twins stay beside them."""
    has = rows["tags"].map(lambda text: set(json.loads(text)) if isinstance(text, str) else set())
    known = sorted(set().union(*has), key=str.casefold)
    if not known:
        return rows
    wanted = st.pills(
        "Only runs with the tag", known, selection_mode="multi", key="run-tag", bind="query-params", disabled=single,
        on_change=_filters_changed, help=why or "Their undefended twins stay beside them. Tags are given on Fine-tune, beside a run.",
    )  # fmt: skip
    return with_twins(rows[has.map(lambda tags: set(wanted) <= tags)], rows) if wanted and not single else rows


@by_user
def _filters_changed() -> None:
    st.session_state["setting"] = []


def pick_judge(run_ids: tuple[str, ...], version: Version) -> str:
    """The one judge whose scores are shown; a choice only where there are several."""
    counts = judges_of(run_ids, version)
    judges = list(counts)
    if len(judges) > 1:
        most = judges.index(max(judges, key=lambda judge: counts[judge]))
        return st.selectbox(
            "Judge", judges, most, key="judge", bind="query-params", help="Scores of two judges never share a table or an axis."
        )
    if judges:
        return judges[0]
    try:
        return resolve("probe")
    except EmaError:
        return "probe"
