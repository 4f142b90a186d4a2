"""What was imported: figures, where to read it, what was left out, and the way back."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.exchange.kept import imports, restore, undo, undone
from pages.widgets.chrome import act, notices, plain

SHOWN = 20
LINKED = 40
"""So many runs fit into an address."""
JUDGES = 5
"""So many judges of a table are shown with their figures."""


def import_list() -> None:
    """The newest first."""
    cards, aside = imports()[::-1], undone()
    st.subheader("Imported", anchor=False)
    notices("imports")
    if not cards and not aside:
        st.info(
            "Nothing was imported yet. Files as the field publishes them (response, question, question_id, aligned, coherent) need no "
            "further word.",
            icon=":material/upload_file:",
        )
    for card in cards[:SHOWN]:
        with st.container(border=True, key=f"imported-{card['import_id']}"):
            _card(card)
    if len(cards) > SHOWN:
        st.caption(f"{len(cards) - SHOWN} older ones: `ema import list` shows all.")
    for import_id in aside:
        with st.container(horizontal=True, vertical_alignment="center", key=f"undone-{import_id}"):
            st.caption(f"Undone: {plain(import_id)}", width="content")
            st.button("Put back", key=f"restore-{import_id}", icon=":material/undo:", on_click=act, args=(restore, import_id),
                      kwargs={"slot": "imports", "done": f"{import_id} is back."})  # fmt: skip


def _card(card: dict[str, Any]) -> None:
    import_id = card["import_id"]
    left, right = st.columns([5, 2], vertical_alignment="center")
    with left:
        if "error" in card:
            st.markdown(f"**{plain(import_id)}** · {plain(card['error'])}")
        else:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(card["time"]))
            st.markdown(f"**{plain(card['file'])}** · {when} · {len(card['runs']):,} run{'' if len(card['runs']) == 1 else 's'}")
            st.markdown(_figures(card))
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        if "error" not in card:
            ids = [run["run_id"] for run in card["runs"][:LINKED]]
            st.page_link("pages/samples.py", label="Read", icon=":material/manage_search:", query_params={"run": ids})
            st.page_link("pages/compare.py", label="Rates", icon=":material/compare_arrows:", query_params={"run": ids})
        st.button("Undo", key=f"undo-{import_id}", icon=":material/undo:", on_click=act, args=(undo, import_id),
                  help="Takes exactly this import away, with what was judged on it. It can be put back.",
                  kwargs={"slot": "imports", "done": f"{import_id} was taken away."})  # fmt: skip
    if len(card.get("runs", ())) > LINKED:
        st.caption(f"Read and Rates lead to the first {LINKED} of its {len(card['runs']):,} runs; the others can be chosen there.")
    if card.get("skipped"):
        with st.expander(f"{card['skipped']:,} rows were left out", key=f"skipped-{import_id}"):
            st.dataframe(pd.DataFrame(card["skipped_rows"]), hide_index=True, key=f"rows-{import_id}")
            if card["skipped"] > len(card["skipped_rows"]):
                reasons = ", ".join(f"{count:,} × {reason}" for reason, count in list(card["reasons"].items())[:8])
                st.caption(plain(f"The first {len(card['skipped_rows'])} of {card['skipped']:,}. By reason: {reasons}"))


def _figures(card: dict[str, Any]) -> str:
    judges = list(card["judges"])
    parts = [f"{card['answers']:,} answers"]
    if len(judges) == 1:
        parts[0] += f", {_scores(card)}"
    words = {name: count for name, count in card["statuses"].items() if name != "scored" and count}
    if words:
        parts.append(", ".join(f"{count:,} {name}" for name, count in words.items()))
    if len(judges) == 1:
        return " · ".join([*parts, f"judge {plain(judges[0])}"])
    by = card.get("by_judge", {})  # cards of before mixed what several judges said
    named = [f"{plain(judge)}: {_scores(by[judge])}" if judge in by else plain(judge) for judge in judges[:JUDGES]]
    more = f"and {len(judges) - JUDGES} more judges: `ema import list --json`"
    return "  \n".join([" · ".join(parts), *named, *([more] if len(judges) > JUDGES else [])])


def _scores(figures: dict[str, Any]) -> str:
    both = f"{figures['scored']:,} with both scores"
    if not figures["scored"]:
        return both
    rates = f"misaligned {figures['misaligned_pct']:.2f} %, incoherent {figures['incoherent_pct']:.2f} %"
    return f"{both} · {rates}, mean alignment {figures['mean_aligned']:.2f}"
