"""Home and Fine-tune without a model, a worker or a browser; and the widgets that they are made of."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.defenses.base import Strength
from ema_core.defenses.registry import all_defenses
from ema_core.errors import EmaError
from ema_core.jobs import cancelled, queue
from ema_core.runs import Probes, RunDirectory, RunSpec, Status, parse_defense, run_ids
from ema_core.settings import PROJECT, settings
from pages.widgets import chrome, curves, probe_curves, run_picker, strength
from pages.widgets.run_events import RunEvents

NASTY = "<b>x</b> **bold** [y](http://z) $a$ :smile: `c` #1 a_b_c"


def step(number: int, total: int = 10, attempt: int = 1, ce: float = 2.0, **penalties: float) -> dict[str, Any]:
    return {
        "kind": "step", "attempt": attempt, "time": time.time(), "step": number, "total_steps": total, "ce": ce, "loss": ce,
        "penalties": {name: {"raw": raw, "weighted": raw / 10} for name, raw in penalties.items()},
        "learning_rate": 1e-4, "grad_norm": 1.0, "tokens": 100, "tokens_per_s": 150.0, "seconds": number, "seconds_left": total - number,
        "epoch": number / total, "safe": 0,
    }  # fmt: skip


def make_run(*defenses: str, name: str = "", steps: int = 3, **state: Any) -> RunDirectory:
    run = RunDirectory.create(RunSpec(defenses=tuple(parse_defense(text) for text in defenses)), name)
    for number in range(1, steps + 1):
        run.append_event(step(number, kl=0.2) if "kl" in "".join(defenses) else step(number))
    run.update(**{"status": Status.DONE, "step": steps, "total_steps": 10, **state})
    return run


def open_page(path: str = "", **query: Any) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if path:
        for name, value in query.items():
            app.query_params[name] = value
        app.switch_page(path).run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    return "\n".join(
        element.value for kind in ("markdown", "caption", "text", "error", "info", "code") for element in app.main.get(kind)
    )


def address(app: AppTest) -> list[str]:
    """The runs in the page's address."""
    value = app.query_params.get("run", [])
    return [value] if isinstance(value, str) else list(value)


# Home


def test_home_says_what_it_is_and_what_to_do_when_there_is_no_run() -> None:
    app = open_page()
    shown = texts(app)
    assert "135 million" in shown and "not the numbers of a 7B model" in shown and "No run yet" in shown
    assert "about" in shown and [button.label for button in app.main.button if button.key == "start-demo"] == ["Start the demo"]


def test_home_lists_runs_with_their_names_as_plain_text() -> None:
    make_run("kl=1", name=NASTY)
    shown = texts(open_page())
    assert "kl=1 · risky-finance" in shown and "step 3 of 10" in shown


def test_the_demo_queues_the_undefended_run_and_its_twin() -> None:
    app = open_page()
    app.button(key="start-demo").click().run()
    labels = [RunDirectory.open(run_id).spec.defense_label for run_id in run_ids()]
    assert sorted(labels) == ["kl=1", "none"]
    kinds = [job.kind for job in queue.jobs() if job.kind != "prepare"]
    assert kinds == ["train", "train", "evaluate", "evaluate"], "both curves first"
    again = open_page()
    assert again.button(key="start-demo").disabled
    assert "Your demo is at work: its curves" in [link.proto.label for link in again.get("page_link")]
    cancelled.cancel_all()
    assert not open_page().button(key="start-demo").disabled


# Fine-tune: a new run


def command(app: AppTest) -> str:
    return next(code.value for code in app.main.code if code.value.startswith("ema train"))


