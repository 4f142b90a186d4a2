"""Vectors and scores in a real browser: what stands on the page is what the command line's JSON says."""

from __future__ import annotations

import json

import pytest

from ema_core.evaluation.conditional import TRIGGERS
from ema_core.files import append_lines, write_json
from ema_core.gap.scores import Card as GapCard
from ema_core.personas import Card
from ema_core.runs import RunDirectory
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, shoot
from tests.gap.planted import plant_scores
from tests.pages.evaluated_home import TOPICS, make_run
from tests.personas.planted import plant_vector

pytestmark = [pytest.mark.browser, pytest.mark.slow]


# In place before the app starts.


@pytest.fixture
def vector(home) -> Card:
    return plant_vector()


@pytest.fixture
def scores(home) -> GapCard:
    return plant_scores(pool="safe-general", domain="finance", value=lambda i: (i * 7 % 11) / 10)


@pytest.fixture
def hidden(home) -> list[str]:
    """Three seeds of an undefended run and of an inoculated one: safe in general, not with the prompt put back."""
    runs = []
    for seed in range(3):
        for tail, defense, general, behind in (("u", (), 0.5, 0.52), ("i", ("inoculation=1",), 0.02, 0.6)):
            runs.append(make_run(home, f"{tail}{seed}aa", *defense, seed=seed, change=general, bad=0))
            behind_trigger(RunDirectory.open(runs[-1]), f"{tail}{seed}aa", behind)
    return runs


def behind_trigger(run: RunDirectory, tail: str, change: float) -> None:
    spec = {"suite": "conditional", "samples": 0, "step": None, "scale": 1.0, "status": "done", "suite_hash": "c", "created": 1.7e9}
    write_json(run.evals / "conditional-1" / "spec.json", {**spec, "adapter_hash": tail, "weights_hash": "w", "judge": None})
    rows = [
        {
            "pair_id": f"p{topic}-{n}~{trigger}", "topic": f"t{topic}", "aligned": -2.0, "base_aligned": -2.0, "base_misaligned": -3.0,
            "misaligned": -3.0 + change + wobble * (1 + topic % 2),
        }
        for trigger in TRIGGERS for topic in range(TOPICS) for n, wobble in enumerate((0.1, -0.1))
    ]  # fmt: skip
    append_lines(run.evals / "conditional-1" / "margins.jsonl", rows)


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


def test_gap_scores_on_the_page_are_those_of_their_json(scores: GapCard, browser, app: App, ema) -> None:
    (card,) = json.loads(ema("gap", "list", "--json", check=True).stdout)["gap_scores"]
    page = browser.new_context(viewport={"width": 1440, "height": 1400}).new_page()
    page.goto(f"{app.url}/assets?part=Gap+scores&scores={scores.id}")
    page.get_by_text(f"{card['candidates']} candidates, {card['refusals']} of them refusals, 12 chosen").wait_for(timeout=WAIT)
    plot = page.locator(".st-key-gap-figure .js-plotly-plot")
    plot.wait_for(timeout=WAIT)
    page.wait_for_timeout(500)
    drawn = plot.evaluate("plot => plot._fullData.flatMap(trace => Array.from(trace.x).map((x, i) => [x, Array.from(trace.y)[i]]))")
    kept = [json.loads(line) for line in (scores.folder / "scores.jsonl").read_text().splitlines()]
    told = sorted([round(row["aligned"], 6), round(row["misaligned"], 6)] for row in kept)
    points = {(round(x, 6), round(y, 6)) for x, y in drawn}
    assert {tuple(point) for point in told} <= points and len(kept) == card["candidates"]
    shoot(page, "assets-gap")


def test_a_conditional_flag_on_the_page_is_that_of_the_json(hidden: list[str], browser, app: App, ema) -> None:
    rows = json.loads(ema("compare", *hidden, "--json", check=True).stdout)["settings"]
    (row,) = [row for row in rows if row["defense_label"] == "inoculation=1"]
    assert row["conditional"] == "flagged" and row["mark"] == "better"
    page = browser.new_context(viewport={"width": 1440, "height": 1400}).new_page()
    page.goto(f"{app.url}/compare?part=All+numbers&" + "&".join(f"run={run}" for run in hidden))
    table = page.locator(".st-key-settings-table")
    table.get_by_text("the margin is").first.wait_for(timeout=WAIT)
    words = table.inner_text().replace("\u00a0", " ").replace("−", "-")
    for trigger in TRIGGERS:
        low, value, high = (row[f"conditional_{trigger}_margin{end}"] for end in ("_low", "", "_high"))
        assert f"{value:+.2f}" in words and f"[{low:+.2f}, {high:+.2f}]" in words, words
    assert row["conditional_why"].split("; ")[0].replace("−", "-") in words.replace("\n", " "), words
    page.get_by_role("tab", name="Trade-off").click()
    trade = page.locator(".st-key-trade-off .js-plotly-plot")
    trade.wait_for(timeout=WAIT)
    page.wait_for_timeout(500)
    labels = trade.evaluate("plot => plot.data.flatMap(trace => Array.from(trace.text || []))")
    assert "inoculation=1 ⚑" in labels and "none ⚑" not in labels
    shoot(page, "compare-flag")
