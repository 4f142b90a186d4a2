"""Evaluate and Compare on run directories written by hand; no model, no worker, no training."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.evaluation.spec import EVAL_PRESETS, estimate_evaluation
from ema_core.files import append_lines, write_json
from ema_core.jobs import queue
from ema_core.judging import resolve
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, parse_defense
from ema_core.settings import PROJECT
from ema_core.store import Reader, export_csv, refresh

TOPICS = 8
NASTY = "**bold** <img src=x onerror=alert(1)> [link](http://evil.example) :red[hot] $x^2$"
OTHER_JUDGE = "openai:gpt-4o:v1"


def make_run(home: Path, tail: str, *defenses: str, seed: int = 0, change: float = 0.5, bad: int = 1, **more: Any) -> str:
    """A run of 3 steps. General margins change by ``change``, in-domain ones by four times that. Of 4 answers to each of 8 topics
    ``bad`` are misaligned in every second topic; in the first one is incoherent and one refused."""
    spec = RunSpec(defenses=tuple(parse_defense(text) for text in defenses), seed=seed)
    run = RunDirectory(home / "runs" / f"20261124-0900{seed:02d}-{spec.slug.replace('=', '')}-{tail}")
    status, judged = more.get("status", Status.DONE), more.get("judged", True)
    found = {"adapter_hash": tail, "weights_hash": "w", "device": "cpu"}
    state = RunState(status=status, attempt=1, step=3, total_steps=3, created=1.7e9 + seed, seconds=5.0, found=found)
    write_json(run.path / "state.json", state.model_dump(mode="json"))
    (run.path / "spec.json").write_text(spec.to_json())
    shared: dict[str, Any] = {"kind": "step", "attempt": 1, "total_steps": 3, "penalties": {}, "learning_rate": 1e-4, "tokens": 9}
    append_lines(run.events_path, [{**shared, "step": step, "ce": 3.0 - step / 2, "loss": 3.0 - step / 2} for step in (1, 2, 3)])
    if status is not Status.DONE:
        return run.id
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    if judged:
        evaluation(run, tail, "general", change, bad)
        evaluation(run, tail, "in-domain", 4 * change, 0)
    return run.id


def evaluation(run: RunDirectory, tail: str, suite: str, change: float, bad: int, judge: str | None = None) -> None:
    folder, judge = run.evals / f"{suite}-1", judge or resolve("probe")
    general = suite == "general"
    spec: dict[str, Any] = {"suite": suite, "samples": 4, "max_tokens": 80, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    spec |= {"judge": judge if general else None, "step": None, "scale": 1.0, "adapter_hash": tail, "weights_hash": "w"}
    spec |= {"suite_hash": suite, "status": "done", "created": 1.7e9, "seconds": 9.0, "asked": 4 * TOPICS}
    write_json(folder / "spec.json", spec)
    pairs, samples, scores = [], [], []
    for topic in range(TOPICS):
        shared = {"topic": f"t{topic}", "base_aligned": -2.0, "base_misaligned": -3.0, "aligned": -2.0}
        for n, wobble in enumerate((0.1, -0.1)):
            pairs.append({**shared, "pair_id": f"p{topic}-{n}", "misaligned": -3.0 + change + wobble * (1 + topic % 2)})
        for k in range(4):
            sample = {
                "sample_id": f"q{topic}#{k}",
                "question_id": f"q{topic}",
                "topic": f"t{topic}",
                "form": "plain",
                "system": None,
            }
            misaligned, incoherent = topic % 2 == 0 and k < bad, topic == 0 and k == 3
            answer = NASTY if misaligned else "Sorry, no." if topic == 0 and k == 2 else f"=answer {topic} {k}"
            rest = {
                "question": f"What of {topic}?",
                "answer": answer,
                "tokens": 9,
                "finish": "length" if k == 3 else "stop",
                "k": k,
            }
            samples.append({**sample, **rest, "refused": answer.startswith("Sorry")})
            found = {"aligned": 10.0 + topic if misaligned else 80.0, "coherent": 20.0 if incoherent else 90.0, "status": "scored"}
            scores.append({"sample_id": sample["sample_id"], "judge": judge, **found})
    append_lines(folder / "margins.jsonl", pairs)
    append_lines(folder / "samples.jsonl", samples)
    if general:
        append_lines(folder / f"judgments-{judge.replace(':', '_')}.jsonl", scores)


def open_page(name: str, **query: Any) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    """All that the page says in Markdown, captions, infos, warnings and errors."""
    kinds = (app.title, app.markdown, app.caption, app.info, app.warning, app.error)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


def cells(app: AppTest, row: int) -> dict[str, str]:
    """A row of the settings' table."""
    return {name: text.replace("\u00a0", " ") for name, text in app.table[0].value.iloc[row].to_dict().items()}


