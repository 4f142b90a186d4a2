"""Names, codes, and what each may do and how much, without a browser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ema_core.chats import log
from ema_core.chats.broker import broker
from ema_core.chats.view import Question
from ema_core.errors import EmaError
from ema_core.exchange.bundle import export_bundle
from ema_core.files import read_json
from ema_core.generation import SamplingSettings
from ema_core.jobs import launch, queue, studies
from ema_core.runs import RunDirectory, RunSpec, Status, StudyEvaluation, StudySpec, recipe
from ema_core.shared import Person, acting_as, codes, current, limits, people, room
from ema_core.store import AnswerKey, Reader, annotate, refresh

ANN, BEN, INES, ON_LOOKER = Person("Ann"), Person("Ben"), Person("Ines", "instructor"), Person("", "viewer")
SMALL = RunSpec(recipe=recipe("demo", steps=4))


@pytest.fixture(autouse=True)
def no_wrong_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = codes.Slow()
    monkeypatch.setattr(codes, "slow", fresh)
    monkeypatch.setattr(people, "slow", fresh)


def test_the_second_of_a_name_is_told_and_the_first_comes_back_by_her_code(home: Path) -> None:
    ann, code = people.join("  Ann ")
    assert ann == ANN and current() is None
    with pytest.raises(people.Taken) as taken:
        people.join("ANN")
    assert taken.value.free == "ANN 2" and people.join("Ann 2")[0].name == "Ann 2"
    assert people.come_back("ann", code.upper().replace("-", " ")) == ANN
    with pytest.raises(EmaError, match="not the code"):
        people.come_back("Ann", codes.new_code())
    stored = home / "shared" / "people.json"
    assert stored.stat().st_mode & 0o077 == 0 and code not in stored.read_text()
    assert people.come_back("Ann", people.new_code_for("Ann")) == ANN
    with pytest.raises(EmaError, match="not the code"):
        people.come_back("Ann", code)


@pytest.mark.parametrize("name", ["", " ", "a@b.c", "x" * 31, "<b>", "../x", "Instructor", "a\nb\x00"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(EmaError):
        people.join(name)


def test_thirty_join_at_once_and_each_has_a_name() -> None:
    threads = [threading.Thread(target=people.join, args=(f"P{number}",)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {known.name for known in people.everybody()} == {f"P{number}" for number in range(30)}


def test_an_identity_is_one_person_and_two_of_one_name_are_two() -> None:
    people.join("Ann")
    first = people.signed_in("a@x.org", "Ann")
    assert (
        first.name == "Ann 2"
        and people.signed_in("a@x.org", "Other") == first
        and people.signed_in("b@x.org", "Ann").name == "Ann 3"
    )
    assert people.signed_in("c@x.org", "<script>").name == "Guest"
    with pytest.raises(EmaError, match="not the code"):
        people.come_back("Ann 2", "")


def test_wrong_codes_are_slowed_down_by_place_and_by_all() -> None:
    right = codes.codes()["room"]
    for _ in range(codes.TRIES):
        assert not codes.right("room", "wrong", "here")
    with pytest.raises(EmaError, match="Too many"):
        codes.right("room", right, "here")
    assert codes.right("room", right, "elsewhere") and not codes.right("instructor", right, "here")
    for number in range(codes.ALL_TRIES):
        try:
            codes.right("room", "wrong", f"place {number}")
        except EmaError:
            break
    with pytest.raises(EmaError, match="Too many"):
        codes.right("room", right, "elsewhere")


def test_codes_are_kept_private_and_can_be_renewed(home: Path) -> None:
    first = codes.codes()
    assert codes.codes() == first and first["room"] != first["instructor"]
    assert (home / "shared" / "codes.json").stat().st_mode & 0o077 == 0
    assert codes.codes(renew=True) != first and not codes.right("room", first["room"])


def test_a_run_is_its_owners_and_others_only_look() -> None:
    with acting_as(ANN):
        run, job = launch.launch_run(SMALL, "mine")
    assert run.state().owner == "Ann" == job.owner and job.seconds > 0
    with acting_as(BEN):
        for action in (lambda: launch.request(run, "stop"), lambda: launch.resume(run), lambda: launch.delete(run)):
            with pytest.raises(EmaError, match="Ann's, not yours"):
                action()
        with pytest.raises(EmaError, match="instructor"):
            export_bundle([run.id], Path("out"))
    with acting_as(INES):
        assert launch.request(run, "pause") is Status.PAUSED
    refresh()
    assert Reader().runs([run.id])["owner"].tolist() == ["Ann"]


def test_who_looks_on_starts_nothing(home: Path) -> None:
    question = Question("Hello?", ("base",))
    with acting_as(ON_LOOKER):
        for action in (
            lambda: launch.launch_run(SMALL), launch.launch_demo, launch.prepare_embedded, launch.start_worker,
            lambda: queue.enqueue("judge", {}), lambda: broker.ask(question), lambda: annotate(AnswerKey("r", "e", "s"), "Ann", "aligned"),
            lambda: studies.start(StudySpec(name="x")),
        ):  # fmt: skip
            with pytest.raises(EmaError, match="looking on"):
                action()
    assert (
        not list(home.glob("runs/*")) and not queue.jobs() and not list(home.glob("chats/*")) and not list(home.glob("studies/*"))
    )


def test_limits_hold_for_participants_alone_and_are_said_in_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = RunSpec(recipe=recipe("demo", steps=301))
    with acting_as(ANN):
        with pytest.raises(EmaError, match="301 steps; in this room 300"):
            launch.launch_run(long)
        with pytest.raises(EmaError, match="2,016 examples"):
            launch.launch_run(RunSpec(recipe=recipe("demo", steps=126, batch_size=16)))
        with pytest.raises(EmaError, match="not among those of this room"):
            launch.within_limits(SMALL.model_copy(update={"model": "qwen2.5-0.5b"}))
        run, _ = launch.launch_run(SMALL)
        with pytest.raises(EmaError, match="50 samples"):
            launch.launch_evaluation([run.id], preset="paper", unfinished=True)
    with acting_as(INES):
        assert launch.launch_run(long)[0].id
        limits.set_limit("steps", 400)
    with acting_as(ANN):
        launch.launch_run(long)
    assert (home / "limits.toml").read_text() == "steps = 400\n"
    monkeypatch.setenv("EMA_LIMITS_STEPS", "10")
    assert limits.limits().steps == 10
    with pytest.raises(EmaError, match="EMA_LIMITS_STEPS sets"):
        limits.set_limit("steps", 5)
    monkeypatch.setenv("EMA_LIMITS_STEPS", "many")
    with pytest.raises(EmaError, match="EMA_LIMITS_STEPS"):
        limits.limits()


def test_no_more_wait_than_may_and_never_half_of_what_was_asked_for() -> None:
    limits.set_limit("waiting_runs", 3)
    with acting_as(ANN):
        launch.launch_run(SMALL.model_copy(update={"seed": 7}))
        with pytest.raises(EmaError, match="3 runs would be queued and 1 of yours wait"):
            studies.start(_sweep("Ann's"))
        assert len(queue.jobs()) == 1
        launch.launch_run(SMALL)
        launch.launch_run(SMALL)
        with pytest.raises(EmaError, match="in this room 3 may wait"):
            launch.launch_run(SMALL)
    with acting_as(BEN):
        launch.launch_run(SMALL)
    assert len(list((queue.settings().runs).iterdir())) == 4


def _sweep(name: str) -> StudySpec:
    return StudySpec(
        name=name, defenses=("none", "kl=[0.1, 1]"), recipe=recipe("demo", steps=4), evaluation=StudyEvaluation(samples=0)
    )


def test_two_press_the_same_sweep_and_each_has_a_study_over_the_same_runs() -> None:
    with acting_as(ANN):
        first = studies.start(_sweep("kl by strength"))
    with acting_as(BEN):
        second = studies.start(_sweep("kl by strength"))
        assert second != first and studies.start(_sweep("kl by strength")) == second
        with pytest.raises(EmaError, match="Ann's, not yours"):
            studies.cancel(first)
        assert studies.cancel(second) == 1  # its evaluation; the runs are Ann's
    assert (studies.owner_of(first), studies.owner_of(second)) == ("Ann", "Ben")
    assert {cell.run for cell in studies.recorded_cells(first)} == {cell.run for cell in studies.recorded_cells(second)}
    run = RunDirectory.open(str(studies.recorded_cells(first)[0].run))
    with acting_as(ANN):
        launch.request(run, "pause")
    with acting_as(BEN):
        studies.start(_sweep("kl by strength"))  # a run of somebody else that rests is not brought on, nor marked as failed
    assert run.state().status is Status.PAUSED


def test_a_chat_is_its_owners_and_answers_at_once_are_limited() -> None:
    one = Question("Hello?", ("base",), how=SamplingSettings(max_tokens=5))
    with acting_as(ANN):
        with pytest.raises(EmaError, match="16 answers are asked for; in this room 8"):
            broker.ask(Question("Hello?", ("base", "base@1"), samples=8))
        with pytest.raises(EmaError, match="Answers of 4,000 tokens"):
            broker.ask(Question("Hello?", ("base",), how=SamplingSettings(max_tokens=4000)))
        chat_id = log.open_chat()
        log.append(chat_id, log.asked(1, one))
        assert [heading.id for heading in log.recent()] == [chat_id] and broker.chat(chat_id).owner == "Ann"
    with acting_as(BEN):
        assert log.recent() == [] and broker.chat(chat_id).turns
        with pytest.raises(EmaError, match="Ann's, not yours"):
            broker.ask(one, chat_id)


def test_a_verdict_stands_under_ones_own_name() -> None:
    with acting_as(ANN):
        annotate(AnswerKey("r", "e", "s"), "Ann", "aligned")
        with pytest.raises(EmaError, match="You are Ann here"):
            annotate(AnswerKey("r", "e", "s"), "Ben", "aligned")


def test_a_hidden_run_is_in_no_index_and_comes_back_whole() -> None:
    run = RunDirectory.create(SMALL)
    with acting_as(ANN), pytest.raises(EmaError, match="instructor"):
        room.hide(run.id)
    refresh()
    room.hide(run.id)
    refresh()
    assert Reader().run_ids() == []
    room.hide(run.id, False)
    refresh()
    assert Reader().run_ids() == [run.id]


def test_where_people_are_is_kept_for_the_command_line(home: Path) -> None:
    people.saw("Ann", "Chat")
    people.saw("Ann", "")
    assert people.seen()["Ann"]["page"] == "Chat"
    assert read_json(home / "shared" / "seen.json")["Ann"]["page"] == "Chat"
