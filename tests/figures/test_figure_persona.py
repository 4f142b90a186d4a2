"""The separation figure: the numbers given, the layer that is used, how many answers."""

from __future__ import annotations

import pandas as pd

from ema_core.figures import separation


def test_both_curves_the_layer_used_and_n_are_drawn() -> None:
    table = pd.DataFrame({"layer": [0, 1, 2], "auc": [0.4, 0.9, 1.0], "difference": [-0.2, 1.5, 2.0]})
    figure = separation(table, 1, 12, ("evil", "friendly"))
    auc, difference = figure.data
    assert list(auc.y) == [0.4, 0.9, 1.0] and list(difference.y) == [-0.2, 1.5, 2.0] and difference.yaxis == "y2"
    assert [shape.x0 for shape in figure.layout.shapes if shape.name == "used"] == [1]
    assert any("layer 1 is used" in note.text for note in figure.layout.annotations)
    assert "12 evil and 12 friendly answers, held out" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.range[0] <= 0.4 and figure.layout.yaxis2.range[0] <= -0.2


def test_without_a_vector_it_says_what_to_do() -> None:
    assert "build one" in separation(None, 1, 12, ("evil", "friendly")).layout.annotations[0].text
