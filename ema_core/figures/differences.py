"""Settings against their undefended twins: one row a setting, and defense by data set."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.evaluation.labels import in_order, one_line
from ema_core.figures.colours import style
from ema_core.figures.criterion import MARGINS, Criterion
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar, span
from ema_core.figures.said import note

TWIN = ["model", "dataset", "recipe_label"]
"""What a setting shares with its undefended twin."""
MARKS = {
    "better": ("✓ better", "circle"),
    "worse": ("✗ worse", "x"),
    "not distinguishable": ("≈ not distinguishable", "circle-open"),
    "these adapters only": ("○ under three seeds", "diamond-open"),
}
"""A mark in words with a sign of its own, and the symbol of a row that has it."""
MANY = 25
"""More rows than these are closer together, each in one line."""
BETTER, WORSE, EVEN = "#0072b2", "#d55e00", "#f4f4f4"
"""Ends and middle of the diverging scale: Okabe-Ito's blue and vermilion."""


def differences_data(settings: pd.DataFrame, key: str, seeds: pd.DataFrame | None = None) -> pd.DataFrame:
    """What ``differences`` draws: ``what`` (``setting`` or ``seed``), ``label``, ``difference`` to the twin with ``low, high``, ``n``,
    ``seeds``, ``mark``, ``judge``."""
    one = MARGINS[key]
    rows = in_order(settings) if len(settings) else settings
    if rows.empty or one.difference not in rows:
        return pd.DataFrame(columns=["what", "label", "difference"])
    labels = one_line(rows)
    own = rows[~rows["undefended"].astype(bool) & rows[one.difference].notna()]
    names = {f"{one.difference}": "difference", f"{one.difference}_low": "low", f"{one.difference}_high": "high"}
    found = own[["setting_key", "defense_label", *TWIN, "seeds", "judge", *names]].rename(columns=names)
    found = found.assign(what="setting", label=found["setting_key"].map(labels), n=own[one.count], mark=own[one.mark])
    if seeds is not None and not seeds.empty:
        plain = rows[rows["undefended"].astype(bool)].drop_duplicates(TWIN)
        twins = own.merge(plain[[*TWIN, "setting_key"]], on=TWIN, suffixes=("", "_twin"))[["setting_key", "setting_key_twin"]]
        values = seeds[["setting_key", "seed", one.value]]
        each = twins.merge(values, on="setting_key").merge(
            values.rename(columns={"setting_key": "setting_key_twin"}), on=["setting_key_twin", "seed"], suffixes=("", "_twin")
        )
        each = each.assign(difference=each[one.value] - each[f"{one.value}_twin"]).dropna(subset="difference")
        told = each[["setting_key", "seed", "difference"]].merge(found[["setting_key", "label", "defense_label"]], on="setting_key")
        found = pd.concat([found, told.assign(what="seed")])
    return found.reset_index(drop=True).assign(criterion=key, unit=_unit(one))


