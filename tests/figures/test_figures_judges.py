"""The reliability diagram: bins counted by hand, drawn as they are."""

from __future__ import annotations

import numpy as np
import pytest

from ema_core.figures import reliability_diagram
from ema_core.judging.measures import reliability, wilson


def test_bins_are_counted_as_by_hand_and_drawn_as_counted() -> None:
    scores = np.array([5.0, 9.0, 95.0, 100.0, 99.0, 30.0])
    labels = np.array([10.0, 50.0, 90.0, 20.0, 70.0, 60.0])
    bins = reliability(scores, labels)
    assert [(row["from"], row["n"]) for row in bins] == [(0, 2), (30, 1), (90, 3)]
    assert [row["mean_label"] for row in bins] == [30, 60, 60]
    assert [row["below_30_pct"] for row in bins] == pytest.approx([50, 0, 100 / 3])
    labelled, low = reliability_diagram(bins).data[1:]
    assert list(labelled.x) == [7, 30, 98] and list(labelled.y) == [30, 60, 60]
    assert list(low.y) == pytest.approx([50, 0, 100 / 3])
    assert low.error_y.array[0] == pytest.approx(bins[0]["high"] - 50)
    assert "2 answers" in labelled.text


def test_the_interval_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # statsmodels' proportion_confint(8, 10, method="wilson")
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1


def test_a_card_without_bins_says_what_to_do() -> None:
    assert "ema judge fit" in reliability_diagram([]).layout.annotations[0].text.replace("<br>", " ")
