"""Fine-tune as a researcher uses it: copy and tweak, names and tags, the queue, ends of runs, a step of the curves. No worker, no model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from ema_core.jobs import launch, queue
from ema_core.runs import Probes, RunDirectory, RunSpec, Status, parse_defense, read_label, recipe, write_label
from ema_core.settings import PROJECT
from ema_core.training import check
from pages.widgets import compare_choice, curves, live_runs, one_liners, probe_curves, run_ends, step_slider
from pages.widgets.run_ends import Watch
from pages.widgets.run_events import RunEvents
from tests.pages.evaluated_home import said
from tests.pages.test_home_finetune import NASTY, command, make_run, open_page, probe, step, texts

SMALL = recipe("demo", steps=9, alpha=16.0)


def small(*defenses: str, seed: int = 3) -> RunSpec:
    return check(RunSpec(defenses=tuple(map(parse_defense, defenses)), seed=seed, recipe=SMALL, probes=Probes(steps=(4, 9))))


def changed(app: Any) -> list[list[str]]:
    """The rows of the table, without the signs that keep their text from being markup."""
    return [[str(cell).replace("\\", "") for cell in row] for table in app.main.table for row in table.value.to_numpy()]


def test_an_address_fills_the_form_once_and_what_changes_since_is_told_and_taken_back() -> None:
    run = RunDirectory.create(small("kl=0.3"), "the copied one")
    run.update(status=Status.DONE)
    app = open_page("pages/fine_tune.py", **{"from": run.id[-8:]})
    assert command(app) == run.spec.command()
    assert "This run exists already" in said(app) and not changed(app) and app.button(key="form-back").disabled
    app.number_input(key="strength-kl").set_value(0.7).run()
    app.number_input(key="form-seed").set_value(4).run()
    assert changed(app) == [["kl: strength", "0.3", "0.7"], ["seed", "3", "4"]] and "kl=0.7" in command(app)
    assert "This run exists already" not in said(app), "the address does not fill it a second time"
    app.button(key="form-back").click().run()
    assert command(app) == run.spec.command() and app.query_params["from"] in (run.id, [run.id])
    app.query_params["from"] = "nonsense"
    app.run()
    assert 'There is no run "nonsense"' in said(app) and command(app) == run.spec.command()


def test_without_a_copied_run_the_last_one_is_what_is_compared_with() -> None:
    RunDirectory.create(small("kl=0.5"), NASTY)
    app = open_page("pages/fine_tune.py")
    assert "What changes against the last run" in said(app)
    assert ["kl: strength", "0.5", "0.1"] in changed(app) and ["steps", "9", "124"] in changed(app)


def test_name_tags_and_note_are_given_at_launch_and_changed_later() -> None:
    app = open_page("pages/fine_tune.py")
    app.number_input(key="form-steps").set_value(6).run()
    app.text_input(key="form-name").set_value("first").run()
    app.multiselect(key="form-tags").set_value(["warm up"]).run()
    app.text_area(key="form-note").set_value(NASTY).run()
    app.button(key="launch").click().run()
    assert not app.exception
    (run,) = [RunDirectory.open(job.runs[0]) for job in queue.jobs() if job.kind == "train"]
    assert (read_label(run).name, read_label(run).tags, read_label(run).note) == ("first", ("warm up",), NASTY)
    assert app.text_area(key=f"label-note-{run.id}").value == NASTY
    app.text_input(key=f"label-name-{run.id}").set_value(NASTY).run()
    app.multiselect(key=f"label-tags-{run.id}").set_value(["warm up", "b"]).run()
    assert read_label(run).name == NASTY and read_label(run).tags == ("warm up", "b")
    write_label(run, note="from elsewhere")
    app.run()
    assert app.text_area(key=f"label-note-{run.id}").value == "from elsewhere" and not app.exception


def test_the_picker_is_narrowed_to_tags_and_keeps_what_is_chosen() -> None:
    one, two = make_run(name="one"), make_run(name="two")
    make_run(name="three")
    write_label(two, tags=["keep"])
    app = open_page("pages/fine_tune.py", run=one.id)
    app.get("button_group")  # the filter stands there, since a run has a tag
    app.pills(key="runs-tags").set_value(["keep"]).run()
    options = app.multiselect(key="runs-picker").options
    assert len(options) == 2 and any("two" in label and "keep" in label for label in options)
    assert app.multiselect(key="runs-picker").value == [one.id] and not any("three" in label for label in options)


def test_the_queue_is_ordered_cancelled_and_put_back_on_the_page() -> None:
    runs = [launch.launch_run(small(seed=seed))[0] for seed in (0, 1)]
    first, second = [job.id for job in queue.jobs()]
    app = open_page("pages/fine_tune.py", run=runs[0].id)
    shown = texts(app)
    assert "**2 waiting · about " in shown and "begins next · takes about" in shown and "begins in about" in shown
    assert app.button(key=f"up-{first}").disabled and app.button(key=f"down-{second}").disabled
    app.button(key=f"first-{second}").click().run()
    assert [job.id for job in queue.jobs()] == [second, first]
    app.button(key="queue-cancel-all").click().run()
    assert "2 jobs cancelled" in texts(app) and {run.state().status for run in runs} == {Status.PAUSED}
    app.button(key="queue-undo").click().run()
    assert [job.id for job in queue.jobs() if job.status == "queued"] == [second, first]
    app.button(key=f"cancel-{first}").click().run()
    assert "1 job cancelled" in texts(app) and runs[0].state().status is Status.PAUSED and not app.exception


def test_the_end_of_a_run_is_told_once_and_until_it_was_looked_at() -> None:
    make_run(name="long over")
    run = make_run(name=NASTY, status=Status.QUEUED)
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    watch = Watch()
    assert watch.look() == []
    run.update(status=Status.FAILED, error="The *disk* is full.", hint="Free some space.", step=3)
    app.session_state[run_ends.KEY] = watch
    app.run()
    (toast,) = app.toast
    assert (
        "failed at step 3 of 10" in toast.value
        and r"\*disk\* is full" in toast.value
        and "<b" not in toast.value.replace(r"\<b", "")
    )
    (line,) = [caption.value for caption in app.sidebar.caption if "Free some space" in caption.value]
    assert r"\*disk\*" in line and app.session_state[run_ends.KEY].lines.keys() == {run.id}
    assert watch.look() == [], "never twice"
    app.query_params["run"] = run.id
    app.switch_page("pages/fine_tune.py").run()
    assert not app.session_state[run_ends.KEY].lines, "it was looked at"


def test_a_run_that_is_resumed_ends_once_more_and_a_deleted_one_is_forgotten() -> None:
    stopped, new = make_run(status=Status.STOPPED), None
    watch = Watch()
    assert watch.look() == [] == watch.look()
    stopped.update(status=Status.QUEUED)
    assert watch.look() == []
    stopped.update(status=Status.DONE)
    assert watch.look() == [stopped.id] and watch.look() == []
    new = make_run(status=Status.FAILED)
    assert watch.look() == [new.id], "begun and over between two looks"
    watch.lines[new.id] = "failed"
    new.delete()
    assert watch.look() == [] and not watch.lines
    other = make_run(status=Status.QUEUED)
    watch.look()
    other.update(status=Status.PAUSED)
    assert watch.look() == [], "at rest is no end"
    assert run_ends._words(other.state().model_copy(update={"status": Status.FAILED, "error": "No.", "hint": "Do."})).endswith(
        "No. Do."
    )


def probed_run(*defenses: str, **state: Any) -> RunDirectory:
    run = make_run(*defenses, steps=8, **{"total_steps": 8, **state})
    for number, general, inside in ((0, 0.0, 0.0), (4, 0.1, 1.0), (8, 0.6, 2.0)):
        run.append_event(probe(number, general, in_domain=inside))
    (run.checkpoints / "step-4").mkdir(parents=True)
    return run


def test_a_step_is_marked_in_all_curves_and_its_values_and_answers_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: dict[str, Any] = {}
    for module in (curves, probe_curves):
        monkeypatch.setattr(module, "live_curve", lambda traces, key, marker=None, **_: marked.__setitem__(key, marker))
    run = probed_run("kl=1")
    app = open_page("pages/fine_tune.py", run=run.id)
    app.pills(key="curves").set_value(["ce", "share"]).run()
    assert set(marked.values()) == {None} and {"curve-ce", "curve-share", "probe-general", "probe-in_domain"} <= set(marked)
    row = app.main.dataframe[0].value.iloc[0]
    assert (row["Step"], row["Probed at"], row["General margin"]) == (8, 8, 0.6) and row["Share of loss"] == pytest.approx(1.0)
    assert f"{NASTY} at 8" in texts(app) and "What it would say now" in texts(app)
    marked.clear()
    app.slider(key="curve-step").set_value(5).run()
    assert set(marked.values()) == {5}
    row = app.main.dataframe[0].value.iloc[0]
    assert (row["Step"], row["Probed at"], row["In-domain margin"]) == (5, 4, 1.0)
    assert [text.value for text in app.main.text if text.value == f"{NASTY} at 4"], "plain text, at that step"
    for number in (9, 10):
        run.append_event(step(number, total=10, kl=0.2))
    app.run()
    assert app.slider(key="curve-step").value == 5, "a longer run moves nobody's marker"


def test_the_marker_at_the_right_end_stays_there_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    fake = SimpleNamespace(session_state={}, slider=lambda *_, key, **__: fake.session_state[key], dataframe=lambda *_, **__: None)
    fake.column_config = st.column_config
    monkeypatch.setattr(step_slider, "st", fake)
    for total in (10, 124, 40):
        run = RunEvents("r", steps=[{"step": 3, "total_steps": total}])
        marker = step_slider.step_slider([run], {})
        seen.append((fake.session_state["curve-step"], marker or -1))
    assert seen == [(10, -1), (124, -1), (40, -1)]
    fake.session_state["curve-step"] = 7
    assert step_slider.step_slider([RunEvents("r", steps=[{"step": 30, "total_steps": 124}])], {}) == 7


def test_an_answer_of_a_step_without_one_is_said_so() -> None:
    assert one_liners._said({"answers": [{"answer": "a\n b"}]}, 0) == "a b" and one_liners._said({}, 0) == "not asked"


def test_the_best_kept_state_can_be_evaluated_with_one_click() -> None:
    run = probed_run()
    for folder in (run.checkpoints / "step-4", run.adapter):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"x")
    app = open_page("pages/fine_tune.py", run=run.id)
    assert any(text.value.startswith("Step 8 (its end)") for text in app.main.text)
    app.number_input(key=f"best-limit-{run.id}").set_value(0.3).run()
    assert any(text.value.startswith("Step 4: in-domain margin +1.00, general +0.10") for text in app.main.text)
    app.button(key=f"best-evaluate-{run.id}").click().run()
    (job,) = queue.jobs()
    assert {spec["step"] for spec in job.payload["specs"]} == {4} and "evaluation is queued" in "".join(
        s.value for s in app.main.success
    )


def test_compare_is_narrowed_to_tags_with_the_twins_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["run_id", "model", "dataset", "recipe", "seed", "defense_label", "tags"]
    rows = [("twin", "none", "[]"), ("a", "kl=1", '["keep"]'), ("b", "kl=0.1", None)]
    runs = pd.DataFrame([(run, "m", "d", "{}", 0, defense, tags) for run, defense, tags in rows], columns=columns)
    monkeypatch.setattr(compare_choice.st, "pills", lambda *_, **__: ["keep"])
    assert set(compare_choice.with_tags(runs, False, None)["run_id"]) == {"a", "twin"}
    assert len(compare_choice.with_tags(runs, True, None)) == 3, "single runs were asked for"
    assert len(compare_choice.with_tags(runs.assign(tags=None), False, None)) == 3


def test_a_run_whose_best_kept_state_is_not_its_end_says_so_in_its_card() -> None:
    run = probed_run()
    events = RunEvents(run.id)
    events.advance(run)
    assert live_runs._lines(run, run.state(), events) == []
    run.append_event(probe(8, 0.6, attempt=2, in_domain=0.5))
    events.advance(run)
    (line,) = live_runs._lines(run, run.state(), events)
    assert "Step 4: in-domain margin +1.00" in line
    run.update(status=Status.PAUSED)
    assert live_runs._lines(run, run.state(), events) == [], "it is not over"
