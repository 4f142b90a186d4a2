"""What a defense did inside a run: by layer, along an answer, token by token, by weight matrix, over scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import style
from ema_core.figures.layout import GRID, NEUTRAL, column, dress, empty_figure

DASHES = ("solid", "dot", "dashdot", "longdash")
SHADES = ((0.0, "#f3f6f9"), (0.5, "#5aa5d6"), (1.0, "#08306b"))
"""From next to nothing to much; read by lightness, so in grey, too."""
DARK_FROM = 0.7
"""Share of the scale from which a text on it is white."""
CHARACTERS = 40
"""Of tokens in a line: about what a phone shows legibly."""
LINE = 25
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = {"the pool": ("#7f7f7f", ""), "mixed in": (style("interleaving-plus").color, "/"), "passed over": (style("kl").color, "x")}
"""Colour and hatching of a group in a histogram."""


def inside_lines(table: pd.DataFrame, x: str, x_title: str, y_title: str, marks: str = "", from_zero: bool = False) -> go.Figure:
    """A line for each run and ``line`` over ``x``; what is ``marked`` has a larger mark, called ``marks`` in the legend.

    ``table``: ``run`` (its name), ``defense_label``, ``line``, ``x``, ``value``, and ``marked`` and ``n`` where there are any. The line
    ``base`` is the same for every run and drawn once. ``from_zero``: ``x`` begins at 0.
    """
    rows = table[table["value"].notna()] if not table.empty else table
    if rows.empty:
        return empty_figure("Nothing was measured here.")
    figure = go.Figure()
    lines = list(dict.fromkeys(rows["line"]))
    trained = [line for line in lines if line != "base"]
    several = rows["run"].nunique() > 1
    for (run, label, line), group in rows.groupby(["run", "defense_label", "line"], sort=False):
        if line == "base" and run != rows["run"].iloc[0]:
            continue
        look = style(label)
        color, symbol = (NEUTRAL, "circle-open") if line == "base" else (look.color, look.symbol)
        number = trained.index(line) if line in trained else 0
        dash = "dot" if line == "base" else look.dash if number == 0 else DASHES[number % len(DASHES)]
        if number:
            symbol = "x-thin"
        if label == "none" and line != "base":  # grey is the base's here
            color = "#8a6d3b"
        name = "base" if line == "base" else run if len(trained) == 1 else f"{run}: {line}" if several else line
        marked = [bool(flag) for flag in group["marked"]] if "marked" in group else [False] * len(group)
        counts = column(group, "n")
        figure.add_scatter(
            x=list(group[x]), y=list(group["value"]), name=name, mode="lines+markers" if len(group) < 60 else "lines",
            line={"color": color, "dash": dash, "width": 2}, marker={"color": color, "symbol": symbol, "size": [12 if flag else 6 for flag in marked], "line": {"width": 1.5, "color": color}},
            text=["" if math.isnan(n) else f", over {n:.0f}" for n in counts], hovertemplate=f"{x} %{{x}}: %{{y:.4g}}%{{text}}",
        )  # fmt: skip
    if marks and "marked" in rows and rows["marked"].any():
        figure.add_scatter(x=[None], y=[None], mode="markers", name=f"large: {marks}", marker={"color": NEUTRAL, "size": 11})
    dress(figure, showlegend=True)
    figure.update_xaxes(title=x_title, rangemode="tozero" if from_zero else "normal")
    figure.update_yaxes(title=y_title, rangemode="tozero")
    return figure


def scale_top(values: Sequence[float | None]) -> float:
    """Where the colours of token values end: what one in twenty exceeds, so that one huge token does not leave the others blank."""
    known = sorted(value for value in values if value is not None and math.isfinite(value))
    return (known[min(len(known) - 1, int(0.95 * len(known)))] if known else 0.0) or 1.0


def token_strip(
    tokens: Sequence[str], values: Sequence[float | None], answer: Sequence[bool], unit: str, top: float, width: int = CHARACTERS
) -> go.Figure:
    """A text as boxes, a token each, darker for a higher value up to ``top``; prompt first, then the answer on a new line.

    ``values`` None: grey. Tokens are foreign text: nothing of them is rendered. The figure sets its own height.
    """
    if not tokens:
        return empty_figure("No token to show.")
    parts: dict[str, int] = {}
    starts, lines, at, line = [], [], 0, 0
    texts = [_shown(token) for token in tokens]
    widths = [max(2, len(text) + 1) for text in texts]
    for place, size in enumerate(widths):
        part = "answer" if answer[place] else "prompt"
        if at and (at + size > width or part not in parts):
            at, line = 0, line + 1
        parts.setdefault(part, line)
        starts.append(at)
        lines.append(line)
        at += size
    figure = go.Figure()
    for known in (True, False):
        where = [place for place, value in enumerate(values) if (value is not None) is known]
        if not where:
            continue
        shades = [values[place] or 0.0 for place in where]
        marker = (
            {
                "color": shades, "colorscale": [list(shade) for shade in SHADES], "cmin": 0.0, "cmax": top, "showscale": True,
                "colorbar": {
                    "orientation": "h", "thickness": 8, "len": 1.0, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "ypad": 2,
                    "title": {"text": f"{unit}, at the dark end {top:.3g} or more", "side": "top", "font": {"size": 12}}, "nticks": 5,
                },
            }
            if known
            else {"color": "rgba(128,128,128,0.25)"}
        )  # fmt: skip
        dark = [known and shade >= DARK_FROM * top for shade in shades]
        figure.add_bar(
            orientation="h", base=[starts[place] for place in where], x=[widths[place] for place in where], y=[lines[place] for place in where],
            width=0.86, marker={**marker, "line": {"width": 0.5, "color": GRID}}, text=[_safe(texts[place]) for place in where],
            textposition="inside", insidetextanchor="middle", textangle=0, cliponaxis=False,
            textfont={"family": MONO, "size": 12, "color": ["#ffffff" if one else "#111111" for one in dark] if known else NEUTRAL},
            customdata=[[_safe(texts[place]), "no value" if not known else f"{values[place]:.4g} {unit}", place + 1] for place in where],
            hovertemplate="token %{customdata[2]} “%{customdata[0]}”: %{customdata[1]}<extra></extra>", showlegend=False,
        )  # fmt: skip
    dress(
        figure,
        showlegend=False,
        bargap=0,
        barmode="overlay",
        height=LINE * (line + 1) + 80,
        margin={"l": 10, "r": 10, "t": 62, "b": 4},
    )
    figure.update_xaxes(visible=False, range=[0, width], fixedrange=True)
    figure.update_yaxes(
        autorange=False,
        range=[line + 0.6, -0.6],
        tickvals=list(parts.values()),
        ticktext=list(parts),
        showgrid=False,
        fixedrange=True,
    )
    return figure


def _shown(token: str) -> str:
    """One line, with what nobody sees made visible."""
    return token.replace("\n", "↵").replace("\t", "⇥").replace("\r", "") or "∅"


def _safe(text: str) -> str:
    """A text in which plotly finds no tag; a blank at its beginning stays."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace(" ", "\u00a0")


