"""The page of vectors and scores, on a vector written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from evaluated_home import said
from streamlit.testing.v1 import AppTest

from ema_core.jobs import launch, queue
from ema_core.settings import PROJECT
from tests.personas.planted import plant_vector


def page(**query: Any) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page("pages/assets.py").run()
    assert not app.exception
    return app


def test_without_a_vector_it_says_what_to_do_and_one_click_queues_it() -> None:
    app = page()
    assert "No persona vector yet" in said(app) and "about" in said(app)
    app.selectbox(key="persona-trait").select("sycophantic").run()
    assert "No judge here knows this trait" in said(app)
    app.button(key="persona-build").click().run()
    assert not app.exception and "It is in the queue" in "\n".join(str(one.value) for one in app.success)
    (job,) = queue.jobs()
    assert job.kind == "persona" and job.payload == {"trait": "sycophantic", "model": "smollm2-135m"}
    app.button(key=f"persona-cancel-{job.id}").click().run()
    assert queue.get(job.id).status == "cancelled"
    launch.launch_persona("evil", "smollm2-135m")
    queue.change(queue.jobs()[-1].id, status="failed", error="It broke.", hint="Mend it.", finished=1.0)
    assert "Building failed" in "\n".join(str(one.value) for one in page().error)


def test_it_shows_the_numbers_of_the_card() -> None:
    card = plant_vector()
    other = plant_vector("sycophantic", created=2.0)
    app = page(vector=card.id)
    shown = {one.label: one.value for one in app.metric}
    assert shown["AUC at layer 21"] == f"{card.at(21).auc:.3f}" and shown["Difference"] == f"{card.at(21).difference:.2f} SD"
    assert shown["Pairs of rollouts kept"] == "3 of 100" and shown["Length"] == "0.050"
    text = said(app).replace("\\", "")
    assert "Made from **written answers** (100 pairs): only 3 pairs of rollouts passed" in text and card.weights_hash in text
    assert "layer 0 is the embedding" in text and "compensates along it" in text
    rows = app.dataframe[0].value
    assert list(rows["auc"]) == [row.auc for row in card.separation] and list(rows["layer"][rows["used"]]) == [21]
    assert list(rows["norm"]) == pytest.approx(card.vector_norms)
    app.selectbox(key="persona-vector").set_value(other.id).run()
    assert app.query_params["vector"] in (other.id, [other.id]) and "Sycophantic" in said(app)


def test_an_unknown_vector_in_the_address_is_said_and_the_other_part_is_gap_scores() -> None:
    plant_vector()
    assert 'There is no vector "evil-gone".' in "\n".join(
        str(one.value).replace("\\", "") for one in page(vector="evil-gone").error
    )
    assert "No gap scores yet" in said(page(part="Gap scores"))
