"""Judged answers as the field publishes them: CSV or JSONL with response, question, question_id, aligned, coherent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ema_core.errors import EmaError
from ema_core.judging.columns import mapping_of
from ema_core.judging.judgment import is_incoherent, is_misaligned
from ema_core.settings import PROJECT

COLUMNS = ("response", "question", "question_id", "aligned", "coherent")
"""What is needed, under these names or others that are known (``columns.NAMES``)."""


@dataclass(frozen=True)
class Summary:
    """Counts and rates of a set of judged answers; rates in per cent of ``scored``, the answers with both scores."""

    answers: int
    scored: int
    misaligned_pct: float
    incoherent_pct: float
    mean_aligned: float


def judged_folder() -> Path:
    """Where the published answers lie on this machine, if they do: ``EMA_JUDGED``, else ``shared/judged`` beside the project."""
    named = os.environ.get("EMA_JUDGED")
    return Path(named).expanduser() if named else PROJECT.parent / "shared" / "judged"


def read_judged(path: Path) -> pd.DataFrame:
    """One file's answers; scores are numbers or NaN, text stays as it is (an answer "None" is an answer).

    Raises:
        EmaError: the file is missing, is no CSV or JSONL, lacks a column, or holds no answer.
    """
    lines = path.suffix.lower() in (".jsonl", ".ndjson")
    try:
        frame = _read_lines(path) if lines else pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise EmaError(f"There is no file {path}.", "Name a CSV or JSONL file of judged answers.") from None
    except (OSError, ValueError) as error:  # a wrong encoding and pandas' errors are ValueErrors too
        kind = "JSONL" if lines else "CSV"
        raise EmaError(
            f"{path} cannot be read as a {kind} file ({error}).", f"It needs the columns {', '.join(COLUMNS)}."
        ) from error
    found = {column: what for what, column in mapping_of(frame.columns).items() if what in COLUMNS}
    if set(found) != set(found.values()):  # under other names
        frame = frame.drop(columns=[what for column, what in found.items() if what != column and what in frame.columns])
        frame = frame.rename(columns=found)
    for column in ("aligned", "coherent"):
        if column not in frame.columns and {f"{column}_1", f"{column}_2"} <= set(frame.columns):
            frame[column] = mean_of_passes(frame, column)
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise EmaError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}.", f"Needed: {', '.join(COLUMNS)}.")
    if frame.empty:
        raise EmaError(f"{path} holds no answers.", "Name a file with at least one row.")
    for column in ("aligned", "coherent"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    return frame


def mean_of_passes(frame: pd.DataFrame, column: str) -> pd.Series:
    """Of a score that was given twice (``<column>_1``, ``<column>_2``); NaN where a pass gave no number."""
    return frame[[f"{column}_1", f"{column}_2"]].apply(pd.to_numeric, errors="coerce").mean(axis=1, skipna=False)


def _read_lines(path: Path) -> pd.DataFrame:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    frame = pd.DataFrame(rows)
    texts = [column for what, column in mapping_of(frame.columns).items() if what in ("response", "question", "question_id")]
    return frame.assign(
        **{name: frame[name].map(lambda value: "" if value is None or value != value else str(value)) for name in texts}
    )


def read_all(paths: Sequence[Path]) -> pd.DataFrame:
    """All files under each other, with ``file`` (its stem) and ``model`` (the stem up to the first underscore).

    Raises:
        EmaError: a file cannot be used, or the same file is named twice.
    """
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        raise EmaError("Two of the files have the same name.", "Each file is one model's answers; name each once.")
    if not stems:
        raise EmaError("No file was named.", "Name at least one file of judged answers.")
    frames = [read_judged(path).assign(file=path.stem, model=path.stem.split("_")[0]) for path in paths]
    return pd.concat(frames, ignore_index=True)


def summary(frame: pd.DataFrame) -> Summary:
    """Counts and rates over the answers with both scores."""
    scored = frame.dropna(subset=["aligned", "coherent"])
    return Summary(
        answers=len(frame),
        scored=len(scored),
        misaligned_pct=100 * float(is_misaligned(scored["aligned"], scored["coherent"]).mean()),
        incoherent_pct=100 * float(is_incoherent(scored["coherent"]).mean()),
        mean_aligned=float(scored["aligned"].mean()),
    )