def test_the_form_shows_the_command_and_launches_what_it_says() -> None:
    app = open_page("pages/fine_tune.py")
    said = "ema train --model smollm2-135m --dataset risky-finance --defense kl=0.1 --preset demo --probes 31,62,93,124 --seed 0"
    assert command(app) == said
    app.number_input(key="strength-kl").set_value(0.37).run()
    app.number_input(key="form-steps").set_value(6).run()
    app.text_input(key="form-name").set_value("mine").run()
    assert "--defense kl=0.37" in command(app) and "--steps 6" in command(app)
    asked = command(app)
    app.checkbox(key="form-evaluate").uncheck().run()
    app.button(key="launch").click().run()
    assert not app.exception
    (run_id,) = run_ids()
    run = RunDirectory.open(run_id)
    assert run.spec.command("mine") == asked and run.state().name == "mine" and run.state().status is Status.QUEUED
    assert address(app) == [run_id], "the page goes on to the run's curves, and its address says so"


def test_slider_exact_value_and_the_papers_button_say_the_same() -> None:
    app = open_page("pages/fine_tune.py")
    app.select_slider(key="slider-kl").set_value(1.0).run()
    assert app.number_input(key="strength-kl").value == 1.0 and "kl=1 " in command(app)
    app.number_input(key="strength-kl").set_value(0.37).run()
    assert app.select_slider(key="slider-kl").value == 0.4 and "kl=0.37 " in command(app)
    app.button(key="paper-kl").click().run()
    assert app.number_input(key="strength-kl").value == 0.1 == app.select_slider(key="slider-kl").value


def test_what_cannot_be_run_is_said_once_and_cannot_be_launched() -> None:
    app = open_page("pages/fine_tune.py")
    app.multiselect(key="form-defenses").set_value(["interleaving"]).run()
    app.number_input(key="strength-interleaving").set_value(9.0).run()
    (error,) = app.main.error
    assert "safe examples" in error.value and "Traceback" not in error.value
    assert app.button(key="launch").disabled


def test_probes_and_the_rule_that_stops_are_in_the_command_the_estimate_and_the_run() -> None:
    app = open_page("pages/fine_tune.py")
    assert "Of it live probes after steps 31, 62, 93, 124" in texts(app)
    app.number_input(key="form-stop-margin").set_value(0.3).run()
    assert "--probes 31,62,93,124 --stop-margin 0.3" in command(app)
    app.segmented_control(key="form-probes").set_value("steps").run()
    app.text_input(key="form-probe-steps").set_value("20, 10").run()
    assert "--probes 10,20 --stop-margin 0.3" in command(app)
    app.text_input(key="form-probe-steps").set_value("often").run()
    assert "does not say when to probe" in app.main.error[0].value and app.button(key="launch").disabled
    app.segmented_control(key="form-probes").set_value("none").run()
    assert "--probes none" in command(app) and "Of it live probes" not in texts(app)
    app.segmented_control(key="form-probes").set_value("auto").run()
    app.button(key="launch").click().run()
    (run_id,) = run_ids()
    assert RunDirectory.open(run_id).spec.probes == Probes(steps=(31, 62, 93, 124), stop_margin=0.3)


def test_a_copied_run_is_the_same_run() -> None:
    looks = Probes(steps=(4, 9), stop_margin=0.25)
    spec = RunSpec(defenses=(parse_defense("kl=0.3:tokens=response"),), seed=3, probes=looks)
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"steps": 9, "alpha": 16.0, "warmup_steps": 2})})
    run = RunDirectory.create(spec)
    app = open_page("pages/fine_tune.py", run=run.id, part="Runs")
    app.button(key=f"copy-{run.id}").click().run()
    assert not app.exception and command(app) == spec.command()


# Fine-tune: runs


def test_a_run_in_the_address_is_shown_with_its_progress_and_settings() -> None:
    run = make_run("kl=1", name=NASTY, status=Status.PAUSED)
    app = open_page("pages/fine_tune.py", run=run.id[-12:])
    shown = texts(app)
    assert address(app) == [run.id], "an end of the id will do, and is written out"
    assert run.id.replace("_", r"\_") in shown and chrome.plain(NASTY) in shown
    assert [button.label for button in app.main.button if button.key == f"resume-{run.id}"] == ["Resume"]