def module_map(table: pd.DataFrame, unit: str, marks: str, low: float | None = None, high: float | None = None) -> go.Figure:
    """A box for each weight matrix, layer by module; ``marked`` ones have a cross, called ``marks``.

    ``table``: ``layer``, ``module``, ``value``, ``marked``. ``low`` and ``high`` fix the colours, so that two runs can be held together.
    """
    if table.empty:
        return empty_figure("No weight matrix was looked at.")
    modules = [name for name in MODULES if name in set(table["module"])] + sorted(set(table["module"]) - set(MODULES))
    wide = table.pivot_table(index="module", columns="layer", values="value").reindex(modules[::-1])
    figure = go.Figure()
    figure.add_heatmap(
        x=list(wide.columns), y=list(wide.index), z=wide.to_numpy(), colorscale=[list(shade) for shade in SHADES], zmin=low, zmax=high, xgap=1,
        ygap=1, hovertemplate=f"layer %{{x}}, %{{y}}: %{{z:.3f}} {unit}<extra></extra>",
        colorbar={"title": {"text": unit, "side": "top"}, "orientation": "h", "thickness": 8, "y": 1.0, "yanchor": "bottom", "nticks": 6},
    )  # fmt: skip
    taken = table[table["marked"]]
    if not taken.empty:
        figure.add_scatter(
            x=taken["layer"], y=taken["module"], mode="markers", name=f"{marks} ({len(taken)})", showlegend=True,
            marker={"symbol": "x", "size": 9, "color": "#d55e00", "line": {"color": "#ffffff", "width": 1}}, customdata=taken["value"],
            hovertemplate=f"layer %{{x}}, %{{y}}: %{{customdata:.3f}} {unit}, {marks}<extra></extra>",
        )  # fmt: skip
    dress(figure, margin={"l": 10, "r": 10, "t": 62, "b": 10})
    figure.update_layout(legend={"y": -0.34, "yanchor": "top"})
    figure.update_xaxes(title="Layer (1 = first decoder layer)", showgrid=False, dtick=5)
    figure.update_yaxes(showgrid=False)
    return figure


def score_histogram(table: pd.DataFrame, unit: str) -> go.Figure:
    """Groups of different sizes over the same bins, as shares of each group: the pool behind, what was taken from it in front.

    ``table``: ``line`` (the group), ``low``, ``high``, ``count``.
    """
    if table.empty:
        return empty_figure("No scores to show.")
    figure = go.Figure()
    sizes: Mapping[str, int] = table.groupby("line")["count"].sum().to_dict()
    for line in sorted(sizes, key=lambda name: -sizes[name]):
        group = table[table["line"] == line]
        color, hatch = GROUPS.get(line, ("#6f7c85", "."))
        figure.add_bar(
            x=(group["low"] + group["high"]) / 2, y=100 * group["count"] / sizes[line], width=group["high"] - group["low"],
            name=f"{line} ({sizes[line]})", customdata=group[["low", "high", "count"]].to_numpy(),
            marker={"color": color, "opacity": 0.45 if line == "the pool" else 0.75, "line": {"color": color, "width": 1},
                    "pattern": {"shape": hatch, "fgcolor": "#ffffff", "size": 6, "fillmode": "overlay"}},
            hovertemplate="%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{customdata[2]} (%{y:.1f} %)",
        )  # fmt: skip
    dress(figure, barmode="overlay", showlegend=True)
    figure.update_xaxes(title=unit[:1].upper() + unit[1:])
    figure.update_yaxes(title="Share of the group (%)")
    return figure
