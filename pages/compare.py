"""Compare: settings by the four criteria, what strength does, the trade-off over the cheap alternatives, curves, runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
import streamlit as st

from ema_core.defenses.registry import all_defenses
from ema_core.defenses.safe_lora import SUBSTITUTE_LABEL, SUBSTITUTE_NOTE
from ema_core.errors import EmaError
from ema_core.evaluation.alternatives import undefended_curve
from ema_core.evaluation.cost import provider_cost
from ema_core.evaluation.measured import BENIGN_TASK, judge_of
from ema_core.evaluation.moved import moved_table
from ema_core.evaluation.recommend import KEEP, Recommendation, alone, recommend
from ema_core.evaluation.scorecard import IMPORTED, setting_table
from ema_core.figures import CRITERIA, PROBED, QUANTITIES, Quantity, strength_curve, trade_off, training_curves
from ema_core.judging import own, resolve
from ema_core.store import evaluation_key, export_csv
from ema_core.store.rows import NOT_STATED
from pages.widgets import criteria
from pages.widgets.answer_data import judges_of
from pages.widgets.answer_links import address
from pages.widgets.chrome import errors, header, plain, reader
from pages.widgets.index import Version, up_to_date
from pages.widgets.moved import moved_part
from pages.widgets.run_picker import newest_first, pick_runs, run_info

LEAD = """What is compared is a *setting*: model, data, defense and recipe, over its seeds, beside its undefended twin. \
No defense is shown by one number alone."""
HONEST = """The embedded model shows the **mechanism and the price** of a defense, not the numbers of a 7B model. The margin \
leads: no sampling and no judge stand between it and the model. Rates follow, by a teaching judge, whose coherence scores say \
little about so small a model: read its answers. One seed speaks of these adapters only."""
PAGE = 25
Settled = tuple[str, str]
"""A cache key: ``Reader.settled_version`` of an index."""
BARE = {"displaylogo": False}
TWIN = ["model", "dataset", "recipe_label"]


def page() -> None:
    header("Compare", LEAD)
    with errors():
        version = up_to_date()
        runs, imports = reader().runs(), reader().import_ids()
        if not runs["status"].eq("done").any() and not imports:
            nothing_yet(bool(newest_first()))
            return
        chosen, imported = choose(runs, imports)
        ids = tuple(chosen["run_id"])
        judge = pick_judge(ids or imported, version)
        version = (version[0], reader().settled_version([*ids, *imported]))  # so that nothing is reckoned anew while others train
        if imported:
            with errors():
                imported_part(imported, judge, version)
        if not ids:
            return
        with st.spinner("Reckoning intervals …", show_time=True):
            settings, of_runs = scores(ids, judge, version)
        st.caption(f"{HONEST} {plain(own.short(judge))}")
        if settings["defense_label"].str.contains(SUBSTITUTE_LABEL, regex=False).any():
            st.caption(SUBSTITUTE_NOTE)
        with errors():
            setting_part(settings, of_runs)
        with errors():
            figures_part(settings, ids, version)
        with errors():
            moved_part(moved_of(ids, version))
        with errors():
            curves_part(ids, version)
        with errors():
            runs_part(of_runs)


def nothing_yet(any_run: bool) -> None:
    if any_run:
        st.info("No run is done yet. Settings appear here when their runs have ended and were evaluated.", icon=":material/info:")
    else:
        st.info(
            "No run yet. Train an undefended run and one with a defense, evaluate both, and compare them here.",
            icon=":material/info:",
        )
    st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


def choose(runs: pd.DataFrame, imports: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs that are compared: by data set, model, preset and setting, or single ones with their undefended twins. Imported runs
    stand beside them where they are asked for by name."""
    done = runs[runs["status"] == "done"]
    single = st.session_state.get("compare-chosen") or st.query_params.get_all("run")
    why = "Single runs are chosen below; clear them to use this filter." if single else None
    if done.empty:
        return done, tuple(pick_runs("Imported runs", key="compare", only=lambda _: False, also=imports))
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
    if kept.empty and not single:
        st.info("No finished run fits these filters; all data sets are shown.", icon=":material/filter_alt_off:")
        kept = done
    found = kept.drop_duplicates("setting_key")
    labels = _labels(found)
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
        return _with_twins(runs[runs["run_id"].isin(picked)], done), tuple(one for one in picked if one in imports)
    return (_with_twins(kept[kept["setting_key"].isin(wanted)], done) if wanted else kept), ()


