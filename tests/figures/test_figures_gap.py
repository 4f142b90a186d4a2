"""The figure of a pool's candidates: each is drawn once, where its losses say, under its own kind."""

from __future__ import annotations

import pandas as pd

from ema_core.figures import gap_scatter


def table() -> pd.DataFrame:
    rows = [
        (0, 2.0, 3.5, 0.5, False, True, "plain"),
        (1, 1.0, 2.2, 0.6, True, True, "<b>bold</b> & more"),
        (2, 3.0, 3.1, 0.025, True, False, "c"),
        (3, 3.0, 2.0, -0.25, False, False, "d"),
    ]
    return pd.DataFrame(rows, columns=["index", "aligned", "misaligned", "score", "refusal", "chosen", "question"])


def test_every_candidate_is_drawn_once_by_its_losses_and_kind() -> None:
    marks = {trace.name: trace for trace in gap_scatter(table()).data if trace.mode == "markers"}
    drawn = {name: list(zip(trace.x, trace.y, trace.customdata, strict=True)) for name, trace in marks.items()}
    assert drawn == {
        "candidate (1)": [(3.0, 2.0, -0.25)],
        "refusal (1)": [(3.0, 3.1, 0.025)],
        "chosen (1)": [(2.0, 3.5, 0.5)],
        "chosen, a refusal (1)": [(1.0, 2.2, 0.6)],
    }
    assert len({(trace.marker.symbol, trace.marker.color) for trace in marks.values()}) == 4


def test_nothing_of_a_question_is_rendered() -> None:
    texts = [text for trace in gap_scatter(table()).data for text in (trace.text or ())]
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in texts and not any("<b" in text for text in texts)


def test_without_scores_the_figure_says_so() -> None:
    assert gap_scatter(table()[:0]).layout.annotations[0].text
