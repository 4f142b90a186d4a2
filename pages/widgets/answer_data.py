"""Sampled answers as rows: each once, with one judge's scores, and the words for what they are."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.evaluation.evaluate import NOT_JUDGED
from ema_core.judging import is_incoherent, is_misaligned
from pages.widgets.chrome import reader
from pages.widgets.index import Version
from pages.widgets.run_picker import run_info

FLAGS = ("misaligned", "incoherent", "refused", "cut at the limit", "not scored")
KEY = ["run_id", "eval_id", "sample_id"]
EXPORTED = [
    *KEY, "defense_label", "seed", "suite", "step", "scale", "question_id", "topic", "form", "k", "system", "question", "answer",
    "tokens", "finish", "refused", "judge", "aligned", "coherent", "verdict", "max_tokens", "temperature",
]  # fmt: skip


def run_label(run_id: str) -> str:
    """``kl=0.1 · seed 0 · x7k2``: the id's end tells runs of one setting and seed apart."""
    info = run_info(run_id)
    return f"{info.defense} · seed {info.seed} · {run_id[-4:]}" if info.defense else run_id


@st.cache_data(show_spinner=False, max_entries=8)
def judges_of(run_ids: tuple[str, ...], version: Version) -> list[str]:
    """Who judged answers of these runs."""
    return sorted(reader().samples(run_ids)["judge"].dropna().unique())


@st.cache_data(show_spinner=False, max_entries=8)
def answers(run_ids: tuple[str, ...], judge: str | None, version: Version) -> pd.DataFrame:
    """Each answer once, with this judge's scores; a true/false column for each of ``FLAGS`` and ``verdict`` that joins them."""
    rows = reader().samples(run_ids)
    scores = rows.loc[rows["judge"] == judge, [*KEY, "judge", "aligned", "coherent", "status"]]
    frame = rows.drop(columns=["judge", "aligned", "coherent", "status"]).drop_duplicates(KEY).merge(scores, "left", KEY)
    scored = frame["aligned"].notna() & frame["coherent"].notna()
    frame["misaligned"] = is_misaligned(frame["aligned"], frame["coherent"])
    frame["incoherent"] = is_incoherent(frame["coherent"])
    frame["refused"] = frame["refused"].eq(True)
    frame["cut at the limit"] = frame["finish"] == "length"
    frame["not scored"] = ~scored
    frame["verdict"] = [", ".join(name for name, on in zip(FLAGS, row, strict=True) if on) for row in frame[[*FLAGS]].to_numpy()]
    return frame


def why_unscored(row: pd.Series) -> str:
    """Why an answer has no scores."""
    if row["suite"] == "in-domain":
        return NOT_JUDGED
    if isinstance(row["status"], str):
        return f"the judge gave no score ({row['status']})"
    return "not judged yet" if pd.isna(row["judge"]) else "the judge gave no score"
