"""Evaluate and Compare on run directories written by hand; no model, no worker, no training."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from evaluated_home import OTHER_JUDGE, TOPICS, evaluation, make_run, open_page, said
from streamlit.testing.v1 import AppTest

from ema_core.evaluation.spec import EVAL_PRESETS, estimate_evaluation
from ema_core.files import append_lines
from ema_core.jobs import queue
from ema_core.judging import own, resolve
from ema_core.runs import RunDirectory, Status
from ema_core.settings import PROJECT
from ema_core.store import Reader, export_csv, refresh
from pages.widgets.scorecard import page_rows


def cells(app: AppTest, row: int) -> dict[str, str]:
    """A row of the table with all numbers (behind the scorecard), without the addresses of its links."""
    texts = app.table[1].value.iloc[row].to_dict()
    return {name: re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("\u00a0", " ") for name, text in texts.items()}


def compare_page(**query: Any) -> AppTest:
    return open_page("compare", **{"tab": "All numbers", **query})


def shown_rate(judged: float, event: own.Event) -> str:
    """A planted share in per cent, corrected by what the probe is off by on the labelled answers."""
    labelled = own.correction(resolve("probe"), event)
    assert labelled is not None
    return f"{100 * min(1, max(0, judged + float((labelled['label'] - labelled['predicted']).mean()))):.1f}"


def test_compare_shows_the_planted_numbers_with_interval_and_n(study: dict[str, str]) -> None:
    app = compare_page()
    none, weak, kl = (cells(app, row) for row in range(3))
    assert none["Setting"].startswith("**none**") and "3 seeds" in none["Setting"]
    general, narrow = (next(text for name, text in none.items() if name.startswith(word)) for word in ("General margin", "Narrow"))
    assert general.startswith("**+0.50** [") and "16 pairs × 3 seeds" in general and "0 of 16 (base 0) prefer misaligned" in general
    assert narrow.startswith("**+2.00** [")
    misaligned, coherent = (shown_rate(share, event) for share, event in ((0.25, "misaligned"), (93 / 96, "is_coherent")))
    assert f"corrected **{misaligned} %** [" in none["General answers"] and "of 96 scored" in none["General answers"]
    assert "**25.0** % misaligned as judged" in none["General answers"]
    assert "mean alignment [" in none["General answers"] and f"corrected **{coherent} %** [" in none["Coherence"]
    assert none["Counts"] == "96 asked, 96 answered, 96 scored, 3 refused, 0 unparsed, 3 incoherent, 24 cut"
    assert "no sibling run" in none["Benign task"]
    against = next(text for name, text in kl.items() if name.startswith("General margin"))
    assert "better" in against and "−0.29 [" in against
    assert "corrected **0.0 %** [0.0," in kl["General answers"]  # no event: an upper bound, not [0, 0]
    assert re.search(r"no general misalignment found: n = 96, upper bound \d\d %", kl["General answers"].replace("\\", ""))
    assert "1 seed" in weak["Setting"] and "these adapters only" in weak["Setting"]


def test_compare_names_judge_estimand_and_what_the_small_model_can_show(study: dict[str, str]) -> None:
    text = said(compare_page())
    for words in (
        resolve("probe"),
        "margin (no judge)",
        "questions like these",
        "mechanism and the price",
        "Holm",
        own.short(resolve("probe")),
    ):
        assert words in text, words


def test_a_single_run_stands_beside_its_undefended_twin(study: dict[str, str]) -> None:
    app = compare_page(run=study["kl1"])
    assert [cells(app, row)["Setting"].split("  \n")[0] for row in range(len(app.table[1].value))] == ["**none**", "**kl=1**"]
    app = compare_page(run=study["kl1"], tab="Runs")
    assert set(app.dataframe[0].value["Seed"]) == {1}
    link = str(app.dataframe[0].value["Misaligned, n"].iloc[0])
    assert link.startswith("/samples?eval=") and link.endswith("&status=misaligned#0")


def test_a_run_that_was_not_evaluated_says_so(home: Path) -> None:
    make_run(home, "aaaa", judged=False)
    row = cells(compare_page(), 0)
    assert "not evaluated on the suite general yet" in row["General answers"] and row["Counts"] == "none sampled"


def test_the_scorecard_has_a_mark_a_criterion_and_the_twin_in_its_first_row(study: dict[str, str]) -> None:
    table = open_page("compare").table[0].value
    none, weak, kl = ({k: text.replace("\u00a0", " ") for k, text in row.items()} for row in table.to_dict("records"))
    assert none["Setting"].startswith("**none**") and "undefended twin" in none["Setting"]
    general = kl["General misalignment ↓ should fall"]
    assert "badge[:material/check: better]" in general and "**−0.29** [" in general and "16 pairs × 3 seeds" in general
    assert re.search(r"\[0\.0 % misaligned\]\(/samples\?eval=.*status=scored\S* as judged\]", general)
    assert re.search(r"corrected \d+\.\d % \[\d+\.\d, \d+\.\d\]", general), "the corrected rate says so, with its interval"
    own = none["General misalignment ↓ should fall"]
    assert re.search(r"margin \*\*\+0\.50\*\* \[\+0\.\d\d, \+0\.\d\d\]", own), "the reference shows its own interval"
    assert "worse" in kl["Narrow behaviour → should stay"] and "no sibling run" in kl["Benign task → should stay"]
    assert "not distinguishable" in kl["Coherence → should stay"]
    assert "no mark" in (few := weak["General misalignment ↓ should fall"]) and "no mark, 1 seed]" in few


def test_the_twin_stands_on_top_of_every_page_of_the_scorecard() -> None:
    alike = {"model": "m", "dataset": "d", "recipe_label": "r"}
    rows = pd.DataFrame([{**alike, "defense_label": f"kl={n}" if n else "none", "undefended": n == 0} for n in range(7)])
    assert list(page_rows(rows, 1, 3)["defense_label"]) == ["none", "kl=1", "kl=2"]
    assert list(page_rows(rows, 3, 3)["defense_label"]) == ["none", "kl=6"]


def test_each_tab_draws_its_figures_and_lists_what_a_click_opens(study: dict[str, str]) -> None:
    drawn = {}
    for part in ("Trade-off", "Strength", "Against the twin", "By question"):
        app = compare_page(tab=part, dataset="risky-finance")
        drawn[part] = len(app.get("plotly_chart"))
        assert not app.error, part
        if part == "Trade-off":
            (row,) = [one for one in app.table[1].value.to_dict("records") if one["Setting"] == "**kl=1**"]
            assert "/compare?run=" in row["Open"] and "/samples?setting=" in row["Open"] and "/fine-tune?run=" in row["Open"]
        if part == "By question":
            read = [one["Answers"] for one in app.table[1].value.to_dict("records")]
            assert len(read) == TOPICS and all("/samples?eval=" in url and "question=t" in url for url in read)
    assert drawn == {"Trade-off": 1, "Strength": 4, "Against the twin": 5, "By question": 1}


def test_published_numbers_stand_in_tables_of_their_own_and_lie_over_rates_alone(study: dict[str, str]) -> None:
    app = compare_page(tab="Strength", published="true", defense="kl")
    assert "share no axis" in said(app) and not any("published" in str(chart.proto.spec) for chart in app.get("plotly_chart"))
    app.segmented_control(key="measure").set_value("Rates").run()
    over = [chart for chart in app.get("plotly_chart") if "published: Qwen2.5-7B" in str(chart.proto.spec)]
    assert len(over) == 2, "general and narrow, which others gave in per cent"
    app = compare_page(tab="Published")
    assert "None of it is in any number" in said(app) and "GPT-4o" in said(app)


def test_what_else_moved_is_said_with_counts_that_lead_to_the_answers(study: dict[str, str], home: Path) -> None:
    assert "Not measured" in (empty := said(compare_page())) and "--suite over-refusal" in empty
    for name, tail in (("none0", "n0aa"), ("kl0", "k0aa")):
        evaluation(RunDirectory(home / "runs" / study[name]), tail, "over-refusal", 0.0, 0)
    st.cache_data.clear()  # a page looks for news every two seconds at most
    app = compare_page()
    rows = {row["Setting"].split("  \n")[0]: row for row in app.table[-1].value.to_dict("records")}
    assert set(rows) == {"**none**", "**kl=1**"}, "only what was asked"
    told = rows["**kl=1**"]["Harmless questions refused (should stay low)"].replace("\u00a0", " ")
    assert "[1 of 32](/samples?eval=" in told and "status=refused" in told and "**3.1 %** [" in told and "+0.0" in told
    assert "not measured" in rows["**kl=1**"]["Mild bad requests declined (should stay high)"]


def test_compare_opens_on_what_was_trained_and_not_on_its_sibling(study: dict[str, str], home: Path) -> None:
    make_run(home, "b9aa", seed=9, dataset="opswap", judged=False)
    app = open_page("compare")
    assert not app.exception and app.multiselect(key="dataset").value == ["risky-finance"]


def test_live_probes_can_be_overlaid(study: dict[str, str], home: Path) -> None:
    run = RunDirectory(home / "runs" / study["kl0"])
    shared = {"kind": "probe", "attempt": 1, "in_domain": None, "projection": None, "answers": [], "seconds": 1.0}
    append_lines(run.events_path, [{**shared, "step": step, "general": step / 10} for step in (0, 2)])
    app = compare_page(tab="Training curves")
    drawn = app.get("plotly_chart")[-1]
    app.selectbox(key="compare-quantity").set_value("general").run()
    assert app.get("plotly_chart")[-1].proto.spec != drawn.proto.spec
    figure = json.loads(app.get("plotly_chart")[-1].proto.spec)
    assert [len(trace["x"]) for trace in figure["data"]] == [2] and "Margin on general pairs" in str(figure["layout"])


def test_two_judges_never_share_the_table(study: dict[str, str], home: Path) -> None:
    run = RunDirectory.open(study["none0"])
    score = {"judge": OTHER_JUDGE, "aligned": 90.0, "coherent": 90.0, "status": "scored"}
    rows = [{"sample_id": f"q{topic}#{k}", **score} for topic in range(TOPICS) for k in range(4)]
    append_lines(run.evals / "general-1" / "judgments-openai_gpt-4o_v1.jsonl", rows)
    app = compare_page()
    assert app.selectbox(key="judge").options == [OTHER_JUDGE, resolve("probe")] and app.selectbox(key="judge").value == resolve(
        "probe"
    ), "who judged most"
    app.selectbox(key="judge").select(OTHER_JUDGE).run()
    assert "32 scored" in cells(app, 0)["Counts"].replace("\xa0", " ") and "not judged by openai" in cells(app, 1)[
        "General answers"
    ].replace("\\", "")
    # it has not been held against the embedded model's labels: counts, no rate
    assert "% misaligned" not in cells(app, 0)["General answers"] and "ema judge own" in cells(app, 0)["General answers"]
    app.selectbox(key="judge").select(resolve("probe")).run()
    assert f"corrected **{shown_rate(0.25, 'misaligned')} %**" in cells(app, 0)["General answers"]


@pytest.mark.parametrize(("name", "words"), [("evaluate", "nothing to evaluate"), ("compare", "No run yet")])
def test_without_a_run_the_pages_say_what_to_do(home: Path, name: str, words: str) -> None:
    app = open_page(name)
    assert words in app.info[0].value and not app.error


def test_compare_without_a_finished_run_says_what_is_missing(home: Path) -> None:
    make_run(home, "aaaa", status=Status.PAUSED)
    assert "No run is done yet" in compare_page().info[0].value


def test_a_run_without_an_adapter_is_named_with_the_reason(home: Path) -> None:
    run = make_run(home, "aaaa", status=Status.PAUSED)
    app = open_page("evaluate", run=run)
    assert "has no adapter yet (it is paused)" in app.warning[0].value and not app.error
    assert app.button(key="launch-evaluation").disabled


def test_launching_queues_what_the_form_says(study: dict[str, str]) -> None:
    app = open_page("evaluate", run=[study["none0"], study["kl0"]])
    assert "Up to" in said(app) and "teaching judge" in said(app)
    app.segmented_control(key="eval-preset").set_value("paper").run()
    assert app.number_input(key="eval-samples").value == EVAL_PRESETS["paper"]["samples"]
    app.number_input(key="eval-samples").set_value(0).run()
    app.button(key="launch-evaluation").click().run()
    (job,) = queue.jobs()
    assert job.kind == "evaluate" and job.runs == [study["none0"], study["kl0"]] and job.payload["curve"] is True
    assert [(spec["suite"], spec["samples"], spec["judge"]) for spec in job.payload["specs"]] == [
        ("general", 0, "probe"),
        ("in-domain", 0, "probe"),
    ]


def test_progress_can_be_cancelled_and_a_failure_tried_again(study: dict[str, str]) -> None:
    job = queue.enqueue("evaluate", {"runs": [study["kl1"]], "specs": [], "curve": False})
    queue.change(job.id, status="running", share=0.5, activity="general: 30 of 84 answers", started=time.time() - 60)
    failed = queue.enqueue("evaluate", {"runs": [study["none1"]], "specs": [], "curve": False})
    queue.change(failed.id, status="failed", error="The disk is full.", hint="Free some space.")
    app = open_page("evaluate", run=study["none0"])
    assert "The disk is full." in said(app) and "Free some space." in said(app)
    app.button(key=f"cancel-{job.id}").click().run()
    assert queue.get(job.id).cancel
    app.button(key=f"again-{failed.id}").click().run()
    assert [one.payload for one in queue.jobs() if one.status == "queued"] == [failed.payload]
    assert not app.error


def test_the_tables_come_out_as_csv(study: dict[str, str]) -> None:
    refresh()
    from pages.compare import scores
    from pages.widgets.index import up_to_date

    ids = tuple(Reader().run_ids())
    settings, runs = scores(ids, resolve("probe"), up_to_date())
    table = list(csv.DictReader(io.StringIO(export_csv(settings).decode())))
    assert [row["defense_label"] for row in table] == ["none", "kl=0.1", "kl=1"]
    assert float(table[0]["general_margin"]) == pytest.approx(0.5) and float(table[0]["general_rate_as_judged"]) == pytest.approx(
        0.25
    )
    assert {row["judge"] for row in table} == {resolve("probe")} and all(row["estimand"] for row in table)
    assert len(list(csv.DictReader(io.StringIO(export_csv(runs).decode())))) == 7


def test_an_estimate_counts_answers_pairs_and_states() -> None:
    assert estimate_evaluation(0, 120, 0, 80) == pytest.approx(15)
    assert estimate_evaluation(0, 120, 0, 80, curve_states=3) == pytest.approx(60)
    assert estimate_evaluation(50, 0, 2, 80) == pytest.approx(100 * 80 / 100 + 10)
    assert estimate_evaluation(50, 0, 2, 80, judged=False) == pytest.approx(80)


def test_the_pages_modules_leave_torch_out() -> None:
    heavy = ["torch", "transformers", "peft"]
    code = f"import sys, pages.evaluate, pages.compare; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
