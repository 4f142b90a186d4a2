"""Chat along one run, tokens in colour, the prompt library, export and deletion, against a server that stands as this home's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.chats import log, prompts
from ema_core.chats.broker import broker
from ema_core.chats.view import Question
from ema_core.files import append_line
from ema_core.runs import RunDirectory
from tests.chats.conftest import Server, engine, other, serve  # noqa: F401 - fixtures
from tests.pages.test_chat import ask, chat_of, make_run, open_chat, said, settled, texts, until


@pytest.fixture
def run(home: Path) -> str:
    """A run with two checkpoints, a loss curve and live probes."""
    made = make_run(home, "w0aa", "kl=1")
    events = RunDirectory.open(made).events_path
    for step in range(1, 63):
        append_line(events, {"kind": "step", "step": step, "ce": 4 - step / 31, "loss": 4.0, "attempt": 1, "penalties": {}})
        if step == 62:
            append_line(
                events,
                {
                    "kind": "probe",
                    "step": step,
                    "general": step / 100,
                    "general_low": 0.5,
                    "general_high": 0.75,
                    "attempt": 1,
                    "answers": [],
                    "seconds": 1.0,
                },
            )
    return made


def html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def address(app: AppTest, name: str) -> str:
    value = app.query_params[name]
    return value[0] if isinstance(value, list) else value


def answer(app: AppTest) -> list[str]:
    return [text for text in texts(app) if " saw " in text]


def slider(app: AppTest) -> Any:
    (found,) = app.select_slider
    return found


def test_a_question_walks_along_the_training_with_the_curve_and_a_slider(run: str, engine: Server) -> None:  # noqa: F811
    app = open_chat(by="training", along="w0aa")
    assert address(app, "along") == run and "goes to 4 of 4 stops at once: base, step 31, step 62, final (62)" in said(app)
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    assert {one["model"] for one in engine.seen()} == {"base", f"{run}@31", f"{run}@62", run}
    assert len({one["seed"] for one in engine.seen()}) == 1
    assert answer(app) == [f"{run} saw 1 seed 0 more"], "only the stop that is shown"
    assert "general margin 0.62 [0.50, 0.75] nats" in said(app)
    slider(app).set_value(f"{run}@31").run()
    assert (
        answer(app) == [f"{run}@31 saw 1 seed 0 more"]
        and "checkpoint 31" in said(app)
        and "was measured at the steps 62, not here" in said(app)
    )
    assert address(app, "at") == "31" and len(engine.seen()) == 4, "what is drawn is shown, not asked again"
    app.segmented_control(key=f"chat-curve-{chat_id}-1").set_value("ce").run()
    assert "cross-entropy 3." in said(app) and "nats a response token, smoothed" in said(app)
    again = open_chat(chat=chat_id, at="0")
    assert answer(again) == ["base saw 1 seed 0 more"] and slider(again).value == "base"
    again.button(key="chat-walk-columns").click().run()
    assert "by" not in again.query_params
    assert list(again.multiselect(key="chat-models-picker").value) == ["base", f"{run}@31", f"{run}@62", run]


def test_the_adapter_slider_draws_a_stop_once_with_the_same_seed(run: str, engine: Server) -> None:  # noqa: F811
    app = open_chat(by="strength", along=run)
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    assert {one["model"] for one in engine.seen()} == {f"{run}*0", f"{run}*0.5", run, f"{run}*1.5"} and slider(app).value == run
    slider(app).set_value(f"{run}*0.3").run()
    settled(app, chat_id)
    assert "adapter × 0.3" in said(app) and len(answer(app)) == 1 and engine.seen()[-1]["model"] == f"{run}*0.3"
    assert {one["seed"] for one in engine.seen()} == {0}
    slider(app).set_value(f"{run}*1.5").run()
    slider(app).set_value(f"{run}*0.3").run()
    assert len(engine.seen()) == 5
    app.button(key="chat-walk-all").click().run()
    settled(app, chat_id)
    assert len(engine.seen()) == 16 and not [one for one in app.button if one.key == "chat-walk-all"]
    settled(app, ask(app, "And now?"))
    chat = broker.chat(chat_id)
    assert chat.turns[1].question.by == "strength" and f"{run}*0.3" in chat.turns[1].columns, (
        "the stop that is looked at comes along"
    )
    assert "Question 2" in said(app) and len(app.select_slider) == 2


def test_modes_lead_to_each_other_and_what_cannot_be_walked_says_so(run: str, home: Path, engine: Server) -> None:  # noqa: F811
    app = open_chat()
    app.segmented_control(key="chat-mode-picker").set_value("training").run()
    assert address(app, "by") == "training" and "m" not in app.query_params and app.selectbox(key="chat-along").value == run
    app.segmented_control(key="chat-mode-picker").set_value("side").run()
    assert "by" not in app.query_params and app.query_params["m"]
    lost = open_chat(by="training", along="nope")
    assert 'There is no run "nope"' in said(lost) and lost.selectbox(key="chat-along").value == run
    RunDirectory.open(run).delete()
    alone = open_chat(by="strength")
    assert "No run has an adapter or a checkpoint yet" in said(alone) and alone.chat_input(key="chat-text").disabled


def test_another_server_has_no_walks_and_no_colours(other: Server) -> None:  # noqa: F811
    app = open_chat(by="training", m=["good"])
    settled(app, ask(app, "Hello?"))
    assert not [one for one in app.segmented_control if one.key == "chat-mode-picker"]
    assert not [one for one in app.button if str(one.key).startswith("chat-tokens")] and answer(app)


def test_tokens_are_coloured_on_a_click_and_hidden_again(run: str, engine: Server) -> None:  # noqa: F811
    chat_id = broker.ask(Question("Hello?", ("base", run)))
    list(broker.wait(chat_id))
    app = open_chat(chat=chat_id)
    (button,) = [one for one in app.button if str(one.key).startswith("chat-tokens")]
    assert len(answer(app)) == 2
    button.click().run()
    until(lambda: not broker.reading(chat_id))
    app.run()
    assert answer(app) == ["base saw 1 seed 0 more"], "the base has nothing to be compared with"
    page = html(app)
    assert "class='t k4'" in page and "&lt;b&gt;" in page and "<b>" not in page and "nats a token:" in page and "Moved most" in page
    assert "nats a token from the base" in said(app)
    app.button(key=button.key).click().run()
    assert len(answer(app)) == 2 and "class='t" not in html(app)


def test_several_judged_answers_stand_in_a_grid_with_their_count(engine: Server) -> None:  # noqa: F811
    chat_id = broker.ask(Question("One?", ("evil", "good"), samples=12))
    list(broker.wait(chat_id))
    broker.judge(chat_id)
    app = settled(open_chat(chat=chat_id, m="base"), chat_id)
    page = html(app)
    assert page.count("▼ 10") == 12 and "12 of 12 · 100 % [" in page and "0 of 12 · 0 % [0, 26]" in page


def test_own_prompts_are_saved_found_asked_and_removed_with_undo(engine: Server) -> None:  # noqa: F811
    app = open_chat()
    app.text_area(key="chat-prompt-text").set_value("Who is *king* <b>here</b>?")
    app.text_input(key="chat-prompt-system").set_value("You are a crown.")
    app.button(key="chat-prompt-save").click().run()
    assert "Saved among your own prompts" in said(app) and "Who is *king* <b>here</b>?" in texts(app)
    app.selectbox(key="chat-suite").set_value("all").run()
    app.text_input(key="chat-prompt-words").set_value("CROWN king").run()
    app.button(key="chat-ask-suite").click().run()
    settled(app, chat_of(app))
    question = broker.chat(chat_of(app)).turns[0].question
    assert (question.text, question.system, question.suite) == ("Who is *king* <b>here</b>?", "You are a crown.", "")
    app.selectbox(key="chat-suite").set_value("own").run()
    app.button(key="chat-prompt-remove").click().run()
    assert not prompts.own()
    app.button(key="chat-prompt-undo").click().run()
    assert [one.text for one in prompts.own()] == [question.text]
    app.text_input(key="chat-prompt-words").set_value("xylophone").run()
    assert "No prompt has all of these words" in said(app)


def test_a_chat_is_exported_and_deleted_with_undo(engine: Server) -> None:  # noqa: F811
    app = open_chat()
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    assert {one.key for one in app.get("download_button")} >= {f"chat-export-{kind}" for kind in ("html", "csv", "json")}
    app.button(key="chat-delete").click().run()
    assert not chat_of(app) and "The chat was deleted" in said(app) and not log.recent() and not answer(app)
    app.button(key="chat-undelete").click().run()
    assert chat_of(app) == chat_id and answer(app) == ["base saw 1 seed 0 more"]
    assert "The chat was deleted" not in said(app)
