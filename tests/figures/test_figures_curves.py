"""Curves show each run once, smoothed honestly, with few enough points for a browser."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ema_core.figures import PENALTIES, QUANTITIES, curve_traces, smooth, training_curves
from ema_core.figures.curves import MANY, POINTS
from ema_core.figures.smoothing import thin


def steps_of(run_id: str, label: str, count: int, seed: int = 0, **changes: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_id": run_id, "step": range(1, count + 1), "ce": np.linspace(3, 2, count), "loss": 3.0, "learning_rate": 1e-4,
            "grad_norm": 0.5, "tokens_per_s": 170.0, "defense_label": label, "seed": seed, "name": "", **changes,
        }
    )  # fmt: skip


def penalties_of(run_id: str, label: str, defense: str, count: int) -> pd.DataFrame:
    steps = range(1, count + 1)
    return pd.DataFrame(
        {
            "run_id": run_id,
            "step": steps,
            "defense": defense,
            "raw": 0.5,
            "weighted": 0.05,
            "defense_label": label,
            "seed": 0,
            "name": "",
        }
    )


@pytest.fixture
def two_runs() -> pd.DataFrame:
    return pd.concat([steps_of("run-aaaa", "none", 20), steps_of("run-bbbb", "kl=0.1:tokens=response", 20, seed=3)])


def test_smoothing_is_the_bias_corrected_mean() -> None:
    values, weight = [3.0, 1.0, 4.0, 1.0, 5.0], 0.7
    expected = []
    for n in range(len(values)):
        weights = [weight ** (n - i) for i in range(n + 1)]
        expected.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
    assert smooth(values, weight) == pytest.approx(expected)
    assert list(smooth(values, 0)) == values
    assert smooth([2.0] * 50, 0.99) == pytest.approx([2.0] * 50)  # without the correction it would start near 0


def test_smoothing_passes_over_what_is_no_number() -> None:
    found = smooth([1.0, math.nan, math.inf, 1.0], 0.5)
    assert found[0] == found[3] == 1.0 and math.isnan(found[1]) and math.isnan(found[2])
    assert len(smooth([], 0.5)) == 0
    with pytest.raises(ValueError, match="smoothing"):
        smooth([1.0], 1.0)


def test_thinning_keeps_ends_and_spikes() -> None:
    values = np.zeros(50_000)
    values[31_337] = 9.0
    values[5] = math.nan
    kept = thin(values, 2000)
    assert len(kept) <= 2000 and kept[0] == 0 and kept[-1] == 49_999 and 31_337 in kept
    assert list(thin(values[:10], 2000)) == list(range(10))


def test_traces_are_plain_json_with_a_curve_a_run(two_runs: pd.DataFrame) -> None:
    two_runs.loc[two_runs["step"] == 4, "ce"] = math.nan
    traces = json.loads(json.dumps(curve_traces(two_runs, smoothing=0.5), allow_nan=False))
    assert [trace["id"] for trace in traces] == ["run-aaaa", "run-bbbb"]
    assert [trace["name"] for trace in traces] == ["none · seed 0", "kl=0.1:tokens=response · seed 3"]
    assert set(traces[0]) == {"id", "name", "defense", "x", "y", "y_smooth", "color", "dash"}
    assert traces[0]["x"] == list(range(1, 21)) and traces[0]["y"][3] is None
    assert traces[0]["color"] != traces[1]["color"]


def test_many_runs_are_a_line_a_defense_with_gaps() -> None:
    frame = pd.concat([steps_of(f"run-{n:04d}", "none" if n % 2 else "kl=1", 5, seed=n) for n in range(MANY + 2)])
    figure = training_curves(frame, smoothing=0, raw=False)
    assert [line.name for line in figure.data] == [f"kl=1 ({MANY // 2 + 1})", f"none ({MANY // 2 + 1})"]
    alone = {trace["name"]: trace["y_smooth"] for trace in curve_traces(frame, smoothing=0)}
    for line in figure.data:
        drawn = np.asarray(line.y, float)
        assert np.isnan(drawn[5::6]).all()  # a gap after each run
        for n in range(MANY // 2 + 1):
            assert drawn[6 * n : 6 * n + 5] == pytest.approx(alone[line.text[6 * n]], rel=1e-5)


def test_a_long_run_is_thinned_after_it_was_smoothed() -> None:
    trace = curve_traces(steps_of("r", "none", 9000), smoothing=0.9)[0]
    assert len(trace["x"]) == len(trace["y"]) == len(trace["y_smooth"]) <= POINTS
    whole = smooth(np.linspace(3, 2, 9000), 0.9)
    assert trace["y_smooth"][-1] == pytest.approx(whole[-1], rel=1e-5)


def test_runs_that_would_be_called_the_same_are_told_apart() -> None:
    frame = pd.concat(
        [steps_of("run-aaaa", "none", 3), steps_of("run-bbbb", "none", 3), steps_of("run-cccc", "none", 3, name="mine")]
    )
    assert [trace["name"] for trace in curve_traces(frame)] == ["none · seed 0 · aaaa", "none · seed 0 · bbbb", "mine"]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_has_a_figure_with_units(two_runs: pd.DataFrame, quantity: Any) -> None:
    penalties = penalties_of("run-bbbb", "kl=0.1", "kl", 20)
    measured = two_runs if quantity in two_runs else two_runs.assign(**{quantity: 0.5})  # a probe's
    figure = training_curves(measured, penalties, quantity, smoothing=0.6)
    runs = 1 if quantity in PENALTIES else 2
    assert len(figure.data) == 2 * runs  # faint raw, smoothed line
    assert sum(trace.showlegend is not False for trace in figure.data) == runs
    assert figure.layout.yaxis.title.text == QUANTITIES[quantity] and figure.layout.xaxis.title.text == "Training step"
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color is None


def test_penalties_of_several_defenses_are_curves_of_their_own() -> None:
    label = "interleaving=0.05 + kl=0.1"
    penalties = pd.concat([penalties_of("r", label, "kl", 5), penalties_of("r", label, "other", 5)])
    traces = curve_traces(steps_of("r", label, 5), penalties, "weighted")
    assert [trace["id"] for trace in traces] == ["r/kl", "r/other"]
    assert all(trace["name"].endswith(tail) for trace, tail in zip(traces, ("kl", "other"), strict=True))


def test_raw_can_be_left_out_and_a_zoom_is_kept(two_runs: pd.DataFrame) -> None:
    figure = training_curves(two_runs, raw=False, axis_range={"x": (4, 9), "y": [2.0, 2.5]})
    assert len(figure.data) == 2
    assert list(figure.layout.xaxis.range) == [4, 9] and list(figure.layout.yaxis.range) == [2.0, 2.5]
    assert len(training_curves(two_runs, smoothing=0).data) == 2


@pytest.mark.parametrize(
    ("steps", "quantity", "words"),
    [
        (pd.DataFrame(), "ce", "Start a run"),
        (steps_of("r", "none", 3), "raw", "Choose a run with a defense"),
        (steps_of("r", "none", 3, ce=math.nan), "ce", "recorded no cross-entropy"),
    ],
)
def test_without_data_the_figure_says_what_to_do(steps: pd.DataFrame, quantity: Any, words: str) -> None:
    figure = training_curves(steps, None, quantity)
    assert not figure.data and words in figure.layout.annotations[0].text.replace("<br>", " ")


def test_frames_with_only_what_is_needed_are_enough() -> None:
    frame = pd.DataFrame({"run_id": ["a", "a"], "step": [1, 2], "ce": [1.0, None]})
    assert [trace["name"] for trace in curve_traces(frame)] == ["a"]
    with pytest.raises(ValueError, match="known: ce"):
        curve_traces(frame, quantity="accuracy")  # type: ignore[arg-type]


def test_a_penalty_is_drawn_as_a_share_of_the_steps_loss() -> None:
    steps, penalties = steps_of("r", "kl=1", 4), penalties_of("r", "kl=1", "kl", 4)
    steps["loss"] = [2.0, 4.0, 0.0, -1.0]
    penalties["weighted"] = 0.5
    (trace,) = curve_traces(steps, penalties, "share", smoothing=0)
    assert trace["y"] == [25.0, 12.5, None, None], "no share of a loss that is not above zero"
    assert not curve_traces(steps, None, "share") and "share" not in penalties.columns
    assert "share of the total loss" in str(training_curves(steps, penalties, "share").layout.yaxis.title.text)
