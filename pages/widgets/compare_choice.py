"""What Compare compares: runs by filters or one by one, and the one judge whose scores are shown."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.measured import BENIGN_TASK, with_twins
from ema_core.judging import resolve
from pages.widgets import criteria
from pages.widgets.answer_data import judges_of
from pages.widgets.chrome import by_user, plain, reader
from pages.widgets.index import Version
from pages.widgets.recorded import recorded_note
from pages.widgets.run_picker import pick_runs


def choose(runs: pd.DataFrame, imports: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs that are compared: by data set, model, preset and setting, or single ones with their undefended twins. Imported runs
    stand beside them where they are asked for by name."""
    done = runs[runs["status"] == "done"]
    single = st.session_state.get("compare-chosen") or st.query_params.get_all("run")
    if done.empty:
        return done, tuple(pick_runs("Imported runs", key="compare", only=lambda _: False, also=imports))
    kept = of_origin(done, bool(single))
    with st.expander("Choose what is compared", expanded=bool(single), icon=":material/tune:", key="compare-choice"):
        kept = _filtered(kept, bool(single))
        picked = pick_runs(
            "Only these runs, and their undefended twins", key="compare", help="Empty: all runs of the filters above.", also=imports
        )
    if picked:
        return with_twins(runs[runs["run_id"].isin(picked)], done), tuple(one for one in picked if one in imports)
    of = " · ".join(", ".join(sorted(kept[column].unique())) for column in ("dataset", "model"))
    settings = kept["setting_key"].nunique()
    st.caption(
        f"Shown: {plain(of)} · {settings} setting{'s' if settings != 1 else ''}, {len(kept)} run{'s' if len(kept) != 1 else ''}"
    )
    return kept, ()


def _filtered(done: pd.DataFrame, single: bool) -> pd.DataFrame:
    """What fits the filters; where single runs are chosen they rest."""
    why = "Single runs are chosen below; clear them to use this filter." if single else None
    with st.container(horizontal=True, key="compare-filters"):
        newest = _newest(done)
        kept = done
        for title, column, default in (("Data set", "dataset", [newest]), ("Model", "model", None), ("Preset", "preset", None)):
            wanted = st.multiselect(
                title, sorted(done[column].unique()), default=default, key=column, bind="query-params", placeholder="all",
                disabled=single, help=why, width=300, on_change=_filters_changed, select_all=False,
            )  # fmt: skip
            if wanted:
                kept = kept[kept[column].isin(wanted)]
    kept = with_tags(kept, single, why)
    if kept.empty and not single:
        st.info("No finished run fits these filters; all data sets are shown.", icon=":material/filter_alt_off:")
        kept = done
    found = kept.drop_duplicates("setting_key")
    labels = criteria.one_line(found)
    wanted = st.multiselect(
        "Settings", list(criteria.in_order(found)["setting_key"]), format_func=lambda key: labels.get(key, key), key="setting",
        placeholder=f"all {len(labels)}", disabled=single, help=why or "Their undefended twins stay beside them.", select_all=False,
        bind="query-params",
    )  # fmt: skip
    return with_twins(kept[kept["setting_key"].isin(wanted)], done) if wanted else kept


def _newest(done: pd.DataFrame) -> str:
    """The data set of the newest run; siblings on the benign task are shown as the third criterion of the runs that they belong to."""
    known = done.sort_values("created")["dataset"]
    narrow = known[known.ne(BENIGN_TASK)]
    return str((known if narrow.empty else narrow).iloc[-1])


def of_origin(done: pd.DataFrame, single: bool) -> pd.DataFrame:
    """One's own runs, or those of one recorded study: they share no setting, twin or figure. Single runs may be anybody's."""
    known = sorted(done["origin"].unique())
    chosen = known[0]
    if len(known) > 1:
        default = "own" if _evaluated(done) else next(one for one in known if one != "own")
        chosen = st.segmented_control(
            "Whose runs", known, default=default, required=True, key="origin", bind="query-params", disabled=single,
            help="Single runs are chosen below; clear them to choose here." if single else None, on_change=_filters_changed,
        )  # fmt: skip
    if single:
        return done
    if chosen != "own":
        recorded_note([chosen.removeprefix("recorded: ")])
    return done[done["origin"].eq(chosen)]


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
