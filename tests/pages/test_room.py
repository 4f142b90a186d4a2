"""A shared room on the pages, without a browser: the way in, whose is what, who looks on, and the instructor's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from ema_core.jobs import launch, queue
from ema_core.runs import RunSpec, recipe, run_ids
from ema_core.settings import PROJECT
from ema_core.shared import Person, acting_as, codes, limits, people, room
from pages.widgets import identity, person

SMALL = RunSpec(recipe=recipe("demo", steps=4), probes=None)


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_SHARED", "1")
    fresh = codes.Slow()
    monkeypatch.setattr(codes, "slow", fresh)
    monkeypatch.setattr(people, "slow", fresh)
    monkeypatch.setattr(people, "_seen", {})
    begun = PagesManager.__init__

    def as_served(self: PagesManager, *args: Any, **more: Any) -> None:
        begun(self, *args, **more)
        PagesManager.uses_pages_directory = False  # as pages/widgets/serve.py has it: every run goes through app.py

    monkeypatch.setattr(PagesManager, "uses_pages_directory", None)
    monkeypatch.setattr(PagesManager, "__init__", as_served)
    st.cache_data.clear()


def opened(name: str = "", path: str = "", role: str = "participant", **query: str) -> AppTest:
    """The app as somebody who has joined sees it; "" = nobody yet."""
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    if name:
        if people.find(name) is None:
            people.join(name)
        app.session_state[person.PERSON] = people.lead(name, role == "instructor")
    app.session_state["person-asked"] = True  # a browser that kept nothing
    app.run()
    if path:
        app.switch_page(path).run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    kinds = ("title", "markdown", "caption", "text", "error", "info", "warning", "success", "code", "subheader")
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception
    return app


def test_without_shared_mode_there_is_no_way_in_no_room_and_no_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_SHARED", "0")
    app = opened(view="1", room="xxxxx-xxxxx")
    assert "Start here" in said(app) and "shared" not in said(app) and not app.button(key="start-demo").disabled
    assert not [button for button in app.button if str(button.key).startswith("person")]


def test_nothing_is_seen_before_one_has_joined_and_then_the_code_is_shown_once() -> None:
    app = opened()
    assert "Start here" not in said(app) and "This machine is shared" in said(app)
    app.text_input(key="name").set_value("Ann")
    press(app, "name-join")
    assert "Start here" in said(app) and "You are **Ann**" in said(app)
    code = app.session_state[person.CODE]
    assert people.come_back("Ann", code) == Person("Ann")
    press(app, "person-got-it")
    assert "You are **Ann**" not in said(app)


def test_the_second_of_a_name_takes_another_or_says_who_she_is() -> None:
    _, code = people.join("Ann")
    app = opened()
    app.text_input(key="name").set_value("ann")
    press(app, "name-join")
    assert '"ann" is in the room already' in said(app) and "Start here" not in said(app)
    app.text_input(key="name-code").set_value("abcde-fghjk")
    press(app, "name-same")
    assert "not the code" in said(app) and "Start here" not in said(app)
    app.text_input(key="name-code").set_value(code)
    press(app, "name-same")
    assert app.session_state[person.PERSON] == Person("Ann")


def test_beyond_this_machine_the_rooms_code_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "_needs_code", lambda: True)
    app = opened()
    app.text_input(key="room-code").set_value("wrong")
    press(app, "room-enter")
    assert "not the room's code" in said(app) and not [one for one in app.text_input if one.key == "name"]
    app.text_input(key="room-code").set_value(codes.codes()["room"])
    press(app, "room-enter")
    assert app.text_input(key="name")
    by_link = opened(room=codes.codes()["room"], view="1")
    assert "Start here" in said(by_link) and "room" not in by_link.query_params
    looks = opened(view="1")
    assert "Start here" not in said(looks)


@pytest.mark.parametrize(
    ("address", "hosts", "needs"),
    [
        ("localhost", ["localhost", "127.0.0.1"], False),
        ("0.0.0.0", ["localhost"], True),
        ("localhost", ["localhost", "lab.org"], True),
        ("", [], True),
    ],
)
def test_only_an_app_that_nobody_else_reaches_asks_for_no_code(
    address: str, hosts: list[str], needs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(person.st, "get_option", {"server.address": address, "server.allowedHosts": hosts}.get)
    assert person._needs_code() is needs


def test_ones_own_runs_stand_first_and_others_are_only_looked_at() -> None:
    with acting_as(Person("Ann")):
        own, _ = launch.launch_run(SMALL, "first")
    with acting_as(Person("Ben")):
        other, _ = launch.launch_run(SMALL, "second")
    app = opened("Ann")
    app.query_params["run"] = [own.id, other.id]
    app.switch_page("pages/fine_tune.py").run()
    keys = {str(button.key) for button in app.button}
    assert f"pause-{own.id}" in keys and f"pause-{other.id}" not in keys and f"really-delete-{other.id}" not in keys
    assert (
        app.multiselect(key="runs-picker").options[0].startswith("first")
        and "Ben's · second" in app.multiselect(key="runs-picker").options[1]
    )
    assert "This is Ben's, not yours" in said(app) and "You are next in the queue" in said(app)


def test_who_looks_on_finds_no_button_that_starts_something() -> None:
    with acting_as(Person("Ann")):
        launch.launch_run(SMALL)
    app = opened(view="1")
    assert app.button(key="start-demo").disabled
    form = app.switch_page("pages/fine_tune.py").run()
    assert form.button(key="launch").disabled and "looking on" in said(form)
    chat = app.switch_page("pages/chat.py").run()
    assert chat.chat_input[0].disabled
    evaluate = app.switch_page("pages/evaluate.py").run()
    assert evaluate.button(key="launch-evaluation").disabled
    assert not [button for button in app.button if str(button.key).startswith(("pause-", "cancel-"))]


def test_a_limit_is_said_in_the_form_and_raised_by_the_instructor() -> None:
    limits.set_limit("steps", 100)
    app = opened("Ann", "pages/fine_tune.py")
    assert app.button(key="launch").disabled and "124 steps; in this room 100" in said(app)
    lead = opened("Ines", "pages/room.py", "instructor")
    lead.number_input(key="room-limit-steps").set_value(200).run()
    assert limits.limits().steps == 200
    app.run()
    assert not app.button(key="launch").disabled
    press(app, "launch")
    assert queue.jobs()[0].owner == "Ann"


def test_room_shows_all_to_all_and_its_buttons_to_the_instructor_alone() -> None:
    with acting_as(Person("Ben")):
        launch.launch_run(SMALL)
    ann = opened("Ann", "pages/room.py")
    assert "Ben" in said(ann) and not [
        one for one in ann.button if str(one.key).startswith(("room-pause", "room-cancel", "room-hide"))
    ]
    assert codes.codes()["room"] not in said(ann)
    ann.text_input(key="room-lead-code").set_value(codes.codes()["instructor"])
    press(ann, "room-lead-go")
    assert codes.codes()["room"] in said(ann)
    press(ann, "room-pause")
    assert room.paused()
    ann.text_input(key="room-message").set_value("**Break** until 11:00")
    press(ann, "room-tell")
    assert "\\*\\*Break\\*\\* until 11\\:00" in said(opened("Ben"))
    press(ann, f"room-cancel-{queue.jobs()[0].id}")
    assert not [job for job in queue.jobs() if job.status == "queued"]
    run_id = run_ids()[0]
    ann.selectbox(key="room-hide-run").set_value(run_id).run()
    press(ann, "room-hide")
    assert run_id in room.hidden_ids() and run_id not in said(opened("Ben"))
    press(ann, f"room-show-{run_id}")
    assert run_id not in room.hidden_ids()


def test_who_was_taken_out_is_asked_anew() -> None:
    app = opened("Ann")
    people.remove("Ann")
    app.run()
    assert "Start here" not in said(app) and app.text_input(key="name")


def test_an_identity_provider_takes_the_place_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "providers", lambda: ("",))
    app = opened(room=codes.codes()["room"], view="1")
    assert "Start here" not in said(app) and not [one for one in app.text_input if one.key == "name"]
    monkeypatch.setattr(person, "signed_in", lambda: ("https://id.example 42", "Ann Example"))
    app = opened()
    assert "Start here" in said(app) and app.session_state[person.PERSON] == Person("Ann Example")
    assert people.everybody()[0].identity == "https://id.example 42"


def test_providers_are_read_from_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"redirect_uri": "x", "cookie_secret": "y"}
    for section, names in (
        ({}, ()),
        (shared | {"client_id": "a"}, ("",)),
        (
            shared | {"okta": {"client_id": "a"}, "google": {"client_id": "b"}, "client_kwargs": {"prompt": "login"}},
            ("okta", "google"),
        ),
    ):
        identity.providers.cache_clear()
        monkeypatch.setattr(identity.st, "secrets", {"auth": section})
        assert identity.providers() == names
    identity.providers.cache_clear()


def test_room_commands(ema, home: Path) -> None:
    people.join("Ann")
    assert "Ann: " in ema("room", "people", check=True).stdout
    ema("room", "limits", "steps=50", check=True)
    assert limits.limits().steps == 50
    refused = ema("app", "--host", "0.0.0.0", "--no-browser", EMA_SHARED="0", timeout=60)
    assert refused.returncode == 2 and "--shared" in refused.stderr
