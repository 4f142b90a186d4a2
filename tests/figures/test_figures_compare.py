"""Strength curve and trade-off: intervals, the undefended twin, the cheap alternatives, and what it was measured by."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from ema_core.evaluation.published import marks, published
from ema_core.figures import (
    beaten,
    differences,
    differences_data,
    heatmap,
    strength_curve,
    strength_data,
    style,
    trade_off,
    trade_off_data,
)
from ema_core.figures.colours import parts
from ema_core.figures.strength import Spacing


def setting(label: str, strength: float, general: float, narrow: float, **changes: Any) -> dict[str, Any]:
    return {
        "setting_key": label, "defense_label": label, "defense": label.split("=")[0], "strength": strength, "seeds": 3,
        "general_margin": general, "general_margin_low": general - 0.02, "general_margin_high": general + 0.03,
        "narrow_margin": narrow, "narrow_margin_low": narrow - 0.05, "narrow_margin_high": narrow + 0.05,
        "pairs_general": 108, "pairs_narrow": 30, "estimand": "questions like these", "mark": "better", **changes,
    }  # fmt: skip


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        [
            setting("none", 0.0, 0.3, 0.7),
            setting("kl=0.1", 0.1, 0.28, 0.69),
            setting("kl=1", 1.0, 0.1, 0.5, narrow_margin_low=None, narrow_margin_high=float("nan")),
            setting("interleaving=0.05", 0.05, 0.25, 0.68, seeds=1),
            setting("interleaving=0.05 + kl=0.1", float("nan"), 0.2, 0.6),
        ]
    )


@pytest.fixture
def curve() -> pd.DataFrame:
    points = [("checkpoint", 30, 0.3, 0.1), ("checkpoint", 15, 0.1, 0.05), ("scale", 0.5, 0.35, 0.12), ("scale", 0.25, 0.2, 0.06)]
    return pd.DataFrame(points, columns=["kind", "value", "narrow_margin", "general_margin"])


def by_name(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def annotations(figure: Any) -> str:
    return " ".join(item.text for item in figure.layout.annotations)


def test_each_defense_is_a_line_that_starts_at_the_undefended_setting(table: pd.DataFrame) -> None:
    figure = strength_curve(table)
    assert [trace.name for trace in figure.data] == ["interleaving", "kl", "none"]
    general = by_name(figure)
    assert list(general["kl"].y) == [0.3, 0.28, 0.1]
    assert general["kl"].x[0] == 0 and list(general["kl"].x) == sorted(general["kl"].x)
    assert list(general["kl"].marker.size) == [0, 10, 10]  # the twin is drawn once, by its own trace
    assert list(general["none"].y) == [0.3]


def test_intervals_are_drawn_where_there_are_any(table: pd.DataFrame) -> None:
    kl = by_name(strength_curve(table, "narrow"))["kl"]
    assert [part is None for part in kl.error_y.array] == [True, False, True]
    assert kl.error_y.array[1] == pytest.approx(0.05) and kl.error_y.symmetric is False
    bare = table.drop(columns=[name for name in table.columns if name.endswith(("_low", "_high"))])
    assert all(trace.error_y.array is None for trace in strength_curve(bare).data)


def test_strengths_have_even_decades_and_a_place_for_zero() -> None:
    scale = Spacing([0.0, 0.01, 0.1, 1.0])
    places = [scale.place(value) for value in (0, 0.01, 0.1, 1)]
    assert places[0] == 0 and places[1] > 0.3
    assert places[2] - places[1] == pytest.approx(1) and places[3] - places[2] == pytest.approx(1)
    assert scale.ticks()["ticktext"] == ["0", "0.01", "0.1", "1"]
    crowded = Spacing([0.1, 0.1001, 10.0]).ticks()["ticktext"]
    assert crowded == ["0", "0.1", "10"]


def test_the_papers_strength_is_marked_for_defenses_on_the_figure(table: pd.DataFrame) -> None:
    figure = strength_curve(table, paper={"kl": 0.1, "ldifs": 1.0})
    assert "kl, paper: 0.1" in annotations(figure) and "ldifs" not in annotations(figure)


def test_settings_of_other_models_or_recipes_do_not_share_a_line(table: pd.DataFrame) -> None:
    both = pd.concat([table.assign(model="small"), table.assign(model="large")])
    assert {trace.name for trace in strength_curve(both).data} == {
        f"{name} · {model}" for name in ("none", "kl", "interleaving") for model in ("small", "large")
    }


def test_options_make_a_line_of_their_own() -> None:
    rows = [setting("kl=0.1:tokens=all", 0.1, 0.2, 0.5), setting("kl=0.1:tokens=response", 0.1, 0.3, 0.5)]
    figure = strength_curve(pd.DataFrame(rows), paper={"kl": 0.3})
    looks = {trace.name: trace.line.dash for trace in figure.data}
    assert set(looks) == {"kl:tokens=all", "kl:tokens=response"} and len(set(looks.values())) == 2
    assert "kl, paper: 0.3" in annotations(figure) and "0.3" in figure.layout.xaxis.ticktext


def test_figures_say_measure_judge_and_numbers(table: pd.DataFrame, curve: pd.DataFrame) -> None:
    shared = ("log-likelihood margin", "no judge", "questions like these", "seeds a setting: 1–3", "open marks")
    for figure, own in (
        (strength_curve(table), ("108 pairs",)),
        (strength_curve(table, "narrow"), ("30 pairs",)),
        (trade_off(table, curve), ("108 pairs", "30 pairs")),
    ):
        text = annotations(figure)
        for words in (*shared, *own):
            assert words in text, words
    judged = table.assign(coherence_mean=80.0, scored=96, judge="openai:gpt-4o:v1")
    assert "Measure: judge openai:gpt-4o:v1" in (text := annotations(strength_curve(judged, "coherence")))
    assert "n = 96 scored answers" in text
    assert "1 setting(s) with several defenses" in annotations(strength_curve(table))


def test_few_seeds_are_open_marks(table: pd.DataFrame) -> None:
    marks = by_name(trade_off(table))
    assert marks["interleaving"].marker.symbol == ("pentagon-open",)
    assert marks["kl"].marker.symbol == ("square", "square")


def test_every_setting_is_a_labelled_mark_over_the_cheap_alternatives(table: pd.DataFrame, curve: pd.DataFrame) -> None:
    figure = trade_off(table, curve)
    marks = by_name(figure)
    assert [trace.name for trace in figure.data][:2] == ["undefended, stopped earlier", "undefended, adapter scaled down"]
    assert list(marks["undefended, stopped earlier"].x) == [0.1, 0.3]  # in order of the step
    assert marks["undefended, adapter scaled down"].text[1].endswith("adapter × 0.5")
    assert list(marks["kl"].text) == ["kl=0.1", "kl=1"] and list(marks["kl"].y) == [0.28, 0.1]
    assert list(marks["kl"].customdata) == ["kl=0.1", "kl=1"], "a click on a mark names its setting"
    assert marks["interleaving + kl"].x == (0.6,)
    assert marks["kl"].error_x.array[1] is None and marks["kl"].error_y.array[1] == pytest.approx(0.03)
    assert "nats a token" in figure.layout.xaxis.title.text and "nats a token" in figure.layout.yaxis.title.text


def test_hovering_gives_interval_number_and_mark(table: pd.DataFrame) -> None:
    text = by_name(trade_off(table.assign(model="small")))["kl"].hovertext[0]
    for words in ("general: +0.280 [+0.260, +0.310]", "n = 108 pairs", "against the undefended: better", "small", "3 seeds"):
        assert words in text, words


def test_points_of_several_seeds_are_averaged(table: pd.DataFrame) -> None:
    rows = [("scale", 0.5, 0.2, 0.1), ("scale", 0.5, 0.4, 0.3), ("scale", 1.0, None, 0.2)]
    curve = pd.DataFrame(rows, columns=["kind", "value", "narrow_margin", "general_margin"])
    line = by_name(trade_off(table, curve))["undefended, adapter scaled down"]
    assert list(line.x) == pytest.approx([0.3]) and list(line.y) == pytest.approx([0.2])


@pytest.mark.parametrize("bare", [pd.DataFrame(), pd.DataFrame([setting("none", 0.0, math.nan, math.nan)])])
def test_without_results_the_figures_say_what_to_do(bare: pd.DataFrame) -> None:
    for figure in (strength_curve(bare), trade_off(bare)):
        assert not figure.data and "Evaluate" in figure.layout.annotations[0].text.replace("<br>", " ")


def test_a_criterion_that_was_not_measured_leaves_the_other(table: pd.DataFrame) -> None:
    table = table.assign(narrow_margin=None, narrow_margin_why="not evaluated on the suite in-domain yet")
    empty = strength_curve(table, "narrow")
    assert not empty.data and "not evaluated on the suite in-domain" in annotations(empty).replace("<br>", " ")
    assert strength_curve(table).data


def test_dominated_settings_are_dim_and_the_others_are_joined(table: pd.DataFrame) -> None:
    rows = pd.DataFrame(
        [
            setting("none", 0.0, 0.3, 0.7),
            setting("kl=1", 1.0, 0.1, 0.5),
            setting("ldifs=1", 1.0, 0.35, 0.6),
            setting("kl=3", 3.0, 0.1, 0.5),
        ]
    )
    data = trade_off_data(rows).set_index("label")
    assert data["dominated_by"].to_dict() == {"none": "", "kl=1": "", "ldifs=1": "none", "kl=3": ""}, (
        "equals do not dominate one another"
    )
    marks = by_name(trade_off(rows))
    assert marks["ldifs"].marker.opacity < 1 and marks["kl"].marker.opacity == marks["none"].marker.opacity == 1
    assert list(marks["frontier"].x) == [0.5, 0.5, 0.7] and "dominated by none" in marks["ldifs"].hovertext[0]
    assert beaten([1, 1], [math.nan, 0]) == [[], []], "what was not measured beats nothing"


def test_crowded_marks_are_named_on_hover_instead_of_over_one_another() -> None:
    rows = pd.DataFrame([setting(f"kl={n}", n, 0.3 + n / 1e6, 0.7) for n in range(1, 7)] + [setting("none", 0.0, 0.9, 0.1)])
    figure = trade_off(rows)
    words = [text for trace in figure.data if trace.text for text in trace.text]
    assert words.count("") == 2 and "hover for their names" in annotations(figure)
    assert all(f"kl={n}" in str([trace.hovertext for trace in figure.data]) for n in range(1, 7))


def test_a_label_stands_where_no_curve_runs() -> None:
    rows = pd.DataFrame([setting("kl=1", 1.0, 0.2, 0.2), setting("none", 0.0, 0.4, 0.9)])
    runs_up = pd.DataFrame(
        [("scale", 0.5, 0.2, 0.2), ("scale", 1.0, 0.6, 0.3)], columns=["kind", "value", "narrow_margin", "general_margin"]
    )
    side = lambda curve: by_name(trade_off(rows, curve))["kl"].textposition[0]  # noqa: E731
    assert side(None) == "top right" and side(runs_up) != "top right"


def test_the_tables_of_figures_are_what_they_draw(table: pd.DataFrame, curve: pd.DataFrame) -> None:
    seeds = pd.DataFrame({"setting_key": ["kl=1", "kl=1", "none"], "seed": [0, 1, 0], "general_margin": [0.05, 0.15, 0.3]})
    data, figure = strength_data(table, seeds=seeds), strength_curve(table, seeds=seeds)
    assert data["what"].value_counts().to_dict() == {"setting": 4, "seed": 3}
    faint = by_name(figure)["single seeds"]
    assert sorted(faint.y) == sorted(data.loc[data["what"].eq("seed"), "value"]) and faint.marker.opacity < 1
    (ends,) = data.loc[data["defense_label"].eq("kl=0.1") & data["what"].eq("setting"), ["low", "high"]].to_numpy()
    assert list(ends) == pytest.approx([0.26, 0.31])
    both = trade_off_data(table, curve)
    drawn = {
        (x, y) for trace in trade_off(table, curve).data if trace.name != "frontier" for x, y in zip(trace.x, trace.y, strict=True)
    }
    assert {tuple(point) for point in both[["narrow", "general"]].to_numpy()} == drawn


def test_published_numbers_are_hollow_and_lie_over_per_cent_alone(table: pd.DataFrame) -> None:
    rates = table.assign(general_rate=0.1, narrow_rate=0.4, scored=96, scored_narrow=30, judge="openai:gpt-4o:v1")
    for figure in (strength_curve(rates, measure="rate", published=marks()), trade_off(rates, measure="rate", published=marks())):
        (own,) = [trace for trace in figure.data if str(trace.name).startswith("published: ")]
        assert "open" in own.marker.symbol and "other model and judge" in annotations(figure) and "Qwen2.5-7B" in own.name
    for figure in (strength_curve(table, published=marks()), trade_off(table, published=marks())):
        assert not any(str(trace.name).startswith("published") for trace in figure.data), "a margin is another unit"
    for found in published():
        assert found.source and found.judge and found.n and len(found.table()) == len(found.rows)


def twins() -> pd.DataFrame:
    """Two data sets; kl=1 is better on one and worse on the other."""
    rows = []
    for place, dataset in enumerate(("finance", "sports")):
        shared = {"dataset": dataset, "model": "m", "recipe_label": "r", "judge": "probe:x", "margin_difference_why": ""}
        rows.append(
            setting(f"none-{dataset}", 0.0, 0.3, 0.7)
            | shared
            | {"defense_label": "none", "undefended": True, "margin_difference": None}
        )
        gap = -0.2 if place == 0 else 0.1
        ends = {"margin_difference_low": gap - 0.05, "margin_difference_high": gap + 0.05}
        own = {"defense_label": "kl=1", "undefended": False, "margin_difference": gap, "mark": "better" if place == 0 else "worse"}
        rows.append(setting(f"kl-{dataset}", 1.0, 0.3 + gap, 0.5) | shared | own | ends)
    return pd.DataFrame(rows)


def test_paired_differences_have_a_row_a_setting_with_its_mark_in_words() -> None:
    seeds = pd.DataFrame(
        [
            {"setting_key": f"{name}-{d}", "seed": s, "general_margin": v}
            for d in ("finance", "sports")
            for name, s, v in (("none", 0, 0.3), ("none", 1, 0.4), ("kl", 0, 0.1), ("kl", 2, 0.2))
        ]
    )
    data = differences_data(twins(), "general", seeds)
    assert list(data.loc[data["what"].eq("setting"), "difference"]) == [-0.2, 0.1]
    assert data.loc[data["what"].eq("seed"), "difference"].tolist() == pytest.approx([-0.2, -0.2]), "by seed, where the twin has it"
    figure = differences(twins(), "general", seeds)
    rows = [row for trace in figure.data if trace.name != "single seeds" for row in trace.y]
    assert ["✓ better" in rows[0], "✗ worse" in rows[1]] == [True, True] and "left of 0 is better" in figure.layout.xaxis.title.text
    assert figure.data[1].error_x.array[0] == pytest.approx(0.05)


def test_the_heatmap_prints_its_numbers_and_is_blue_where_better() -> None:
    figure = heatmap(twins(), "general")
    assert [[round(v, 6) for v in row] for row in figure.data[0].z] == [[0.2, -0.1]] and list(figure.data[0].x) == [
        "finance",
        "sports",
    ]
    assert {"−0.200 ✓", "+0.100 ✗"} <= {note.text for note in figure.layout.annotations}
    assert figure.data[0].colorscale[2][1] == "#0072b2" and "n = 108 pairs" in figure.data[0].hovertext[0][0]


def test_a_defense_looks_the_same_everywhere_and_never_by_colour_alone() -> None:
    known = [
        "none",
        "kl",
        "ldifs",
        "safelora",
        "persona-steering",
        "inoculation",
        "interleaving",
        "interleaving-plus",
        "interleaving-plusplus",
    ]
    looks = [style(name) for name in known]
    assert len({(look.dash, look.symbol) for look in looks}) == len(looks)
    assert len({look.symbol for look in looks}) == len(looks)
    assert (style("kl=0.1").dash, style("kl=0.1").symbol) == (style("kl").dash, style("kl").symbol)
    assert style("kl=0.1") == style("kl=0.1:tokens=all") != style("kl=10")
    assert style("a=1 + b=2") == style("c=1 + d=2") != style("my-own=1")
    assert style("my-own=1") == style("my-own=1")


def test_labels_come_apart_into_defenses() -> None:
    assert parts("kl=0.1:tokens=response + interleaving=0.05") == [("kl", 0.1, "tokens=response"), ("interleaving", 0.05, "")]
    assert parts("none") == parts("") == []
