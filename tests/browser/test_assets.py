"""Vectors and scores in a real browser: what stands on the page is what the command line's JSON says."""

from __future__ import annotations

import json

import pytest

from ema_core.personas import Card
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, shoot
from tests.personas.planted import plant_vector

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def vector(home) -> Card:
    """In place before the app starts."""
    return plant_vector()


def test_a_vectors_figures_on_the_page_are_those_of_its_json(vector: Card, browser, app: App, ema) -> None:
    card = json.loads(ema("persona", "show", vector.id, "--json", check=True).stdout)
    page = browser.new_context(viewport={"width": 1440, "height": 1400}).new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(f"{app.url}/assets?vector={vector.id}")
    metrics = page.locator(".st-key-persona-metrics")
    metrics.get_by_text("AUC at layer").wait_for(timeout=WAIT)
    at = card["separation"][card["layer"]]
    words = metrics.inner_text()
    for value in (
        f"AUC at layer {card['layer']}",
        f"{at['auc']:.3f}",
        f"{at['difference']:.2f} SD",
        f"{card['kept']} of {card['tried']}",
    ):
        assert value in words, words
    page.get_by_text(card["why"]).wait_for(timeout=WAIT)
    plot = page.locator(".st-key-persona-figure .js-plotly-plot")
    plot.wait_for(timeout=WAIT)
    page.wait_for_timeout(500)
    drawn = plot.evaluate("plot => plot.data.map(trace => ({x: Array.from(trace.x), y: Array.from(trace.y)}))")
    assert drawn[0] == {"x": [row["layer"] for row in card["separation"]], "y": [row["auc"] for row in card["separation"]]}
    assert drawn[1]["y"] == [row["difference"] for row in card["separation"]]
    assert page.locator(".st-key-persona-figure").get_by_text(f"layer {card['layer']} is used").count() == 1
    shoot(page, "assets")
    assert trouble == []
