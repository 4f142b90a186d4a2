"""The panels of Inside a run: any defense's tables, drawn by their kind, a run's beside its twin's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.defenses.panels import Panel
from ema_core.figures import inside_lines, module_map, scale_top, score_histogram, token_strip
from ema_core.runs import RunDirectory
from ema_core.store import export_csv
from ema_core.training.inside import Inside, ReadExample, Seen
from pages.widgets.asset_jobs import chosen
from pages.widgets.chrome import plain
from pages.widgets.run_picker import run_info

BARE = {"displaylogo": False}
PAGE = 5
"""Examples on a page."""
LARGEST = 10
STRIP_WIDTH = 640


@dataclass(frozen=True)
class Side:
    """A run and what was read of it; ``name`` is what a legend calls it."""

    run_id: str
    label: str
    found: Inside

    @classmethod
    def of(cls, run: RunDirectory, found: Inside) -> Side:
        return cls(run.id, run_info(run.id).defense or "none", found)

    @property
    def name(self) -> str:
        return "undefended" if self.label == "none" else self.label


@dataclass(frozen=True)
class Shown:
    """A panel of one side."""

    side: Side
    panel: Panel


def defense_part(sides: Sequence[Side]) -> None:
    """Choose whose eyes to look through, then all that there is to see."""
    seen = sides[0].found.defenses
    names = sorted((name for name, one in seen.items() if one.panels or one.own), key=lambda name: (not seen[name].own, name))
    if not names:
        st.info("No defense had anything to say of this run.", icon=":material/info:")
        return
    name = chosen(
        "Looked at through the eyes of", names, "view", "inside-view",
        lambda one: seen[one].title + (" · in this run" if seen[one].own else ""), "There is nothing to see through",
    )  # fmt: skip
    one = seen[name]
    if not one.own:
        st.caption(f"This run does not have {plain(one.title)}: what stands below is what it would have seen here.")
    if one.why:
        st.warning(plain(one.why), icon=":material/warning:")
    elif not one.panels:
        st.info("It left nothing to be seen in this run: at strength 0 it does nothing.", icon=":material/info:")
    for panel in one.panels:
        panel_part(name, [Shown(sides[0], panel), *_twins(sides[1:], name, panel)], alone=len(sides) == 1)


def _twins(sides: Sequence[Side], name: str, panel: Panel) -> list[Shown]:
    """The same panel of the other sides, measured in the same way."""
    return [
        Shown(side, other)
        for side in sides
        for other in side.found.defenses.get(name, Seen(title="", own=False)).panels
        if (other.name, other.how) == (panel.name, panel.how)
    ]


def panel_part(name: str, shown: Sequence[Shown], alone: bool) -> None:
    """One panel: what it shows, the figure, what it rests on and what not to read from it."""
    panel = shown[0].panel
    key = f"inside-{name}-{panel.name}"
    with st.container(border=True, key=key):
        st.markdown(f"##### {plain(panel.title)}")
        st.markdown(plain(panel.says))
        if panel.value is not None:
            st.caption(_first_up(panel.value_is))
            with st.container(horizontal=True, key=f"{key}-values"):
                for one in shown:
                    value = (
                        "none" if one.panel.value is None else f"{one.panel.value:.3g} {panel.unit if len(panel.unit) < 6 else ''}"
                    )
                    st.metric(plain(one.side.name), plain(value), width="content")
        KINDS[panel.kind](key, shown)
        if panel.value is not None:
            _along(key, name, shown)
        if not alone and len(shown) == 1 and panel.kind not in ("examples", "histogram"):
            st.caption(
                "The undefended twin was measured in another way (other options), or not at all, so it does not stand beside it."
            )
        with st.container(horizontal=True, vertical_alignment="center", key=f"{key}-foot"):
            parts = [panel.n, panel.unit and f"unit: {panel.unit}", panel.how]
            st.caption(f"{plain(' · '.join(filter(None, parts)))}  \n**Not to be read from it:** {plain(panel.beware)}")
            st.download_button(
                "CSV", lambda: export_csv(_table(shown)), f"{shown[0].side.run_id}-{name}-{panel.name}.csv", "text/csv", key=f"{key}-csv",
                icon=":material/download:", on_click="ignore", help="All rows of this panel, the twin's too where it has any.",
            )  # fmt: skip


def _first_up(text: str) -> str:
    return plain(text[:1].upper() + text[1:])


def _frame(shown: Sequence[Shown]) -> pd.DataFrame:
    rows = [{"run": one.side.name, "defense_label": one.side.label, **row} for one in shown for row in one.panel.rows]
    return pd.DataFrame(rows)


def _table(shown: Sequence[Shown]) -> pd.DataFrame:
    """For a spreadsheet: a token a row, or the rows as they are."""
    if shown[0].panel.kind != "tokens":
        return _frame(shown).assign(run_id=[one.side.run_id for one in shown for _ in one.panel.rows])
    return pd.DataFrame([row for one in shown for row in _tokens(one)])


def _tokens(one: Shown) -> list[dict[str, Any]]:
    rows = []
    for row in one.panel.rows:
        read = one.side.found.examples[row["example"]]
        for place, value in enumerate(row["values"]):
            token = {"place": place + 1, "token": read.tokens[place], "answer": read.answer[place], "value": value}
            rows.append({"run_id": one.side.run_id, "run": one.side.name, "example": row["example"] + 1, **token})
    return rows


def _lines(key: str, shown: Sequence[Shown]) -> None:
    panel = shown[0].panel
    x = {"layers": "layer", "positions": "position"}[panel.kind]
    title = {"layers": "Layer (0 = embedding)", "positions": "Token of the answer"}[panel.kind]
    st.plotly_chart(
        inside_lines(_frame(shown), x, title, panel.unit, panel.marks),
        theme="streamlit",
        key=f"{key}-figure",
        height=360,
        config=BARE,
    )


def _along(key: str, name: str, shown: Sequence[Shown]) -> None:
    """Its one number over the run's checkpoints."""
    panel = shown[0].panel
    rows = [
        {"run": one.side.name, "defense_label": one.side.label, "line": "over training", "step": point.step, "value": point.value}
        for one in shown
        for point in one.side.found.along
        if (point.defense, point.panel, point.how) == (name, panel.name, one.panel.how)
    ]
    if not rows:
        return
    st.caption(f"Over training, at its checkpoints: {plain(panel.value_is)}")
    st.plotly_chart(
        inside_lines(pd.DataFrame(rows), "step", "Step", panel.unit, from_zero=True),
        theme="streamlit",
        key=f"{key}-along",
        height=240,
        config=BARE,
    )


