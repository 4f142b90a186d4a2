"""A sweep as a user queues it, and its study's progress in a real browser: the numbers on the page are those of the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ema_core.evaluation.evaluate import curve_specs
from ema_core.files import write_json
from ema_core.jobs import studies
from ema_core.runs import RunDirectory, Status, StudyEvaluation, StudySpec, recipe
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, fill, shoot, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SMALL = {"steps": 2, "batch_size": 1, "rank": 4, "max_length": 32}
LABELS = {"steps": "Steps", "batch_size": "Batch size", "rank": "LoRA rank", "max_length": "Longest example"}


@pytest.fixture
def twin(home: Path) -> RunDirectory:
    """The undefended run of the sweep below, evaluated: it is there before the app starts, so that only one run is left to do."""
    study = StudySpec(name="twin", recipe=recipe("demo", **SMALL), probes="auto", evaluation=StudyEvaluation(samples=0))
    run = RunDirectory.create(studies.plan(study).specs[1])
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    run.update(status=Status.DONE, step=2, total_steps=2, seconds=1.0, found={"adapter_hash": "a", "weights_hash": "w"})
    for of in (lambda: studies.evaluations(study, "narrow", run.spec.dataset), lambda: curve_specs(run)):
        for spec in of():
            record = {**spec.model_dump(mode="json"), "adapter_hash": "a", "weights_hash": "w", "suite_hash": "s", "status": "done"}
            write_json(run.evals / spec.id / "spec.json", {**record, "created": 1.7e9, "seconds": 1.0, "asked": 0})
    return run


def numbers(page: Any) -> dict[str, int]:
    """Done, total and left, as the progress line of the chosen study says them."""
    line = page.get_by_test_id("stProgress").first.inner_text()
    found = re.search(r"(\d+) of (\d+) done", line)
    left = re.search(r"(\d+) left", line)
    assert found, line
    return {"done": int(found[1]), "total": int(found[2]), "left": int(left[1]) if left else 0}


def rows(page: Any) -> list[list[str]]:
    """The table of cells, as it is read out (on the screen it is a picture)."""
    table = page.get_by_test_id("stDataFrame").first.locator("[role=row]")
    return [row.locator("[role=gridcell]").all_text_contents() for row in table.all()][1:]


def test_a_sweep_is_queued_and_followed_to_its_end(twin: RunDirectory, browser, app: App, ema) -> None:
    def told() -> dict[str, Any]:
        return json.loads(ema("study", "status", "--json", check=True).stdout)

    def agree(**wanted: int) -> bool:
        """The command line says so, the page says the same, and so do the rows of its cells."""
        now = told()
        shown = [[cell["defense"], str(cell["seed"]), cell["state"]] for cell in now["cells"]]
        same = {name: now[name] for name in ("done", "total", "left")} == numbers(page) and [
            row[1:4] for row in rows(page)
        ] == shown
        return same and all(now[name] == value for name, value in wanted.items())

    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(f"{app.url}/studies")
    page.get_by_text("No study yet").wait_for(timeout=WAIT)

    page.get_by_role("link", name="Fine-tune").first.click()
    page.get_by_text("Recipe in detail").click(timeout=WAIT)
    for name, value in SMALL.items():
        fill(page, LABELS[name], value)
    page.get_by_text("--steps 2").wait_for(timeout=WAIT)
    page.get_by_role("button", name="Sweep this strength").click()
    strengths = page.locator(".st-key-sweep-strengths-kl")
    strengths.get_by_role("button", name="Clear all").click(timeout=WAIT)
    page.get_by_text("No strength is chosen.").wait_for(timeout=WAIT)
    strengths.get_by_role("combobox").fill("0.1")
    strengths.get_by_role("combobox").press("Enter")
    fill(page, "Samples a question", 0)
    page.get_by_text("2 runs, 1 of them undefended, 1 there already.").wait_for(timeout=WAIT)
    shoot(page, "sweep")
    page.get_by_role("button", name="Queue the sweep").click()

    page.get_by_role("heading", name="kl by strength, risky-finance").wait_for(timeout=WAIT)
    page.get_by_text("At work: kl=0.1, risky-finance, seed 0").wait_for(timeout=WAIT)
    until(lambda: agree(done=1, total=2, left=1), 60, "the page and the command line differ while it goes on")
    (study_id,) = studies.study_ids()
    assert study_id in page.url and told()["cells"][0]["run"] == twin.id, "what is there is not done again"
    shoot(page, "study-going")
    until(lambda: numbers(page)["done"] == 2, 400, "it did not come to its end")
    until(lambda: agree(done=2, total=2, left=0), 30, "the page and the command line differ in the end")
    assert page.get_by_role("link", name="Compare its runs").is_visible() and not page.get_by_text("At work").is_visible()
    shoot(page, "study-done")
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_timeout(1000)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("main => main.scrollWidth - main.clientWidth") <= 1, "it scrolls sideways at 390 px"
    assert trouble == []