def _with_twins(rows: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """A defense is never shown without its undefended twin: same model, data, recipe and seed."""
    alike = ["model", "dataset", "recipe", "seed"]
    twins = done[done["defense_label"].eq("none")].merge(rows[alike].drop_duplicates(), on=alike)
    return pd.concat([rows, twins]).drop_duplicates("run_id").sort_values("run_id").reset_index(drop=True)


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


@st.cache_data(show_spinner=False, max_entries=8)
def imported_scores(run_ids: tuple[str, ...], judge: str, version: Settled) -> pd.DataFrame:
    """Each imported run by the chosen judge where that judged it, else by the one that it came with."""
    parts = [criteria.criteria_of_runs(reader().frames([run_id]), judge_of(reader().judges([run_id]), judge)) for run_id in run_ids]
    return pd.concat(parts, ignore_index=True)


def imported_part(run_ids: tuple[str, ...], judge: str, version: Settled) -> None:
    """Rates of imported answers, each with its judge; what needs the model itself cannot be had."""
    st.subheader("Imported runs", anchor=False)
    found = imported_scores(run_ids, judge, version)
    cells = criteria.run_cells(found)
    cells.insert(1, "Judge", found["judge"])
    cells["Run"] = [run_info(run_id).label for run_id in found["run_id"]]
    empty = [name for name in cells if "argin" in name or "Prefer" in name or name == "State" or cells[name].isna().all()]
    counts = [name for name in cells if name.endswith(", n") and ":" not in name]
    st.dataframe(
        cells.drop(columns=["run_id", "Why empty", *empty]),
        hide_index=True,
        key="imported-table",
        column_config={
            "Run": st.column_config.TextColumn("Run", width=260, pinned=True),
            **{name: st.column_config.NumberColumn(name, format="%.1f") for name in cells if f"{name}: interval, n" in cells},
            **{name: st.column_config.LinkColumn(name, display_text=r"#(\d+)$", width=100) for name in counts},
        },
    )
    why = "; ".join(dict.fromkeys(filter(None, found["general_why"])))
    st.caption(
        "Judged elsewhere: a row's scores are its judge's, and two judges' scores are not comparable. Margins, the narrow "
        f"behaviour and the benign task cannot be had: {plain(IMPORTED)}."
        + (f" Rates that are missing: {plain(why)}." if why else "")
    )


def setting_part(settings: pd.DataFrame, of_runs: pd.DataFrame) -> None:
    """The table of the four criteria, what it rests on, and the way to the answers behind it."""
    st.subheader("Settings", anchor=False)
    if settings.empty:
        st.info(
            "None of the chosen runs is done, so there is no setting to compare; the runs stand alone below.",
            icon=":material/info:",
        )
        return
    with st.container(key="settings-table"):
        pages = -(-len(settings) // PAGE)
        page = st.pagination(pages, key="settings-page") if pages > 1 else 1
        shown = settings.iloc[PAGE * (page - 1) : PAGE * page]
        st.table(criteria.setting_cells(shown), border="horizontal", hide_index=True)
    first = settings.iloc[0]
    if undone := int(of_runs["status"].ne("done").sum()):
        st.caption(f"{undone} of the chosen runs not done: in no setting, alone in the table of runs below.")
    st.caption(
        f"Brackets: 95 % intervals for **{first['estimand']}** (over topics; the forms of a question are one topic). General "
        f"answers and coherence: judge **{plain(first['judge'])}**. Margins: **margin (no judge)**. *Better* and *worse*: against "
        "the undefended twin, corrected for all marks of this table (Holm), from three seeds on. Numbers in link colour lead to the "
        "answers that they count."
    )
    with st.container(horizontal=True, vertical_alignment="bottom", key="setting-actions"):
        labels = _labels(settings)
        key = st.selectbox(
            "Look closer at", list(labels), format_func=lambda key: labels.get(key, key), key="look-closer", width=260
        )
        runs = list(of_runs.loc[of_runs["setting_key"] == key, "run_id"])
        for label, icon, page, query in (
            ("All its answers", "forum", "samples", {"setting": key, "judge": first["judge"]}),
            ("Its training curves", "show_chart", "fine_tune", {"run": runs, "part": "Runs"}),
            ("Inside its first run", "neurology", "inside", {"run": runs[:1]}),
        ):
            st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query)
        _csv(
            "Settings as CSV",
            settings.assign(
                evals=settings["evals"].map(_evals), **{name: settings[name].map(", ".join) for name in ("runs", "twin_runs")}
            ),
            "settings",
        )
    with st.expander("What the words mean"):
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in criteria.MEANINGS.items()))


