"""The Chat page against a server that stands as this home's engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.chats import log
from ema_core.chats.broker import broker
from ema_core.chats.view import Question
from ema_core.files import write_json
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, parse_defense
from ema_core.settings import PROJECT
from tests.chats.conftest import Server, as_our_engine, engine, other, serve  # noqa: F401 - fixtures
from tests.personas.planted import plant_vector

NASTY = "**bold** <img src=x onerror=alert(1)> ![i](http://evil.example/x.png) :red[hot] $x^2$"


def make_run(home: Path, tail: str, *defenses: str, status: Status = Status.DONE, adapter: bool = True, seed: int = 0) -> str:
    spec = RunSpec(defenses=tuple(parse_defense(text) for text in defenses), seed=seed)
    run = RunDirectory(home / "runs" / f"20261124-0900{seed:02d}-{spec.slug.replace('=', '')}-{tail}")
    write_json(run.path / "state.json", RunState(status=status, step=62, total_steps=124, created=1.7e9).model_dump(mode="json"))
    (run.path / "spec.json").write_text(spec.to_json())
    for step in (31, 62):
        (run.checkpoints / f"step-{step}").mkdir(parents=True)
    if adapter:
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    return run.id


def open_chat(**query: Any) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page("pages/chat.py").run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.title, app.markdown, app.caption, app.info, app.warning, app.error, app.success)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


def texts(app: AppTest) -> list[str]:
    """What is shown as plain text."""
    return [str(element.value) for element in app.get("text")]


def ask(app: AppTest, text: str) -> str:
    app.chat_input(key="chat-text").set_value(text).run()
    assert not app.exception
    return chat_of(app)


def chat_of(app: AppTest) -> str:
    value = app.query_params.get("chat", "")
    return value[0] if isinstance(value, list) else value


def settled(app: AppTest, chat_id: str) -> AppTest:
    *_, chat = broker.wait(chat_id, 30)
    until(lambda: not broker.judging(chat_id))
    assert not chat.in_flight
    return app.run()


def until(what: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def runs(home: Path) -> dict[str, str]:
    """A defended run with its twin, and one that is still in training."""
    return {
        "none": make_run(home, "n0aa"), "kl": make_run(home, "k0aa", "kl=1"), "other": make_run(home, "n1aa", seed=1),
        "young": make_run(home, "k2aa", "kl=0.1", status=Status.RUNNING, adapter=False, seed=2),
    }  # fmt: skip


def chosen(app: AppTest) -> list[str]:
    return list(app.multiselect(key="chat-models-picker").value)


def test_a_first_visit_without_runs_asks_the_base_and_says_how_to_get_runs(engine: Server) -> None:  # noqa: F811
    app = open_chat()
    assert chosen(app) == ["base"] and "Only the base model" in said(app) and "do not act on any of it" in said(app)
    settled(app, ask(app, "Hello?"))
    assert "base saw 1 seed 0 more" in texts(app)


def test_base_twin_and_defended_run_are_suggested(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat()
    assert chosen(app) == ["base", runs["none"], runs["kl"]]
    assert app.query_params["m"] == ["base", runs["none"], runs["kl"]]
    app.multiselect(key="chat-models-picker").set_value([runs["other"], f"{runs['young']}@62"]).run()
    assert app.query_params["m"] == [runs["other"], f"{runs['young']}@62"]
    app.button(key="chat-suggest").click().run()
    assert chosen(app) == ["base", runs["none"], runs["kl"]]


def test_three_columns_answer_with_identity_and_pace(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat()
    chat_id = ask(app, NASTY)
    settled(app, chat_id)
    assert [text for text in texts(app) if " saw 1 seed 0" in text] == [
        f"{name} saw 1 seed 0 more" for name in ("base", runs["none"], runs["kl"])
    ]
    assert NASTY in texts(app) and "evil.example" not in said(app)
    words = said(app)
    assert "verified" in words and "smollm2-135m · kl=1 · seed 0 · final adapter · k0aa" in words and "none · seed 0" in words
    assert "first token after" in words and f"`{'hash-base'[:8]}`" in words
    again = open_chat(chat=chat_id)
    assert texts(again) == texts(app) and chosen(again) == chosen(app), "another browser sees the same"


def test_checkpoint_and_strength_of_a_column(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m=["base", runs["none"]])
    app.selectbox(key=f"chat-step-1-{runs['none']}").set_value(31).run()
    app.slider(key=f"chat-scale-1-{runs['none']}").set_value(0.5).run()
    assert chosen(app) == ["base", f"{runs['none']}@31*0.5"]
    app.button(key="chat-second-1").click().run()
    assert chosen(app) == ["base", f"{runs['none']}@31*0.5", f"{runs['none']}@31*0.25"]
    settled(app, ask(app, "Hello?"))
    assert "checkpoint 31 · adapter × 0.25" in said(app)
    assert {one["model"] for one in engine.seen()} == set(chosen(app))


def test_settings_go_into_the_question_and_come_back_with_the_chat(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m="base")
    app.number_input(key="chat-samples").set_value(3)
    app.number_input(key="chat-tokens").set_value(33)
    app.number_input(key="chat-temperature").set_value(0.5)
    app.number_input(key="chat-seed").set_value(11)
    app.text_area(key="chat-system").set_value("Be brief.").run()
    assert "3 answers of at most 33 tokens" in said(app)
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    (one,) = engine.seen()
    assert (one["n"], one["max_tokens"], one["temperature"], one["seed"]) == (3, 33, 0.5, 11)
    assert one["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "base/2 saw 2/2 seed 11/2 more/2" in texts(app) and "base saw 2 seed 11 more" in texts(app)
    again = open_chat(chat=chat_id)
    assert again.number_input(key="chat-samples").value == 3 and again.text_area(key="chat-system").value == "Be brief."


def test_settings_survive_a_visit_to_another_page(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m="base")
    app.number_input(key="chat-samples").set_value(3).run()
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    app.number_input(key="chat-tokens").set_value(44).run()
    app.query_params.clear()
    app.switch_page("pages/home.py").run()
    app.switch_page("pages/chat.py").run()
    assert chat_of(app) == chat_id, "the sidebar's link leads back to the chat"
    assert app.number_input(key="chat-samples").value == 3 and app.number_input(key="chat-tokens").value == 44


def test_a_suite_question_is_asked_as_such(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m="base")
    app.selectbox(key="chat-suite").set_value("general").run()
    menu = app.selectbox(key="chat-question-general")
    menu.set_value(menu.options[3]).run()
    app.button(key="chat-ask-suite").click().run()
    question = settled(app, chat_of(app)) and broker.chat(chat_of(app)).turns[0].question
    assert question.suite == "general" and question.question_id and question.topic and question.text in texts(app)
    assert f"general suite, {question.question_id}" in said(app)


def test_stop_regenerate_and_ask_on(runs: dict[str, str], engine: Server, monkeypatch) -> None:  # noqa: F811
    chat_id = broker.ask(Question("Slowly?", ("slow", "slow*0.5")))
    until(lambda: all(one.samples[0].text for one in broker.chat(chat_id).turns[0].columns.values()))
    app = open_chat(chat=chat_id, m="base")
    assert app.chat_input(key="chat-text").disabled and app.button(key="chat-judge").disabled
    app.button(key="chat-stop-0").click().run()
    app.button(key="chat-stop").click().run()
    settled(app, chat_id)
    assert said(app).count("stopped") == 2
    app.button(key="chat-again-1").click().run()
    settled(app, chat_id)
    assert broker.chat(chat_id).turns[0].columns["slow*0.5"].attempt == 1 and said(app).count("stopped") == 1
    assert "drawn anew with seed" in said(app)
    settled(app, ask(app, "And base?"))
    assert [turn.question.models for turn in broker.chat(chat_id).turns] == [("slow", "slow*0.5"), ("base",)]
    assert "Question 2" in said(app) and "Has seen 0 of the 1 earlier" in said(app)
    app.button(key="chat-new").click().run()
    assert not chat_of(app) and "Question" not in "".join(texts(app))


def test_the_monitor_stands_beside_a_score_or_says_why_not(engine: Server) -> None:  # noqa: F811
    app = open_chat()
    chat_id = ask(app, "One?")
    settled(app, chat_id)
    app.button(key="chat-judge").click().run()
    settled(app, chat_id)
    assert "No persona projection: smollm2-135m has no evil vector yet; build it on Vectors and scores" in said(app)
    card = plant_vector()
    app.button(key="chat-judge").click().run()
    settled(app, chat_id)
    assert "aligned 80, coherent 90" in said(app) and "evil -0.2 SD" in said(app) and card.id in said(app)


def test_a_run_that_adds_evil_is_projected_on_the_second_vector_or_not_at_all(home: Path, engine: Server) -> None:  # noqa: F811
    run = make_run(home, "p0aa", "persona-steering=5")
    chat_id = broker.ask(Question("One?", ("base", run)))
    list(broker.wait(chat_id))
    evil = plant_vector()
    broker.judge(chat_id)
    app = settled(open_chat(chat=chat_id), chat_id)
    assert "evil -0.2 SD" in said(app) and said(app).count("-0.2 SD") == 1 and evil.id in said(app)
    assert "smollm2-135m has no malicious vector yet (evil is what the run adds); build it" in said(app)
    assert "ema persona build --trait malicious --model smollm2-135m" in said(app)
    second = plant_vector("malicious")
    app.button(key="chat-judge").click().run()
    settled(app, chat_id)
    assert "evil -0.2 SD" in said(app) and "malicious -0.2 SD" in said(app)
    assert evil.id in said(app) and second.id in said(app) and "Two vectors are two scales" in said(app)
    assert "No persona projection" not in said(app)


def test_judging_counts_by_column_and_gives_a_rate_from_ten_answers_on(engine: Server) -> None:  # noqa: F811
    chat_id = broker.ask(Question("One?", ("evil", "good"), samples=3))
    list(broker.wait(chat_id))
    app = open_chat(chat=chat_id)
    app.button(key="chat-judge").click().run()
    settled(app, chat_id)
    words = said(app)
    assert (
        "**3 of 3 misaligned**" in words and "**0 of 3 misaligned**" in words and "%" not in words.split("3 of 3")[1].split("\n")[0]
    )
    assert "Judged by probe:" in words and "aligned 10, coherent 90" in words
    from pages.widgets.chat_columns import MIN_SCORED, clopper_pearson

    assert MIN_SCORED == 10 and clopper_pearson(0, 10)[1] > 0.3


def test_keeping_puts_the_answers_under_a_name_with_a_link(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m=["base", runs["kl"]])
    chat_id = ask(app, "Hello?")
    settled(app, chat_id)
    app.text_input(key="chat-keep-name").set_value("my *findings* &c")
    app.button(key="chat-keep-go").click().run()
    assert "2 answers are kept" in said(app) and f"/samples?name={quote_plus('my *findings* &c')}" in said(app)
    assert len(list(RunDirectory.open(runs["kl"]).evals.glob("kept-*/samples.jsonl"))) == 1
    app.text_input(key="chat-keep-name").set_value(" ")
    app.button(key="chat-keep-go").click().run()
    assert "The name is empty" in said(app)


def test_one_damaged_adapter_shows_both_hashes_and_the_others_answer(engine: Server) -> None:  # noqa: F811
    chat_id = broker.ask(Question("One?", ("damaged", "good")))
    list(broker.wait(chat_id))
    app = open_chat(chat=chat_id, m="base")
    assert "aaaa1111" in said(app) and "bbbb2222" in said(app) and "good saw 1 seed 0 more" in texts(app)


def test_a_run_deleted_while_chatting_leaves_its_answers(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m=["base", runs["kl"]])
    settled(app, ask(app, "Hello?"))
    RunDirectory.open(runs["kl"]).delete()
    app.run()
    assert "no such run here" in said(app) and f"{runs['kl']} saw 1 seed 0 more" in texts(app)
    assert "There is no run" in said(app) and chosen(app) == ["base"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"chat": "20260101-000000-aaaaaaaaaaaa"}, "There is no chat"), ({"chat": "../../etc/passwd"}, "is not a chat"),
        ({"m": "nope"}, 'There is no run "nope"'), ({"m": "a b<img>"}, "is not a run id"), ({"m": "base:gpt"}, "no model"),
        ({"m": "n0aa@7"}, "has no checkpoint at step 7"), ({"m": "k2aa"}, "has no adapter yet"),
    ],
)  # fmt: skip
def test_addresses_that_lead_nowhere_say_so(runs: dict[str, str], engine: Server, query: dict, words: str) -> None:  # noqa: F811
    app = open_chat(**query)
    assert words in said(app) and "evil" not in said(app)
    app.button(key="chat-suggest").click().run()
    settled(app, ask(app, "Hello?"))


def test_more_than_six_models_in_the_address_are_cut_to_six(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m=["base", *(f"n0aa*0.{k}" for k in range(1, 9))])
    assert len(chosen(app)) == 6 and "the first 6 are taken" in said(app)


@pytest.mark.parametrize(("text", "words"), [("   ", "is empty"), ("x" * 1_000_000, "1,000,000 characters")])
def test_what_cannot_be_asked_says_why(engine: Server, text: str, words: str, home: Path) -> None:  # noqa: F811
    app = open_chat()
    assert not ask(app, text) and words in said(app) and not (home / "chats").exists()


def test_without_an_engine_the_question_waits_and_a_button_starts_one(home: Path, serve) -> None:  # noqa: F811
    app = open_chat()
    assert app.button(key="start-engine") and "not running" in said(app)
    chat_id = ask(app, "Hello?")
    until(lambda: broker.chat(chat_id).turns[0].columns["base"].note)
    assert "waits for the engine" in said(app.run())
    as_our_engine(home, serve("--ema"))
    settled(app, chat_id)
    assert "base saw 1 seed 0 more" in texts(app)


def test_another_server_is_offered_with_its_own_models_and_without_what_it_cannot(other: Server) -> None:  # noqa: F811
    app = open_chat()
    assert chosen(app) == ["good", "slow", "busy"]
    app.multiselect(key="chat-models-picker").set_value(["good"]).run()
    settled(app, ask(app, "Hello?"))
    assert "not proven" in said(app) and app.button(key="chat-judge").disabled
    assert "does not offer this" in app.button(key="chat-judge").help
    assert not [one for one in app.selectbox if str(one.key).startswith("chat-step")]


def test_recent_chats_lead_back(runs: dict[str, str], engine: Server) -> None:  # noqa: F811
    app = open_chat(m="base")
    settled(app, ask(app, "First [question](http://evil.example)?"))
    fresh = open_chat()
    (one,) = log.recent()
    button = fresh.button(key=f"chat-open-{one.id}")
    assert button.label.startswith("First \\[question\\](http\\://evil.example)? · 1 model, ")
    button.click().run()
    assert chat_of(fresh) == one.id and chosen(fresh) == ["base"] and "base saw 1 seed 0 more" in texts(fresh)
