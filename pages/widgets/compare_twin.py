"""Settings against their undefended twins: by criterion, by data set, and question by question."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.evaluation.by_question import MEASURES
from ema_core.figures import CRITERIA, MARGINS, differences, differences_data, forest, heatmap, heatmap_data, height, in_words
from ema_core.store import evaluation_key
from pages.widgets import criteria
from pages.widgets.answer_links import address
from pages.widgets.chrome import plain
from pages.widgets.compare_data import Settled, by_question
from pages.widgets.figure import figure
from pages.widgets.terms import term

DATA_TITLE = "Defense by data set"


def twin_part(rows: pd.DataFrame, seeds: pd.DataFrame, group: str) -> None:
    """Paired differences: a row a setting, a figure a criterion."""
    if rows["undefended"].all():
        st.info(
            "Only undefended settings are chosen. Choose settings with a defense; their twins stay beside them.",
            icon=":material/info:",
        )
        return
    places = [place for _ in range(2) for place in st.columns(2)]
    for place, (key, meaning) in zip(places, CRITERIA.items(), strict=True):
        data = differences_data(rows, key, seeds)
        many = int(data["what"].eq("setting").sum()) if len(data) else 1
        with place:
            figure(
                differences(rows, key, seeds),
                data,
                key=f"difference-{key}",
                title=f"{meaning.partition(' (')[0]}, difference to the undefended twin, {group}",
                alt=f"{meaning}: each setting's difference to its undefended twin, with interval and mark.",
                height=height(many),
            )
    st.caption(
        "Each difference is taken pair by pair (or question by question) and seed by seed before anything is averaged, so that what two runs "
        "have in common drops out. Intervals are not corrected for their number, marks are (Holm).",
        help=term("holm"),
    )


@st.fragment
def heatmap_part(settings: pd.DataFrame) -> None:
    """Defense by data set, of one model and recipe."""
    st.subheader(DATA_TITLE, anchor=False)
    own = settings[~settings["undefended"].astype(bool)]
    if own.empty:
        return
    groups = own.groupby(["model", "recipe_label"], sort=False)["dataset"].nunique().sort_values(ascending=False, kind="stable")
    names = [" · ".join(group) for group in groups.index]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        title = st.selectbox("Criterion", [text for text in CRITERIA.values()], key="heatmap-criterion", width=300)
        which = st.selectbox("Model and recipe", names, key="heatmap-of", width=360) if len(names) > 1 else names[0]
    model, recipe = groups.index[names.index(which)]
    rows = settings[settings["model"].eq(model) & settings["recipe_label"].eq(recipe)]
    key = next(name for name, text in CRITERIA.items() if text == title)
    data = heatmap_data(rows, key)
    figure(
        heatmap(rows, key),
        data,
        key="heatmap",
        title=f"{title.partition(' (')[0]}, difference to the twin by defense and data set, {model}",
        alt="Difference to the undefended twin by defense and data set; the table below has the same numbers.",
        height=170 + 40 * max(1, data["defense_label"].nunique() if len(data) else 1),
    )
    if len(data):
        st.table(_cells(data, key), border="horizontal", hide_index=True, alt="The numbers of the figure above")
    if rows["dataset"].nunique() == 1:
        st.caption("One data set is chosen; add others under *Data set* at the top to see whether a defense holds elsewhere.")


def _cells(data: pd.DataFrame, key: str) -> pd.DataFrame:
    one = MARGINS[key]
    rows = []
    for row in data.to_dict("records"):
        span = f"[{one.told(row['low'])}, {one.told(row['high'])}]" if criteria.here(row["low"]) else "no interval"
        rows.append(
            {
                "Defense": plain(row["defense_label"]), "Data set": plain(row["dataset"]),
                "Difference to the twin": f"**{one.told(row['difference'])}** {span}", "n": f"{row['n']:.0f} {one.counted}",
                "Seeds": str(int(row["seeds"])), "Mark": plain(row["mark"] or "no mark"),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@st.fragment
def questions_part(rows: pd.DataFrame, run_ids: tuple[str, ...], judge: str, version: Settled) -> None:
    """One setting against its twin, topic by topic; each leads to its answers."""
    own = rows[~rows["undefended"].astype(bool)]
    if own.empty:
        st.info("Only undefended settings are chosen. Choose a setting with a defense.", icon=":material/info:")
        return
    labels = criteria.one_line(rows)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = st.selectbox(
            "Setting", list(own["setting_key"]), format_func=lambda key: labels.get(key, key), key="question-setting", width=300
        )
        scored = bool(own["scored"].gt(0).any())
        titles = [one.title for one in MEASURES.values()]
        title = st.selectbox("What", titles, 2 if scored else 0, key="question-measure", width=320)
    measure = next(name for name, one in MEASURES.items() if one.title == title)
    row = own[own["setting_key"].eq(key)].iloc[0]
    ids = (*row["runs"], *row["twin_runs"])
    found = by_question(key, measure, ids, judge, version)
    label = str(row["defense_label"])
    picked = figure(
        forest(found, measure, label, judge),
        found.assign(
            measure=title, judge=judge if MEASURES[measure].judged else "none", questions=found["questions"].map(", ".join)
        ),
        key="forest",
        title=f"{title} by topic, {label} minus undefended, {row['dataset']}, {row['model']}",
        alt=f"{title}: difference of {label} to its undefended twin, a row a topic, with intervals.",
        height=170 + 24 * max(4, len(found)),
        picks=True,
    )
    if found.empty:
        return
    if by := [topic for topic in picked if topic in set(found["topic"])]:
        with st.container(horizontal=True, vertical_alignment="center", border=True, key="opened-topics"):
            for topic in by:
                told = found[found["topic"].eq(topic)].iloc[0]
                if url := _answers(told, found.attrs["evals"], judge, measure):
                    st.markdown(f"[Answers to {plain(topic)}]({url})", width="content")
                else:
                    st.markdown(f"{plain(topic)}: answer pairs, so nothing was sampled here", width="content")
    elif MEASURES[measure].judged:
        st.caption("Click on a mark to read the answers of its topic; the list below has the same links.")
    with st.expander("The topics as a list, with links to their answers", key="question-list"):
        cells = [
            {
                "Topic": plain(one["topic"]), "Difference": plain(in_words(one, measure)),
                "Answers": f"[read]({url})" if (url := _answers(one, found.attrs["evals"], judge, measure)) else criteria.muted("pairs: none sampled"),
            }
            for one in found.to_dict("records")
        ]  # fmt: skip
        st.table(
            pd.DataFrame(cells), border="horizontal", hide_index=True, alt="Topics with their differences and links to answers"
        )


def _answers(row: pd.Series | dict, evals: list[tuple[str, str]], judge: str, measure: str) -> str:
    """The answers of both sides to the topic's questions; pairs have none."""
    if not MEASURES[measure].judged or not evals:
        return ""
    return address(
        "samples", eval=[evaluation_key(*found) for found in evals], question=row["topic"], judge=judge, order="question"
    )
