"""A question along one run: its stops, what joins later, and what the file says of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ema_core.chats import walk
from ema_core.chats.broker import Broker
from ema_core.chats.log import Log
from ema_core.chats.view import Chat, Question
from ema_core.errors import EmaError
from ema_core.files import append_line, write_json
from ema_core.runs import RunDirectory, RunSpec, RunState, Status
from tests.chats.conftest import Server


def make_run(home: Path, *steps: int, final: str = "aaaa", hashes: dict[int, str] | None = None) -> str:
    run = RunDirectory(home / "runs" / "20261124-090000-none-s0-walk")
    state = RunState(status=Status.DONE, step=62, total_steps=62, created=1.7e9, found={"adapter_hash": final})
    write_json(run.path / "state.json", state.model_dump(mode="json"))
    (run.path / "spec.json").write_text(RunSpec().to_json())
    for step in steps:
        (run.checkpoints / f"step-{step}").mkdir(parents=True)
        append_line(run.events_path, {"kind": "checkpoint", "step": step, "adapter_hash": (hashes or {}).get(step, f"h{step}")})
    if final:
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    return run.id


def done(broker: Broker, chat_id: str) -> Chat:
    *_, chat = broker.wait(chat_id, 30)
    assert not chat.in_flight
    return chat


def test_stops_go_from_the_base_to_the_end_and_none_stands_there_twice(home: Path) -> None:
    run = make_run(home, 31, 62, hashes={62: "aaaa"})
    stops = walk.stops(run, "training")
    assert [(stop.model, stop.place) for stop in stops] == [("base", 0), (f"{run}@31", 31), (run, 62)]
    assert [stop.label for stop in stops] == ["base", "step 31", "final (62)"]
    strengths = walk.stops(run, "strength")
    assert [stop.place for stop in strengths] == [k / 10 for k in range(16)]
    assert [stop.model for stop in strengths][:2] == [f"{run}*0", f"{run}*0.1"] and strengths[10].model == run
    assert walk.first(strengths, "strength", f"{run}*0.3") == [f"{run}*0", f"{run}*0.3", f"{run}*0.5", run, f"{run}*1.5"]


def test_a_last_checkpoint_that_the_defense_changed_afterwards_is_a_stop_of_its_own(home: Path) -> None:
    run = make_run(home, 62)
    assert [stop.model for stop in walk.stops(run, "training")] == ["base", f"{run}@62", run]


def test_many_checkpoints_are_asked_evenly_with_both_ends(home: Path) -> None:
    run = make_run(home, *range(1, 61))
    stops = walk.stops(run, "training")
    models = walk.first(stops, "training")
    assert len(stops) == 62 and len(models) == walk.AT_ONCE and models[0] == "base" and models[-1] == run
    places = [stop.place for stop in stops if stop.model in models]
    assert max(b - a for a, b in pairwise(places)) <= 7


def test_a_run_in_training_walks_to_its_newest_checkpoint_and_one_without_any_is_refused(home: Path) -> None:
    run = make_run(home, 31, final="")
    assert [stop.model for stop in walk.stops(run, "training")] == ["base", f"{run}@31"]
    assert walk.stops(run, "strength")[-1].model == f"{run}@31*1.5"
    (RunDirectory.open(run).checkpoints / "step-31").rmdir()
    with pytest.raises(EmaError, match="no adapter and no checkpoint"):
        walk.stops(run, "training")


def test_a_stop_joins_with_the_seed_of_the_others_and_stays_in_the_file(home: Path, engine: Server) -> None:
    broker, run = Broker(), make_run(home, 31)
    models = (f"{run}*0", run)
    chat_id = broker.ask(Question("Why?", models, seed=7, by="strength", along=run))
    done(broker, chat_id)
    broker.regenerate(chat_id)
    seed = done(broker, chat_id).turns[0].columns[run].seed
    assert seed != 7
    broker.more(chat_id, [f"{run}*0.5", run])
    chat = done(broker, chat_id)
    assert chat.turns[0].columns[f"{run}*0.5"].seed == seed and len(engine.seen()) == 5, "what is there is not asked again"
    again = Log(chat_id).chat().turns[0]
    assert again.question.models == (*models, f"{run}*0.5") and (again.question.by, again.question.along) == ("strength", run)
    assert [stop.label for stop in walk.stops_of(again)] == ["× 0", "× 0.5", "× 1"]
    with pytest.raises(EmaError, match="40 stops"):
        broker.more(chat_id, [f"{run}*0.{k:03d}" for k in range(1, 41)])
    beside = broker.ask(Question("Why?", ("base",)))
    done(broker, beside)
    with pytest.raises(EmaError, match="side by side"):
        broker.more(beside, ["good"])


def test_a_walk_of_a_run_that_is_gone_is_still_read(home: Path, engine: Server) -> None:
    broker, run = Broker(), make_run(home, 31)
    chat_id = broker.ask(Question("Why?", ("base", f"{run}@31", run), by="training", along=run))
    done(broker, chat_id)
    RunDirectory.open(run).delete()
    assert [stop.label for stop in walk.stops_of(Log(chat_id).chat().turns[0])] == ["base", "step 31", "final"]