def _labels(settings: pd.DataFrame) -> dict[str, str]:
    return {key: " · ".join(text) for key, text in criteria.setting_labels(settings).items()}


def figures_part(settings: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    """Strength curve and trade-off of one model, data set and recipe."""
    if settings.empty:
        return
    groups = settings.groupby(TWIN, sort=False).size().sort_values(ascending=False, kind="stable")
    group = groups.index[0]
    if len(groups) > 1:
        differ = [n for n in range(len(TWIN)) if settings[TWIN[n]].nunique() > 1]
        group = st.selectbox(
            "Figures of",
            list(groups.index),
            format_func=lambda names: " · ".join(names[n] for n in differ),
            key="figures-of",
            help="Margins of other data, models or recipes are not drawn on one axis.",
            width=420,
        )
    rows = settings[(settings[TWIN] == list(group)).all(axis=1)]
    st.subheader("What strength does", anchor=False)
    with errors():
        strength_part(rows, run_ids, version)
    st.subheader("Trade-off", anchor=False)
    with errors():
        curve = alternatives(rows["setting_key"].iloc[0], run_ids, version)
        st.plotly_chart(trade_off(rows, curve), theme="streamlit", key="trade-off", height=460, config=BARE)
        if not curve["kind"].duplicated().any():  # the final adapter alone
            st.caption(
                "The cheap alternatives are missing: evaluate the undefended run with its checkpoints and its scaled-down adapter. "
                "Without them nobody can tell a defense from stopping earlier."
            )
        else:
            seeds = int(curve["seeds"].max())
            st.caption(
                "A defense is worth something only **below** the grey curves: the undefended run stopped earlier, or its adapter "
                f"scaled down (mean of {seeds} seed{'s' if seeds > 1 else ''}). Both axes: margin (no judge)."
            )


def strength_part(rows: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    """One defense's line at a time, and which strength of it to take."""
    defended = rows.loc[~rows["undefended"] & rows["defense_label"].ne(NOT_STATED), "defense_label"]
    names = sorted({label.partition("=")[0] for label in defended if " + " not in label})
    if not names:
        st.info(
            "No defense with one strength among these settings. Train the same recipe with a defense, at two strengths or more.",
            icon=":material/tune:",
        )
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")
        return
    known = all_defenses()
    most = defended.str.partition("=")[0].value_counts()
    name = st.selectbox(
        "Defense",
        names,
        index=names.index(max(names, key=lambda one: most.get(one, 0))),
        format_func=lambda one: known[one].title if one in known else one,
        key="defense",
        bind="query-params",
        width=260,
    )
    shown = rows[
        rows["undefended"]
        | rows["defense_label"].str.partition("=")[0].eq(name) & ~rows["defense_label"].str.contains(" + ", regex=False)
    ]
    info = known[name].strength_info if name in known else None
    paper = {name: info.paper} if info and info.paper is not None else None
    for place, criterion in zip(st.columns(2), CRITERIA, strict=True):
        figure = strength_curve(shown, paper, [criterion])
        place.plotly_chart(figure, theme="streamlit", key=f"strength-{criterion}", height=440, config=BARE)
    meaning = f"Strength: {plain(info.meaning)}. " if info else ""
    st.caption(
        f"{meaning}Measure: margin (no judge), with 95 % intervals for questions like these; n and seeds stand under the figure."
    )
    recommend_part(name, rows, run_ids, version)


def recommend_part(name: str, rows: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    """The strength with the lowest leak that keeps enough, or that there is none."""
    keep = st.slider(
        "Recommend a strength that keeps at least this share of what the undefended twin learned, in %",
        50, 100, round(100 * KEEP), 5, key="keep", bind="query-params", width=480,
    )  # fmt: skip
    labels = sorted({alone(label) for label in rows["defense_label"] if alone(label).partition(":")[0] == name})
    for label in labels:
        found = recommended(label, tuple(rows["setting_key"]), run_ids, keep / 100, version)
        with st.container(border=True, key=f"recommended-{labels.index(label)}"):
            st.markdown(criteria.recommendation(found))
            if found.candidates:
                st.table(criteria.candidate_cells(found), border="horizontal", hide_index=True)


@st.fragment
def curves_part(run_ids: Sequence[str], version: Settled) -> None:
    """Training curves of the same runs, overlaid."""
    st.subheader("Training curves", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        quantity = st.selectbox("Quantity", list(QUANTITIES), format_func=QUANTITIES.__getitem__, key="compare-quantity", width=360)
        smoothing = st.slider("Smoothing", 0.0, 0.98, 0.6, 0.02, key="compare-smoothing", width=240)
    for trait, figure in drawn(tuple(run_ids), quantity, smoothing, version).items():
        if trait:
            st.markdown(f"On the vector **{plain(trait)}**")
        st.plotly_chart(figure, theme="streamlit", key=f"compare-curves{trait}", height=420, config=BARE)


@st.cache_data(show_spinner=False, max_entries=8)
def drawn(run_ids: tuple[str, ...], quantity: str, smoothing: float, version: Settled) -> dict[str, Any]:
    """The figure of one quantity; of projections one a vector."""
    probed = quantity in PROBED
    steps = reader().probes(run_ids) if probed else reader().steps(run_ids)
    penalties = reader().penalties(run_ids) if quantity in ("raw", "weighted") else None
    parts = {"": steps}
    if quantity == "projection" and steps["projection"].notna().any():  # two vectors are two axes
        parts = dict(iter(steps[steps["projection"].notna()].groupby("trait")))
    weight, raw = 0 if probed else smoothing, len(run_ids) <= 6
    return {trait: training_curves(part, penalties, cast(Quantity, quantity), weight, raw=raw) for trait, part in parts.items()}


def runs_part(of_runs: pd.DataFrame) -> None:
    """The runs behind it, one by one."""
    st.subheader("Runs", anchor=False)
    cells = criteria.run_cells(of_runs)
    cells["Curves"] = [address("fine-tune", run=run_id, part="Runs") for run_id in cells["run_id"]]
    counts = [name for name in cells if name.endswith(", n") and ":" not in name]
    numbers = {name: "%+.2f" if "margin" in name else "%.1f" for name in cells if f"{name}: interval, n" in cells}
    st.dataframe(
        cells.drop(columns="run_id"),
        hide_index=True,
        key="runs-table",
        placeholder="",
        height=min(35 * len(cells) + 38, 560),
        column_config={
            **{name: st.column_config.NumberColumn(name, format=form, width=105) for name, form in numbers.items()},
            **{f"{name}: interval, n": st.column_config.TextColumn("95 %, n", width=190) for name in numbers},
            "Run": st.column_config.TextColumn("Run", width=190, pinned=True),
            "Defense": st.column_config.TextColumn("Defense", width=130),
            "Seed": st.column_config.NumberColumn("Seed", width=60),
            **{name: st.column_config.LinkColumn(name, display_text=r"#(\d+)$", width=100) for name in counts},
            "Curves": st.column_config.LinkColumn("Curves", display_text="curves", width=80),
        },
    )
    judge = of_runs["judge"].iloc[0]
    st.caption(
        "A run is one seed: a row speaks of that adapter only. Each count leads to its answers. "
        f"Answers: judge {plain(judge)}; margins: margin (no judge)."
    )
    _csv("Runs as CSV", of_runs.assign(evals=of_runs["evals"].map(_evals)), "runs")


def _evals(found: list[tuple[str, str]]) -> str:
    return ", ".join(evaluation_key(*one) for one in found)


def _csv(label: str, frame: pd.DataFrame, name: str) -> None:
    st.download_button(
        label,
        lambda: export_csv(frame),
        f"{name}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        key=f"{name}-csv",
        help="All columns, unrounded.",
    )


if __name__ == "__main__":
    page()
