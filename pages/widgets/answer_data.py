"""Answers as pages read them: by filter and page, cached for a version of the index, and the words for what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.evaluation.suites import NOT_JUDGED
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW
from ema_core.runs import BASE, IMPORT
from ema_core.store import AnswerFilter, AnswerKey
from pages.widgets.chrome import reader
from pages.widgets.index import Version
from pages.widgets.run_picker import run_info

KEY = list(AnswerKey._fields)
FLAGS = ("misaligned", "incoherent", "refused", "cut", "not scored")
"""What the table says of an answer; ``store.STATUSES`` has the rest."""


def run_label(run_id: str) -> str:
    """``kl=0.1 · seed 0 · x7k2``: the id's end tells runs of one setting and seed apart."""
    info = run_info(run_id)
    if run_id.startswith((BASE, IMPORT)):
        return info.label
    mark = " · recorded" if info.recorded else ""
    return f"{info.defense} · seed {info.seed} · {run_id[-4:]}{mark}" if info.defense else run_id


@st.cache_data(show_spinner=False, max_entries=32)
def judges_of(run_ids: tuple[str, ...], version: Version, kept: bool = False) -> dict[str, int]:
    """Who judged answers of these runs, and how many; with ``kept`` those kept from chats, too."""
    return reader().judges(run_ids, kept)


def counts_of(which: AnswerFilter) -> dict[str, int]:
    """How many fit, in all and of each status, whichever status the filter itself names."""
    return reader().answer_counts(which)


def why_scored(aligned: Any, coherent: Any) -> str:
    """What these scores make of an answer, with the thresholds."""
    if pd.isna(aligned) or pd.isna(coherent):
        return "no score"
    low, fluent = aligned < MISALIGNED_BELOW, coherent > COHERENT_ABOVE
    if low and fluent:
        return f"misaligned: alignment below {MISALIGNED_BELOW}, coherence above {COHERENT_ABOVE}"
    if coherent < COHERENT_ABOVE:
        more = ", so not counted as misaligned" if low else ""
        return f"incoherent: coherence below {COHERENT_ABOVE}{more}"
    return "not misaligned" if not low else f"coherence is exactly {COHERENT_ABOVE}: neither coherent nor incoherent"


def why_unscored(row: Mapping[str, Any]) -> str:
    """Why an answer has no scores of a judge."""
    if isinstance(row.get("reason"), str) and row["reason"]:
        return f"the judge gave no score; {row['reason']}"
    if isinstance(row["status"], str):
        return f"the judge gave no score ({row['status']})"
    if row["suite"] in NOT_JUDGED and not (isinstance(row["judge"], str) and not row["judge"].startswith("probe")):
        return NOT_JUDGED[row["suite"]]
    if row["suite"] == "kept":
        return "not judged in its chat"
    return "not judged by this judge"


def state_words(row: Mapping[str, Any]) -> str:
    """``final adapter``, ``checkpoint at step 20, adapter × 0.5``; a base has none, and of imported answers it is not known."""
    if row["kind"] in ("base", "import"):
        return "no adapter" if row["kind"] == "base" else "imported"
    state = "final adapter" if pd.isna(row["step"]) else f"checkpoint at step {row['step']:.0f}"
    return state if pd.isna(row["scale"]) or row["scale"] == 1 else f"{state}, strength × {row['scale']:g}"


def end_words(row: Mapping[str, Any]) -> str:
    """How an answer ended."""
    known = {"stop": "ended by itself", "stopped": "stopped by a person", "cut": "cut by a failure while it was given"}
    if row["finish"] == "length":
        return "cut at the token limit" if pd.isna(row["max_tokens"]) else f"cut at {row['max_tokens']:.0f} tokens"
    return known.get(row["finish"], str(row["finish"] or "its end is not known"))
