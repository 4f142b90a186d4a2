"""Tables as CSV that a spreadsheet may open, and as Parquet."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def neutral(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay as they are."""
    if not isinstance(value, str):
        if value is None or isinstance(value, bool | int | float):
            return value
        if pd.api.types.is_scalar(value) and (pd.isna(value) or pd.api.types.is_number(value)):
            return value
        value = str(value)
    formula = value.startswith(_FORMULA_STARTS) or (value[:1].isspace() and value.lstrip().startswith(_FORMULA_STARTS))
    return f"'{value}" if formula else value


def export_csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV of ``frame`` without its index. Model answers are foreign text: no cell starts a formula."""
    safe = frame.copy()
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(
                place, pd.Series([neutral(value) for value in frame.iloc[:, place].tolist()], index=frame.index, dtype=object)
            )
    safe.columns = [neutral(str(name)) for name in frame.columns]
    # all text quoted: a bare \r in an answer would begin a new row in some spreadsheets
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").encode("utf-8", "replace")


def export_parquet(frame: pd.DataFrame) -> bytes:
    """Parquet of ``frame`` without its index; texts as they are, since nothing runs a cell there."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
