"""The gap scores' part of a page, on scores written by hand."""

from __future__ import annotations

from pathlib import Path

from evaluated_home import said
from streamlit.testing.v1 import AppTest

from ema_core import gap
from ema_core.jobs import queue
from tests.gap.planted import a_member, plant_scores
from tests.training.tiny import add_tiny


def panel(**query: str) -> AppTest:
    def script() -> None:
        from pages.widgets.gap_panel import gap_panel

        gap_panel()

    app = AppTest.from_function(script, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def test_without_scores_it_says_what_to_do_and_one_click_queues_it(home: Path) -> None:
    add_tiny(home)
    app = panel()
    assert "No gap scores yet" in said(app)
    app.selectbox(key="gap-pool").select("tiny-safe")
    app.selectbox(key="gap-domain").select("tiny").run()
    text = said(app)
    assert "Ensemble: risky-finance" in text and "Left out: nothing" in text
    assert "Gap scores of tiny-safe for tiny: about" in text and "Misaligned run on risky-finance, for the ensemble: about" in text
    app.button(key="gap-score").click().run()
    assert not app.exception
    kinds = [job.kind for job in queue.jobs()]
    assert kinds[-1] == "gap" and kinds.count("train") == len(gap.others("tiny"))
    assert "It is in the queue" in "\n".join(str(one.value) for one in app.success)
    (job,) = [job for job in queue.jobs() if job.kind == "gap"]
    app.button(key=f"gap-cancel-{job.id}").click().run()
    assert queue.get(job.id).status == "cancelled"


def test_it_shows_the_numbers_of_the_files_and_marks_what_would_be_chosen(home: Path) -> None:
    add_tiny(home)
    plant_scores(domain="old", created=1.0)
    card = plant_scores(value=lambda i: (i * 5 % 12) / 10, created=2.0, refused=[a_member(low=-0.5, run="b-run")])
    app = panel(scores=card.id)
    app.number_input(key="gap-count").set_value(3).run()
    assert not app.exception
    members, rows = app.dataframe[0].value, app.dataframe[1].value
    assert list(members["Member"]) == ["a-run", "b-run"] and list(members["95 % low"]) == [0.1, -0.5]
    assert list(members["Verdict"]) == ["shown misaligned", "left out: not shown"]
    expected = sorted(gap.read_scores(card), key=lambda row: -row.score)
    for column in ("question", "answer", "score", "aligned", "misaligned"):
        assert list(rows[column]) == [getattr(row, column) for row in expected]
    assert list(rows["chosen"]) == [True] * 3 + [False] * 9
    text = said(app)
    assert "12 candidates, 0 of them refusals, 3 chosen" in text and card.weights_hash in text


def test_a_link_opens_its_scores_and_one_that_leads_nowhere_is_said(home: Path) -> None:
    add_tiny(home)
    old, new = plant_scores(domain="old", created=1.0), plant_scores(created=2.0)
    assert panel(scores=old.id).selectbox(key="gap-scores").value == old.id
    gone = panel(scores="gone")
    assert gone.selectbox(key="gap-scores").value == new.id and 'There are no gap scores "gone"' in said(gone)
    gone.selectbox(key="gap-scores").select(old.id).run()
    assert gone.query_params["scores"] in (old.id, [old.id])