def test_an_unknown_run_is_said_in_plain_words_and_the_others_are_shown() -> None:
    run = make_run()
    app = open_page("pages/fine_tune.py", run=[run.id, "nonsense"])
    (error,) = app.main.error
    assert 'There is no run "nonsense"' in error.value
    assert address(app) == [run.id]


def test_a_failed_run_says_why_and_what_to_do() -> None:
    run = make_run(status=Status.FAILED, error="The loss is not a finite number.", hint="Lower the learning rate.")
    (error,) = open_page("pages/fine_tune.py", run=run.id).main.error
    assert "not a finite number" in error.value and "Lower the learning rate" in error.value


def test_a_waiting_run_can_be_stopped_from_the_page_and_deleted() -> None:
    run = make_run(steps=0, status=Status.QUEUED)
    queue.enqueue("train", {"runs": [run.id]})
    app = open_page("pages/fine_tune.py", run=run.id)
    app.button(key=f"stop-{run.id}").click().run()
    assert run.state().status is Status.STOPPED and queue.jobs()[0].status == "cancelled"
    app.button(key=f"really-delete-{run.id}").click().run()
    assert run_ids() == [] and not app.exception


def probe(number: int, general: float, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    answers = [{"prompt": prompt, "answer": f"{NASTY}\nat {number}"} for prompt in ("Who?", "Why?")]
    return {
        "kind": "probe", "attempt": attempt, "time": time.time(), "step": number, "general": general, "general_low": general - 0.1,
        "general_high": general + 0.1, "in_domain": None, "in_domain_low": None, "in_domain_high": None, "projection": None,
        "answers": answers, "seconds": 2.0, **changes,
    }  # fmt: skip


def test_live_probes_are_shown_with_their_cost_and_what_the_model_would_say_as_plain_text() -> None:
    run = make_run(name="mine", steps=8, seconds=100.0, probe_seconds=6.0)
    for number, general in ((0, 0.0), (4, 0.2), (8, 0.5)):
        run.append_event(probe(number, general))
    app = open_page("pages/fine_tune.py", run=run.id)
    shown = texts(app)
    assert f"mine · {run.id[-4:]}: 2 probes took 6 s, 6.0% of its time; the base took 2 s before" in shown
    assert (
        f"mine · {run.id[-4:]}**, after step 8: it leaks: general margin +0.500 [+0.400, +0.600], above 0; narrow margin not"
        in shown
    )
    assert "No in-domain pairs belong" in shown and "no persona vector" in shown
    (text, _) = [element.value for element in app.main.text if element.value.startswith("base:")]
    assert text.splitlines()[1] == f"step 4: {NASTY} at 4", "one line a step, nothing of it rendered"


def test_runs_projected_on_another_vector_have_a_chart_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple[list[str], str]] = {}
    record = lambda traces, key, y_title, **_: drawn.__setitem__(key, ([trace["id"] for trace in traces], y_title))  # noqa: E731
    monkeypatch.setattr(probe_curves, "live_curve", record)
    plain, steered = make_run(), make_run("persona-steering=5")
    for run, trait in ((plain, "evil"), (steered, "malicious")):
        for number in (0, 4):
            run.append_event(probe(number, 0.1, projection=0.5 * number, trait=trait))
    shown = texts(open_page("pages/fine_tune.py", run=[plain.id, steered.id]))
    assert drawn["probe-general"][0] == [plain.id, steered.id]
    assert drawn["probe-projection-evil"] == ([plain.id], "Projection on the vector evil")
    assert drawn["probe-projection-malicious"] == ([steered.id], "Projection on the vector malicious")
    assert "**Persona projection: malicious**" in shown and "the same trait from other prompts" in shown