def differences(settings: pd.DataFrame, key: str, seeds: pd.DataFrame | None = None) -> go.Figure:
    """A row a setting: its difference to the undefended twin with the interval, its mark in words, each seed's own difference faint."""
    one, drawn = MARGINS[key], differences_data(settings, key, seeds)
    own = drawn[drawn["what"].eq("setting")]
    if own.empty:
        defended = settings[~settings["undefended"].astype(bool)] if "undefended" in settings else settings
        whys = [why for why in defended.get(f"{one.difference}_why", []) if isinstance(why, str) and why]
        return empty_figure(
            f"{one.title.partition(' (')[0]}: no difference to a twin. {whys[0] if whys else 'Nothing was measured'}."
        )
    figure = go.Figure()
    between = "<br>" if len(own) <= MANY else " · "
    rows = {
        name: f"{name}{between}{MARKS[mark][0] if mark in MARKS else 'no mark'}"
        for name, mark in zip(own["label"], own["mark"], strict=True)
    }
    singles = drawn[drawn["what"].eq("seed")]
    figure.add_scatter(
        x=singles["difference"], y=singles["label"].map(rows), mode="markers", showlegend=False, name="single seeds",
        marker={"color": [style(label).color for label in singles["defense_label"]], "symbol": "line-ns-open", "size": 9, "opacity": 0.6},
        text=[f"seed {seed}: {one.told(value)}" for seed, value in zip(singles["seed"], singles["difference"], strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    for defense, same in own.groupby("defense_label", sort=False):  # an error bar has one colour a trace
        color, values = style(str(defense)).color, list(same["difference"])
        bar = error_bar(values, list(same["low"]), list(same["high"]))
        looks = [MARKS.get(mark, ("", "circle-open"))[1] for mark in same["mark"]]
        figure.add_scatter(
            x=values, y=list(same["label"].map(rows)), mode="markers", showlegend=False, name=str(defense), error_x=bar and {**bar, "color": color},
            marker={"color": color, "size": 10, "symbol": looks, "line": {"width": 2, "color": color}}, customdata=list(same["setting_key"]),
            hovertext=[f"{row['label']}: {_told(one, row)}" for row in same.to_dict("records")], hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    dress(figure)
    figure.update_xaxes(
        title=f"Difference to the undefended twin<br>({_unit(one)}); {'right' if one.up_is_better else 'left'} of 0 is better"
    )
    order = [rows[label] for label in own["label"]]
    figure.update_yaxes(autorange="reversed", title="", dtick=1, categoryorder="array", categoryarray=order)
    figure.update_layout(title={"text": one.title, "font": {"size": 14}, "x": 0, "xanchor": "left", "y": 0.99, "yanchor": "top"})
    said = [f"Measure: {by}" for by in dict.fromkeys(one.measured_by(row) for row in own.to_dict("records"))]
    said += ["95 % intervals for questions like these, paired by question or pair and seed"]
    said += [f"n = {span(column(own, 'n'))} {one.counted}", f"seeds a setting: {span(column(own, 'seeds'))}"]
    said += ["marks corrected for their number (Holm)"] + (["ticks: single seeds"] if len(singles) else [])
    return note(figure, said, below=78, right=True)


def height(rows: int) -> int:
    """Pixels for a figure with a row each."""
    return 230 + (44 if rows <= MANY else 22) * max(1, rows)


def heatmap_data(settings: pd.DataFrame, key: str) -> pd.DataFrame:
    """What ``heatmap`` draws, a row a cell: ``defense_label``, ``dataset``, ``difference`` with ``low, high``, ``n``, ``seeds``, ``mark``."""
    found = differences_data(settings, key)
    return found.drop(columns=["what", "label"]) if len(found) else found


def heatmap(settings: pd.DataFrame, key: str) -> go.Figure:
    """Defense by data set: the difference to each data set's own undefended twin, of one model and recipe. Blue is better, orange worse;
    the number stands in each cell."""
    one, cells = MARGINS[key], heatmap_data(settings, key)
    if cells.empty:
        return empty_figure("No difference to a twin was measured. Evaluate settings with a defense and their undefended twins.")
    defenses, sets = list(dict.fromkeys(cells["defense_label"])), sorted(set(cells["dataset"]))
    by = {(row["defense_label"], row["dataset"]): row for row in cells.to_dict("records")}
    sign = 1 if one.up_is_better else -1
    reach = max(abs(float(value)) for value in cells["difference"]) or 1.0
    values = [[float(by[d, s]["difference"]) if (d, s) in by else math.nan for s in sets] for d in defenses]
    words = [
        [f"{d} on {s}: {_told(one, by[d, s])}" if (d, s) in by else f"{d} on {s}: not measured" for s in sets] for d in defenses
    ]
    figure = go.Figure(
        go.Heatmap(
            z=[[sign * value for value in row] for row in values], x=sets, y=defenses, zmin=-reach, zmax=reach, xgap=2, ygap=2,
            colorscale=[[0, WORSE], [0.5, EVEN], [1, BETTER]], hovertext=words, hovertemplate="%{hovertext}<extra></extra>",
            colorbar={"tickvals": [-reach, 0, reach], "ticktext": ["worse", "0", "better"], "thickness": 12, "outlinewidth": 0},
        )
    )  # fmt: skip
    for d, row in zip(defenses, values, strict=True):
        for s, value in zip(sets, row, strict=True):
            dark = math.isfinite(value) and abs(value) > 0.6 * reach
            text = one.told(value) + _sign(by[d, s]["mark"]) if math.isfinite(value) else "–"
            color = (
                {"font": {"size": 12, "color": "#ffffff" if dark else "#1a1a1a"}}
                if math.isfinite(value)
                else {"font": {"size": 12}}
            )
            figure.add_annotation(x=s, y=d, text=text, showarrow=False, **color)
    dress(figure)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, side="top")
    said = [f"{one.title.partition(' (')[0]}: difference to the undefended twin ({_unit(one)})"]
    said += [f"Measure: {by_}" for by_ in dict.fromkeys(one.measured_by(row) for row in cells.to_dict("records"))]
    said += [f"n = {span(column(cells, 'n'))} {one.counted}", f"seeds a setting: {span(column(cells, 'seeds'))}"]
    said += ["✓ better, ✗ worse, ≈ not distinguishable, ○ under three seeds"]
    return note(figure, said, below=12)


def _sign(mark: str) -> str:
    return f" {MARKS[mark][0][0]}" if mark in MARKS else ""


def _unit(one: Criterion) -> str:
    return "nats a token" if one.value.endswith("_margin") else "points of 100"


def _told(one: Criterion, row: dict) -> str:
    text = one.told(row["difference"])
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        text += f" [{one.told(row['low'])}, {one.told(row['high'])}]"
    seeds = int(row["seeds"])
    return f"{text}, n = {row['n']:.0f} {one.counted}, {seeds} seed{'' if seeds == 1 else 's'}; {row['mark'] or 'no mark'}"
