"""Behind an answer's numbers: the probabilities behind a judge's score, and the projection on a persona vector."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.chats import monitor
from ema_core.generation.model_id import ModelId
from ema_core.runs import BASE
from ema_core.store import AnswerKey
from pages.widgets.chrome import in_words, notices, plain

Row = dict[str, Any]
_BARS = " ▁▂▃▄▅▆▇█"
_MOST = 8


def spread(rows: list[Row]) -> None:
    """Of each judge the scores by further rubrics, and the most probable tokens that a score is the mean of; nothing where it tells none."""
    for row in rows:
        further = " · ".join(
            f"{rubric} {'–' if score is None else f'{score:.0f}'}" for rubric, score in _further(row.get("scores"))
        )
        if further:
            st.caption(f"{plain(row['judge'])}, also: {plain(further)}")
        for rubric, tokens in _spread(row.get("spread")):
            shown = "  ".join(f"{plain(token)} {_bar(share)} {share:.0%}" for token, share in tokens[:_MOST])
            rest = 1 - sum(share for _, share in tokens[:_MOST])
            more = f"  others {rest:.0%}" if rest >= 0.005 else ""
            st.caption(f"{plain(row['judge'])}, {plain(rubric)}: {shown}{more}")


def _further(text: object) -> list[tuple[str, float | None]]:
    """``{rubric: number or null}`` as it was kept."""
    try:
        known = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return []
    pairs = known.items() if isinstance(known, dict) else ()
    return [(str(rubric), score) for rubric, score in pairs if score is None or isinstance(score, int | float)]


def _spread(text: object) -> list[tuple[str, list[tuple[str, float]]]]:
    """``{rubric: [[token, probability], …]}`` as it was kept; what is not that is left out."""
    try:
        known = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return []
    found = []
    for rubric, tokens in known.items() if isinstance(known, dict) else ():
        pairs = [
            (str(one[0]), float(one[1]))
            for one in (tokens if isinstance(tokens, list) else ())
            if isinstance(one, list) and len(one) == 2 and isinstance(one[1], int | float) and 0 <= one[1] <= 1.0001
        ]
        if pairs:
            found.append((str(rubric), pairs))
    return found


def _bar(share: float) -> str:
    return _BARS[max(1, min(8, round(share * 8)))]


def projection(key: AnswerKey, row: Row) -> None:
    """The answer on the persona vector of its base, when asked for."""
    name = f"projection-{key}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="answer-projection"):
        known = st.session_state.get(name)
        if known:
            st.markdown(known, width="stretch")
            return
        why = _why_not(row)
        st.button(
            "Project on the persona vector", key="answer-project", type="tertiary", icon=":material/explore:", disabled=bool(why),
            on_click=_project, args=(name, row),
            help=why or "The engine reads the answer with the weights that gave it and says how far it lies along the trait; some seconds.",
        )  # fmt: skip
    notices("projection")


def _model(row: Row) -> str:
    if str(row["run_id"]).startswith(BASE):
        return f"base:{row['model']}"
    return str(ModelId(row["run_id"], None if pd.isna(row["step"]) else int(row["step"]), 1.0 if pd.isna(row["scale"]) else float(row["scale"])))  # fmt: skip


def _why_not(row: Row) -> str:
    if row["kind"] not in ("run", "base"):
        return "These answers were imported; the weights that gave them are not here."
    if not str(row["answer"] or "").strip():
        return "Nothing was said."
    now, then = row["adapter_now"], row["adapter_hash"]
    if pd.isna(row["step"]) and isinstance(now, str) and isinstance(then, str) and now != then:
        return "The run was trained further; the adapter that gave this answer is not there any more."
    return ""


def _project(name: str, row: Row) -> None:
    turns = json.loads(row["context"]) if isinstance(row["context"], str) else []
    system = [{"role": "system", "content": row["system"]}] if isinstance(row["system"], str) and row["system"] else []
    try:
        card, found = monitor.project_one(
            _model(row), [*system, *turns, {"role": "user", "content": row["question"]}], str(row["answer"])
        )
    except Exception as error:
        st.session_state["notice-projection"] = ("error", *in_words(error))
        return
    st.session_state[name] = (
        f"Along **{plain(card.title)}**: **{found:+.1f} SD** from the base's answers without it, at layer {card.layer}"
    )