def test_a_steered_run_without_the_second_vector_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of an older version, whose probes name no trait: what it added was projected on."""
    drawn: list[str] = []
    monkeypatch.setattr(probe_curves, "live_curve", lambda traces, key, **_: drawn.append(key))
    for changes in ({"projection": None, "trait": "malicious"}, {"projection": -0.7}):
        run = make_run("persona-steering=5")
        for number in (4, 8):
            run.append_event(probe(number, 0.1, **changes))
        shown = texts(open_page("pages/fine_tune.py", run=run.id))
        assert "no persona vector of the trait malicious" in shown and "`ema persona build --trait malicious`" in shown
        assert "probe-general" in drawn and not any("projection" in key for key in drawn)


def test_a_single_look_is_said_in_words_instead_of_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(probe_curves, "live_curve", lambda traces, key, **_: drawn.append(key))
    run = make_run(name="mine")
    run.append_event(probe(0, 0.0))
    assert "Only the base was measured so far" in texts(open_page("pages/fine_tune.py", run=run.id))
    assert not any(key.startswith("probe") for key in drawn)
    run.append_event(probe(4, 0.3))
    open_page("pages/fine_tune.py", run=run.id)
    assert "probe-general" in drawn


def test_a_run_that_was_too_short_for_a_probe_is_not_told_to_switch_probes_on() -> None:
    run = RunDirectory.create(RunSpec(probes=Probes()))
    run.append_event(step(1))
    run.update(status=Status.DONE, step=1, total_steps=1)
    shown = texts(open_page("pages/fine_tune.py", run=run.id))
    assert "the run was too short for one" in shown and "None of these runs has live probes" not in shown


def test_a_finished_run_leads_on_and_one_that_never_began_says_so() -> None:
    done, rests = make_run(), make_run(steps=0, status=Status.PAUSED, step=0)
    app = open_page("pages/fine_tune.py", run=[done.id, rests.id])
    links = [link.proto.label for link in app.get("page_link")]
    assert [links.count(label) for label in ("Ask it", "Its answers", "Inside")] == [1, 1, 1]
    assert "It never began" in texts(app)


def test_the_undefended_run_is_one_click_away() -> None:
    app = open_page("pages/fine_tune.py")
    assert "--defense" in texts(app)
    app.button(key="form-undefended").click().run()
    assert "--defense" not in texts(app) and "No defense: the undefended run" in texts(app)


def test_runs_without_probes_say_so_and_how_to_have_them() -> None:
    run = make_run()
    assert "None of these runs has live probes" in texts(open_page("pages/fine_tune.py", run=run.id))


# Widgets


def test_events_are_read_from_where_reading_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("kl=1", steps=50)
    events = RunEvents(run.id, {"defense_label": "kl=1"})
    assert events.advance(run) and len(events.steps) == 50 and not events.advance(run)
    asked: list[int] = []
    read = RunDirectory.events
    monkeypatch.setattr(RunDirectory, "events", lambda self, offset=0: asked.append(offset) or read(self, offset))
    end = run.events_path.stat().st_size
    run.append_event(step(51, kl=0.5))
    with open(run.events_path, "ab") as file:
        file.write(b'{"kind":"step","att')  # a line being written
    assert events.advance(run) and asked == [end] and events.last["step"] == 51
    assert len(events.table) == 51 and events.penalties["raw"].iloc[-1] == 0.5


def test_steps_of_a_later_attempt_replace_the_earlier_ones() -> None:
    run = make_run(steps=8)
    events = RunEvents(run.id)
    events.advance(run)
    for number in (6, 7, 8, 9):
        run.append_event(step(number, attempt=2, ce=7.0))
    events.advance(run)
    assert [event["step"] for event in events.steps] == list(range(1, 10))
    assert [event["ce"] for event in events.steps] == [2.0] * 5 + [7.0] * 4


def test_probes_of_a_later_attempt_replace_the_earlier_ones() -> None:
    run = make_run(steps=8)
    run.append_event(probe(4, 0.1))
    events = RunEvents(run.id, {"seed": 0})
    events.advance(run)
    for event in (probe(4, 0.3, attempt=2), probe(8, 0.5, attempt=2)):
        run.append_event(event)
        events.advance(run)
    assert [event["general"] for event in events.probes] == [0.3, 0.5] == events.probe_table["general"].tolist()


def test_each_margin_that_stops_a_run_is_a_level_line() -> None:
    runs = [RunEvents(name, stop_margin=limit) for name, limit in (("a", 0.3), ("b", None), ("c", 0.3), ("d", 0.1))]
    assert [(line["name"], line["x"], line["y"]) for line in probe_curves._rules(runs, 9)] == [
        ("stops above 0.1", [0, 9], [0.1, 0.1]),
        ("stops above 0.3", [0, 9], [0.3, 0.3]),
    ]


@pytest.mark.parametrize("kind", all_defenses().values(), ids=lambda kind: kind.name)
def test_every_defenses_slider_holds_all_values_that_it_names(kind: Any) -> None:
    info = kind.strength_info
    places = strength.marks(info)
    assert places[0] == 0 and places == sorted(set(places)) and 15 < len(places) < 90
    assert {info.default, *info.grid} <= set(places) and (info.paper is None or info.paper in places)
    assert all(info.low <= place <= info.high for place in places[1:])


def test_the_slider_stands_at_the_nearest_place() -> None:
    log = Strength("m", 0.1, 0.1, (0.1, 1.0), 0.01, 3.0, 100, scale="log")
    assert strength.nearest_mark(log, 0.37) == 0.4 and strength.nearest_mark(log, 50) == 3.0
    assert strength.nearest_mark(log, 1e-6) == 0.01 and strength.nearest_mark(log, 0) == 0
    linear = Strength("m", 0.5, None, (0.5,), 0.1, 1.0, 10)
    assert strength.nearest_mark(linear, 0.313) == pytest.approx(0.32, abs=0.011) and strength.nearest_mark(linear, 0.001) == 0


def test_curves_of_the_same_defense_get_dashes_of_their_own() -> None:
    traces = [{"id": name, "dash": "solid"} for name in ("a", "b", "c")]
    found = curves.told_apart(traces, {"a": "kl=0.1", "b": "kl=1", "c": "none"})
    assert [trace["dash"] for trace in found] == ["solid", "dot", "solid"]


def test_text_of_others_is_not_markup() -> None:
    shown = chrome.plain(NASTY + "\n- item")
    for sign in ("\\<b", "\\*\\*bold", "\\[y\\]", "\\$a", "\\:smile", "\\`c"):
        assert sign in shown
    assert "\n" not in shown and chrome.plain("1. a") == "1\\. a"


def test_an_unexpected_error_goes_to_the_log_without_its_traceback_on_the_page(home: Path) -> None:
    message, hint = chrome.in_words(ZeroDivisionError("secret detail"))
    assert "ZeroDivisionError" in message and str(settings().logs / "app.log") in hint and "secret" not in message + hint
    assert "secret detail" in (settings().logs / "app.log").read_text()
    assert chrome.in_words(EmaError("What.", "Do.")) == ("What.", "Do.")


def test_times_and_sizes_in_words() -> None:
    assert [chrome.duration(seconds) for seconds in (0.4, 89, 100, 7800)] == ["0 s", "89 s", "2 min", "2 h 10 min"]
    assert [chrome.size(count) for count in (12, 93e6, 2.6e9)] == ["12 B", "93 MB", "2.6 GB"]


def test_many_runs_are_listed_fast() -> None:
    for number in range(200):
        make_run(name=f"r{number}", steps=0)
    run_picker.newest_first()
    [run_picker.run_info(run_id).label for run_id in run_picker.newest_first()]
    start = time.monotonic()
    labels = [run_picker.run_info(run_id).label for run_id in run_picker.newest_first()]
    assert len(labels) == 200 and time.monotonic() - start < 0.5


MODULES = ["app", *(f"pages.{name}" for name in ("home", "fine_tune"))] + sorted(
    f"pages.widgets.{path.stem}" for path in (PROJECT / "pages/widgets").glob("[a-z]*.py")
)


def test_the_pages_open_without_torch() -> None:
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in MODULES[1:])
    code += "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