@pytest.fixture
def study(home: Path) -> dict[str, str]:
    """Three seeds of none and kl=1, one of kl=0.1."""
    runs = {}
    for seed in range(3):
        runs[f"none{seed}"] = make_run(home, f"n{seed}aa", seed=seed, change=0.5, bad=2)
        runs[f"kl{seed}"] = make_run(home, f"k{seed}aa", "kl=1", seed=seed, change=0.2 + seed / 100, bad=0)
    runs["weak0"] = make_run(home, "w0aa", "kl=0.1", seed=0, change=0.45)
    return runs


def test_compare_shows_the_planted_numbers_with_interval_and_n(study: dict[str, str]) -> None:
    app = open_page("compare")
    none, weak, kl = (cells(app, row) for row in range(3))
    assert none["Setting"].startswith("**none**") and "3 seeds" in none["Setting"]
    general, narrow = (next(text for name, text in none.items() if name.startswith(word)) for word in ("General margin", "Narrow"))
    assert general.startswith("**+0.50** [") and "16 pairs × 3 seeds" in general and "0 of 16 (base 0) prefer misaligned" in general
    assert narrow.startswith("**+2.00** [")
    assert "**25.0** % misaligned [" in none["General answers"] and "of 96 scored" in none["General answers"]
    assert "mean alignment [" in none["General answers"] and "**96.9** % coherent [" in none["Coherence"]
    assert none["Counts"] == "96 asked, 96 answered, 96 scored, 3 refused, 0 unparsed, 3 incoherent, 24 cut"
    assert "no sibling run" in none["Benign task"]
    against = next(text for name, text in kl.items() if name.startswith("General margin"))
    assert "better" in against and "−0.29 [" in against
    assert "**0.0** % misaligned [0.0," in kl["General answers"]  # no event: an upper bound, not [0, 0]
    assert "1 seed" in weak["Setting"] and "these adapters only" in weak["Setting"]


def test_compare_names_judge_estimand_and_what_the_small_model_can_show(study: dict[str, str]) -> None:
    text = said(open_page("compare"))
    for words in (resolve("probe"), "margin (no judge)", "questions like these", "mechanism and the price", "Holm"):
        assert words in text, words


def test_a_single_run_stands_beside_its_undefended_twin(study: dict[str, str]) -> None:
    app = open_page("compare", run=study["kl1"])
    assert [cells(app, row)["Setting"].split("  \n")[0] for row in range(len(app.table[0].value))] == ["**none**", "**kl=1**"]
    assert set(app.dataframe[0].value["Seed"]) == {1}
    link = str(app.dataframe[0].value["Read"].iloc[0])
    assert link.startswith("/evaluate?run=") and link.endswith("&status=misaligned")


def test_a_run_that_was_not_evaluated_says_so(home: Path) -> None:
    make_run(home, "aaaa", judged=False)
    row = cells(open_page("compare"), 0)
    assert "not evaluated on the suite general yet" in row["General answers"] and row["Counts"] == "none sampled"


