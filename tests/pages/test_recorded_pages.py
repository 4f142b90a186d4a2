"""A home with a recorded study alone: every page opens on it, without a model, a worker or torch, and says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import streamlit as st

from ema_core.exchange import recorded
from ema_core.settings import PROJECT
from pages.fine_tune import at_work_or_newest
from pages.widgets.chat_models import undefended_twin
from pages.widgets.run_picker import newest_first, run_info
from tests.pages.evaluated_home import make_run, open_page, said
from tests.pages.recorded_home import NAME, made, shelf

__all__ = ["made", "shelf"]  # fixtures
ORIGIN = f"recorded: {NAME}"
PAGES = {"home": {}, "compare": {}, "samples": {}, "studies": {}, "fine_tune": {"part": "Runs"}, "evaluate": {}}
LOOK = """
import json, sys
from ema_core.exchange import recorded
from streamlit.testing.v1 import AppTest
from tests.pages.evaluated_home import open_page, said
first = AppTest.from_file("app.py", default_timeout=120).run()  # the app itself puts it there
assert not first.exception and list(recorded.here()) == ["two"], first.exception
seen = {}
for name, query in json.loads(sys.argv[1]).items():
    page = open_page(name, **query)
    tables = " ".join(str(table.value.to_dict()) for table in [*page.table, *page.dataframe])
    seen[name] = {"said": said(page) + tables, "error": [one.value for one in page.error]}
    seen[name]["heavy"] = sorted({"torch", "transformers", "peft"} & set(sys.modules))
    if name == "studies":
        seen[name]["buttons"] = [button.label for button in page.button]
print(json.dumps(seen))
"""


def test_every_page_opens_on_it_without_torch_and_without_a_model(shelf: Path, home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(PAGES)], capture_output=True, text=True, cwd=PROJECT, timeout=300,
        env={**os.environ, "EMA_MODELS": str(tmp_path / "none"), "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {name: page["heavy"] + page["error"] for name, page in seen.items()} == {name: [] for name in PAGES}
    assert all("ecorded" in page["said"] for page in seen.values())
    assert "no model is needed" in seen["home"]["said"] and "No run yet" in seen["home"]["said"]
    assert "kl=1" in seen["compare"]["said"] and "120 answers" not in seen["compare"]["said"]
    assert "without its adapter" in seen["evaluate"]["said"]
    assert not {"Go on", "Try failed ones again"} & set(seen["studies"]["buttons"])
    assert list((home / "queue").glob("jobs/*")) == []  # looking queues nothing


def test_compare_shows_own_runs_or_recorded_ones_as_asked(shelf: Path, home: Path) -> None:
    recorded.ensure()
    own = make_run(home, "n9zz", change=0.9)
    page = open_page("compare")
    whose = next(one for one in page.get("button_group") if one.key == "origin")
    assert whose.value == "own" and page.table[0].value["Setting"].str.contains("none").sum() == 1
    assert not page.table[0].value["Setting"].str.contains("recorded").any()
    st.cache_data.clear()
    page = open_page("compare", origin=ORIGIN)
    assert len(page.table[0].value) == 2 and page.table[0].value["Setting"].str.contains("recorded").all()
    page = open_page("samples", origin=ORIGIN)
    assert own not in str(page.dataframe[0].value) and "of runs recorded: two" in said(page)


def test_home_takes_it_away_with_a_click_and_brings_it_back(shelf: Path, home: Path) -> None:
    recorded.ensure()
    page = open_page("home")
    page.button(key=f"recorded-really-{NAME}").click().run()
    assert not page.exception and recorded.here() == {} and "was removed" in said(page)
    page.button(key=f"recorded-add-{NAME}").click().run()
    assert not page.exception and list(recorded.here()) == [NAME] and "no model is needed" in said(page)


def test_a_first_look_at_runs_shows_one_beside_its_undefended_twin(shelf: Path, home: Path) -> None:
    recorded.ensure()
    defended, undefended = sorted(newest_first(), key=lambda run_id: run_info(run_id).defense)
    assert undefended_twin(defended, newest_first()) == undefended and undefended_twin(undefended, newest_first()) == ""
    assert at_work_or_newest([defended, undefended]) == [defended, undefended]
    assert at_work_or_newest([undefended]) == [undefended] and at_work_or_newest([]) == []
    own = make_run(home, "z9zz", "kl=1", change=0.9)
    page = open_page("fine_tune", part="Runs")
    assert not page.exception and page.multiselect(key="runs-picker").value == [own], "a recorded run is not its twin"
    twin = make_run(home, "a9zz", change=0.9)
    assert at_work_or_newest(sorted(newest_first(), key=lambda run_id: run_id != own)) == [own, twin]
    sibling = make_run(home, "b9zz", "kl=1", dataset="opswap", judged=False)
    assert at_work_or_newest([sibling, own, twin]) == [own, twin]


def test_compare_opens_on_the_recorded_study_until_a_run_of_ones_own_was_evaluated(shelf: Path, home: Path) -> None:
    recorded.ensure()
    own = make_run(home, "n9zz", change=0.9)
    shutil.rmtree(home / "runs" / own / "evals")
    page = open_page("compare")
    whose = next(one for one in page.get("button_group") if one.key == "origin")
    assert whose.value == ORIGIN and "it leaks" in said(page) and "Lower in general margin" in said(page)
