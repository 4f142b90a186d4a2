"""What stands under a figure and beside its marks: what it was measured by, on how much, and what open or faint marks mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import style
from ema_core.figures.criterion import Criterion
from ema_core.figures.layout import column, names, number, span

FEW_SEEDS = 3
FLAG = " ⚑"
LINE = 52
"""Characters of a line under a figure that a phone shows whole."""


def footnote(
    figure: go.Figure, table: pd.DataFrame, criteria: Sequence[Criterion], left_out: int = 0, below: int = 62, more: Sequence[str] = ()
) -> go.Figure:  # fmt: skip
    """``below`` the figure, in pixels: by what it was measured, for which questions, on how much."""
    rows = table.to_dict("records")
    said = [f"Measure: {by}" for by in dict.fromkeys(one.measured_by(row) for one in criteria for row in rows)]
    if estimands := names(table, "estimand"):
        said.append(f"95 % intervals for {', '.join(estimands)}")
    for one in criteria:
        if counted := span(column(table, one.count)):
            said.append(f"{one.key}: n = {counted} {one.counted}")
    seeds = column(table, "seeds")
    if text := span(seeds):
        said.append(f"seeds a setting: {text}")
    if any(value < FEW_SEEDS for value in seeds):
        said.append("open marks: fewer than three seeds")
    if any(flagged(row) for row in rows):
        said.append(f"{FLAG.strip()}: safe in general, not behind a trigger (conditional)")
    said += more
    if left_out:
        said.append(f"{left_out} setting(s) with several defenses have no place on this axis")
    return note(figure, said, below)


def note(figure: go.Figure, said: Sequence[str], below: int = 62, right: bool = False) -> go.Figure:
    """These words under the figure, in lines that a phone shows; ``right``: ending at the right edge, where long names stand left."""
    lines = [""]
    for part in said:
        if lines[-1] and len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] += f" · {part}" if lines[-1] else part
    side = {"x": 1, "xanchor": "right"} if right else {"x": 0, "xanchor": "left"}
    place = {**side, "xref": "paper", "y": 0, "yref": "paper", "yanchor": "top", "yshift": -below}
    figure.add_annotation(text="<br>".join(lines), showarrow=False, align="left", font={"size": 11}, name="footnote", **place)
    figure.update_yaxes(title_standoff=8)  # else a title of two lines lies over the numbers
    return figure.update_layout(margin={"t": 40, "b": below + 8 + 15 * len(lines)})


def flagged(row: Mapping[str, Any]) -> bool:
    """Safe in general, not behind a trigger (``evaluation.conditional``)."""
    return bool(row.get("conditional") == "flagged")


def symbols(table: pd.DataFrame) -> list[str]:
    """The defense's symbol a row, open where fewer than three seeds stand behind it."""
    looks = [style(str(label)).symbol for label in table["defense_label"]]
    return [f"{look}-open" if seeds < FEW_SEEDS else look for look, seeds in zip(looks, column(table, "seeds"), strict=True)]


def hover(row: Mapping[str, Any], one: Criterion) -> str:
    """One criterion of a setting in words."""
    value, low, high = (one.factor * number(row.get(f"{one.value}{end}")) for end in ("", "_low", "_high"))
    counted = number(row.get(one.count))
    if not math.isfinite(value):
        return f"{one.key}: not measured"
    text = f"{one.key}: {one.told(value)}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" [{one.told(low)}, {one.told(high)}]"
    if math.isfinite(counted):
        text += f", n = {counted:.0f} {one.counted}"
    mark = row.get(one.mark)
    return f"{text}; against the undefended: {mark}" if isinstance(mark, str) and mark else text


def whose(row: Mapping[str, Any]) -> str:
    """What a setting is beside its defense, and how many seeds it has."""
    known = [str(row[name]) for name in ("model", "dataset", "recipe_label") if isinstance(row.get(name), str)]
    seeds = number(row.get("seeds"))
    return "<br>".join([*known, *([f"{seeds:.0f} seed{'' if seeds == 1 else 's'}"] if math.isfinite(seeds) else [])])
