"""Question by question: the difference of one setting to its undefended twin."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.evaluation.by_question import MEASURES
from ema_core.figures.colours import style
from ema_core.figures.layout import NEUTRAL, dress, empty_figure, error_bar, span
from ema_core.figures.said import note


def forest(found: pd.DataFrame, measure: str, label: str, judge: str) -> go.Figure:
    """A row a topic of ``evaluation.by_question.question_table``; filled marks where the interval leaves out 0. ``customdata`` of a mark
    is its topic."""
    asked = MEASURES[measure]
    if found.empty:
        by = f" by {judge}" if asked.judged else ""
        return empty_figure(f"{asked.title}{by}: nothing that this setting and its undefended twin were both asked.")
    color = style(label).color
    told = [differs(low, high) for low, high in zip(found["low"], found["high"], strict=True)]
    bar = error_bar(list(found["difference"]), list(found["low"]), list(found["high"]))
    figure = go.Figure()
    figure.add_scatter(
        x=found["difference"], y=found["topic"], mode="markers", name=label, showlegend=False, customdata=found["topic"],
        marker={"color": color, "size": 9, "symbol": ["circle" if far else "circle-open" for far in told], "line": {"width": 2, "color": color}},
        error_x=bar and {**bar, "color": color}, hovertext=[in_words(row, measure) for row in found.to_dict("records")],
        hovertemplate="%{y}: %{hovertext}<extra></extra>", selected={"marker": {"size": 14}}, unselected={"marker": {"opacity": 1}},
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    dress(figure)
    side = "right" if asked.up_is_better else "left"
    unit = "points of 100" if asked.judged else "nats a token"
    figure.update_xaxes(title=f"{asked.title}: {label} minus undefended<br>({unit}); {side} of 0 is better")
    figure.update_yaxes(autorange="reversed", dtick=1)
    method = "over samples" if asked.judged else "over a topic's pairs"
    seeds = span(float(value) for value in found["seeds"])
    method += " and seeds" if (found["seeds"] >= 3).all() else ", of these adapters"
    by = f"judge {judge}" if asked.judged else "log-likelihood margin of answer pairs (no judge)"
    said = [f"Measure: {by}", f"95 % intervals {method}", f"n = {span(float(n) for n in found['n'])} a topic over {seeds} seeds"]
    said += [f"filled: 0 is outside; of {len(found)} about {max(1, round(0.05 * len(found)))} would be by chance"]
    return note(figure, said, below=78, right=True)


def differs(low: float, high: float) -> bool:
    """Whether 0 lies outside."""
    return math.isfinite(low) and math.isfinite(high) and (low > 0 or high < 0)


def in_words(row: dict, measure: str) -> str:
    """A topic's difference with its interval and n."""
    form = "+.1f" if MEASURES[measure].judged else "+.3f"
    value, low, high = (format(row[name], form).replace("-", "−") for name in ("difference", "low", "high"))
    span_ = f" [{low}, {high}]" if math.isfinite(row["low"]) else f" ({row['why'] or 'no interval'})"
    own, twin = (format(row[name], form[1:]).replace("-", "−") for name in ("own", "twin"))
    return f"{value}{span_}; {own} against {twin}, n = {row['n']} and {row['n_twin']}, {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}"