def _strips(key: str, shown: Sequence[Shown]) -> None:
    """One example at a time, the twin's beside it on the same colours, and its largest tokens as a table."""
    panel = shown[0].panel
    found = shown[0].side.found
    options = list(range(len(panel.rows)))
    pick = st.selectbox(
        "Example",
        options,
        format_func=lambda place: _name(found.examples[panel.rows[place]["example"]], place),
        key=f"{key}-example",
    )
    values = {one.side.run_id: one.panel.rows[pick]["values"] for one in shown if pick < len(one.panel.rows)}
    read = found.examples[panel.rows[pick]["example"]]
    top = scale_top([value for own in values.values() for value in own[read.shared :]])
    for column, one in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            st.caption(f"**{plain(one.side.name)}**")
            figure = token_strip(
                read.tokens[read.shared :], values[one.side.run_id][read.shared :], read.answer[read.shared :], panel.unit, top
            )
            st.plotly_chart(
                figure, theme="streamlit", key=f"{key}-strip-{one.side.run_id}", width=STRIP_WIDTH, config={"displayModeBar": False}
            )
    if read.shared:
        st.caption(
            f"The {read.shared} tokens that every example begins with (the template's own) are left out of the picture, not of the CSV."
        )
    with st.expander(f"The {LARGEST} largest tokens of this example, as a table", key=f"{key}-largest"):
        st.dataframe(_largest(read, values, shown), hide_index=True, key=f"{key}-largest-table")


def _name(read: ReadExample, place: int) -> str:
    return f"{place + 1}: {' '.join(read.question.split())[:90]}"


def _largest(read: ReadExample, values: dict[str, list[float | None]], shown: Sequence[Shown]) -> pd.DataFrame:
    first = values[shown[0].side.run_id]
    order = sorted(range(len(first)), key=lambda place: -(first[place] or 0.0))[:LARGEST]
    rows = []
    for place in order:
        row = {"Place": place + 1, "Token": read.tokens[place], "Before it": "".join(read.tokens[max(0, place - 6) : place])}
        row |= {"Part": "answer" if read.answer[place] else "prompt"}
        rows.append(row | {one.side.name: values[one.side.run_id][place] for one in shown})
    return pd.DataFrame(rows)


def _map(key: str, shown: Sequence[Shown]) -> None:
    known = [row["value"] for one in shown for row in one.panel.rows if row["value"] is not None]
    for column, one in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            st.caption(f"**{plain(one.side.name)}**")
            figure = module_map(pd.DataFrame(one.panel.rows), one.panel.unit, one.panel.marks, min(known), max(known))
            st.plotly_chart(figure, theme="streamlit", key=f"{key}-map-{one.side.run_id}", height=360, config=BARE)


def _histogram(key: str, shown: Sequence[Shown]) -> None:
    panel = shown[0].panel
    figure = score_histogram(pd.DataFrame(panel.rows), panel.unit)
    st.plotly_chart(figure, theme="streamlit", key=f"{key}-figure", height=320, config=BARE)


def _examples(key: str, shown: Sequence[Shown]) -> None:
    """Readable, a page at a time: what was asked and answered, and why it is here."""
    rows = shown[0].panel.rows
    states = list(dict.fromkeys(row["state"] for row in rows))
    if len(states) > 1:
        counts = {state: sum(row["state"] == state for row in rows) for state in states}
        wanted = st.pills(
            "Show", states, selection_mode="multi", key=f"{key}-states", format_func=lambda state: f"{state} ({counts[state]})"
        )
        rows = [row for row in rows if not wanted or row["state"] in wanted]
    pages = max(1, -(-len(rows) // PAGE))
    page = st.pagination(pages, key=f"{key}-page") if pages > 1 else 1
    for place, row in enumerate(rows[PAGE * (page - 1) : PAGE * page], PAGE * (page - 1) + 1):
        with st.container(border=True, key=f"{key}-row-{place}", gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.badge(row["state"], color="orange" if row["state"] in ("mixed in", "under the prompt") else "gray")
                more = {
                    name: value for name, value in row.items() if name not in ("state", "question", "answer") and value is not None
                }
                st.caption(
                    plain(" · ".join(_words(column, value) for column, value in more.items() if value is not False)),
                    width="content",
                )
            st.text(row["question"])
            st.caption("Answer")
            st.text(row["answer"])


def _words(column: str, value: Any) -> str:
    if value is True:
        return column
    if column == "times":
        return "once" if value == 1 else f"{value} times"
    return f"{column} {value:.4g}" if isinstance(value, float) else f"{column} {value}"


KINDS: dict[str, Callable[[str, Sequence[Shown]], None]] = {
    "tokens": _strips,
    "layers": _lines,
    "positions": _lines,
    "modules": _map,
    "histogram": _histogram,
    "examples": _examples,
}
