"""Figures of a run's inside: each number is drawn once, where it belongs, and nothing of a token is rendered."""

from __future__ import annotations

import pandas as pd

from ema_core.figures import inside_lines, module_map, scale_top, score_histogram, style, token_strip


def lines() -> pd.DataFrame:
    rows = [
        {"run": run, "defense_label": label, "line": line, "layer": layer, "value": value + layer, "marked": layer == 2}
        for run, label, line, value in (
            ("kl=1", "kl=1", "base", 0.0), ("kl=1", "kl=1", "trained", 1.0), ("undefended", "none", "base", 0.0), ("undefended", "none", "trained", 2.0),
        )
        for layer in (1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_base_is_drawn_once_and_each_run_by_its_defenses_look() -> None:
    figure = inside_lines(lines(), "layer", "Layer", "SD", "used")
    drawn = {trace.name: list(trace.y) for trace in figure.data if trace.y[0] is not None}
    assert drawn == {"base": [1.0, 2.0], "kl=1": [2.0, 3.0], "undefended": [3.0, 4.0]}
    looks = {trace.name: (trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}
    assert looks["kl=1"] == (style("kl=1").color, style("kl=1").dash, style("kl=1").symbol)
    assert len({looks[name][0] for name in drawn}) == 3 and len({looks[name][2] for name in drawn}) == 3
    sizes = {tuple(trace.marker.size) for trace in figure.data if trace.name in drawn}
    assert sizes == {(6, 12)} and figure.data[-1].name == "large: used"


def test_tokens_stand_in_order_prompt_first_and_nothing_of_them_is_rendered() -> None:
    tokens = ["Hi", " <b>you</b>", "\n", "No", " & more", "."]
    values = [None, 0.5, 0.1, 2.0, 1.0, 0.0]
    figure = token_strip(tokens, values, [False, False, False, True, True, True], "nats", 2.0, width=12)
    boxes = [
        (line, start, text, trace.marker.showscale)
        for trace in figure.data
        for line, start, text in zip(trace.y, trace.base, trace.text, strict=True)
    ]
    in_order = [text for _, _, text, _ in sorted(boxes, key=lambda box: box[:2])]
    assert in_order == ["Hi", "\u00a0&lt;b&gt;you&lt;/b&gt;", "↵", "No", "\u00a0&amp;\u00a0more", "."]
    assert [bool(known) for *_, known in sorted(boxes, key=lambda box: box[:2])] == [False, True, True, True, True, True]
    shades = dict(zip(figure.data[0].text, figure.data[0].textfont.color, strict=True))
    assert shades["No"] == "#ffffff" and shades["."] == "#111111", "a light text on a dark box"
    assert list(figure.layout.yaxis.ticktext) == ["prompt", "answer"]
    answer = figure.layout.yaxis.tickvals[1]
    assert {line for line, _, text, _ in boxes if text == "No"} == {answer}


def test_one_huge_token_does_not_leave_the_others_blank() -> None:
    assert scale_top([0.1] * 30 + [50.0, None]) == 0.1 and scale_top([None]) == 1.0


def test_every_matrix_is_a_box_and_the_marked_ones_have_a_cross() -> None:
    rows = [
        (layer, module, layer / 10, layer == 2 and module == "q_proj")
        for layer in (1, 2)
        for module in ("q_proj", "down_proj", "odd")
    ]
    figure = module_map(pd.DataFrame(rows, columns=["layer", "module", "value", "marked"]), "cosine", "projected")
    heat, crosses = figure.data
    assert list(heat.y) == ["odd", "down_proj", "q_proj"] and heat.z.tolist() == [[0.1, 0.2]] * 3
    assert (list(crosses.x), list(crosses.y), crosses.name) == ([2], ["q_proj"], "projected (1)")


def test_groups_of_any_size_are_shares_and_told_apart_without_colour() -> None:
    rows = [("the pool", 0.0, 0.1, 30), ("the pool", 0.1, 0.2, 10), ("mixed in", 0.1, 0.2, 4)]
    figure = score_histogram(pd.DataFrame(rows, columns=["line", "low", "high", "count"]), "gap score")
    shares = {trace.name: list(trace.y) for trace in figure.data}
    assert shares == {"the pool (40)": [75.0, 25.0], "mixed in (4)": [100.0]}
    assert len({trace.marker.pattern.shape for trace in figure.data}) == 2


def test_without_numbers_a_figure_says_so() -> None:
    for figure in (
        inside_lines(lines()[:0], "layer", "Layer", ""),
        token_strip([], [], [], "", 1.0),
        score_histogram(pd.DataFrame(), ""),
    ):
        assert figure.layout.annotations[0].text