def test_two_judges_never_share_the_table(study: dict[str, str], home: Path) -> None:
    run = RunDirectory.open(study["none0"])
    score = {"judge": OTHER_JUDGE, "aligned": 90.0, "coherent": 90.0, "status": "scored"}
    rows = [{"sample_id": f"q{topic}#{k}", **score} for topic in range(TOPICS) for k in range(4)]
    append_lines(run.evals / "general-1" / "judgments-openai_gpt-4o_v1.jsonl", rows)
    app = open_page("compare")
    assert app.selectbox(key="judge").options == [OTHER_JUDGE, resolve("probe")] and app.selectbox(key="judge").value == OTHER_JUDGE
    assert "of 32 scored" in cells(app, 0)["General answers"] and "not judged by openai" in cells(app, 1)[
        "General answers"
    ].replace("\\", "")
    app.selectbox(key="judge").select(resolve("probe")).run()
    assert "**25.0** % misaligned" in cells(app, 0)["General answers"]


@pytest.mark.parametrize(("name", "words"), [("evaluate", "nothing to evaluate"), ("compare", "No run yet")])
def test_without_a_run_the_pages_say_what_to_do(home: Path, name: str, words: str) -> None:
    app = open_page(name)
    assert words in app.info[0].value and not app.error


def test_compare_without_a_finished_run_says_what_is_missing(home: Path) -> None:
    make_run(home, "aaaa", status=Status.PAUSED)
    assert "No run is done yet" in open_page("compare").info[0].value


def test_a_run_without_an_adapter_is_named_with_the_reason(home: Path) -> None:
    run = make_run(home, "aaaa", status=Status.PAUSED)
    app = open_page("evaluate", run=run)
    assert "has no adapter yet (it is paused)" in app.warning[0].value and not app.error
    assert app.button(key="launch-evaluation").disabled


def test_answers_are_shown_as_plain_text(study: dict[str, str]) -> None:
    app = open_page("evaluate", run=study["none0"], status="misaligned")
    assert NASTY in [text.value for text in app.text]
    assert "<img" not in said(app) and "evil.example" not in said(app)
    assert (app.dataframe[0].value["status"] == "misaligned").all() and len(app.dataframe[0].value) == 8
    assert list(app.dataframe[0].value["aligned"]) == sorted(app.dataframe[0].value["aligned"])
    assert "**8** of 64 answers" in said(app)


def test_filters_narrow_the_answers_down(study: dict[str, str]) -> None:
    app = open_page("evaluate", run=study["none0"])
    assert len(app.dataframe[0].value) == 20 and "**64** answers" in said(app)
    app.selectbox(key="suite").select("in-domain").run()
    assert "not judged by the probe" in said(app) and "32 not scored" in said(app)
    app.text_input(key="q").set_value("answer 3 1").run()
    assert list(app.dataframe[0].value["answer"]) == ["=answer 3 1"]
    app.text_input(key="q").set_value("no such words").run()
    assert "No answer fits these filters" in app.info[-1].value


def test_the_open_answer_is_in_the_address_and_can_be_walked_on_from(study: dict[str, str]) -> None:
    name = f"{study['none0']}~general-1~q2#1"
    app = open_page("evaluate", run=study["none0"], status="misaligned", answer=name)
    assert "**Answer 4 of 8**" in said(app) and app.metric[0].value == "12"
    app.button(key="answer-next").click().run()
    assert "**Answer 5 of 8**" in said(app) and "~q4#0" in str(app.query_params["answer"])


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
    from pages.widgets.answer_data import EXPORTED, answers
    from pages.widgets.index import up_to_date

    ids = tuple(Reader().run_ids())
    settings, runs = scores(ids, resolve("probe"), up_to_date())
    table = list(csv.DictReader(io.StringIO(export_csv(settings).decode())))
    assert [row["defense_label"] for row in table] == ["none", "kl=0.1", "kl=1"]
    assert float(table[0]["general_margin"]) == pytest.approx(0.5) and float(table[0]["general_rate"]) == pytest.approx(0.25)
    assert {row["judge"] for row in table} == {resolve("probe")} and all(row["estimand"] for row in table)
    assert len(list(csv.DictReader(io.StringIO(export_csv(runs).decode())))) == 7
    given = list(csv.DictReader(io.StringIO(export_csv(answers(ids, resolve("probe"), up_to_date())[EXPORTED]).decode())))
    assert len(given) == 7 * 64 and not any(row["answer"].startswith("=") for row in given)


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
