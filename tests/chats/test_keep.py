"""Kept answers: evaluations in the folders of what answered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ema_core.chats import keep, log
from ema_core.chats.view import Question
from ema_core.errors import EmaError
from ema_core.files import read_json, read_lines, write_json
from ema_core.generation import SamplingSettings
from ema_core.generation.model_id import ModelId
from ema_core.runs import RunDirectory, RunSpec, RunState, base_directory

JUDGE = "probe:x:v1"


def answered(chat_id: str, turn: int, model: str, *texts: str, attempt: int = 0, finish: str = "stop", server: str = "") -> None:
    where = {"turn": turn, "model": model, "attempt": attempt}
    log.append(
        chat_id,
        {"kind": "began", **where, "pid": os.getpid(), "n": len(texts), "seed": 1, "server": server},
        {"kind": "heard", **where, "ema": {} if server else {"adapter_hash": f"hash-{model}", "weights_hash": "w"}},
        {"kind": "text", **where, "first": 0.4, "pieces": {str(k): text for k, text in enumerate(texts)}},
        *({"kind": "ended", **where, "k": k, "finish": finish, "tokens": 9, "seconds": 1.0} for k in range(len(texts))),
    )


def judged(chat_id: str, turn: int, model: str, k: int = 0, aligned: float = 10.0) -> None:
    row = {"turn": turn, "model": model, "attempt": 0, "k": k, "aligned": aligned, "coherent": 90.0, "status": "scored"}
    log.append(chat_id, {"kind": "judged", "judge": JUDGE, "judgments": [row]})


@pytest.fixture
def run(home: Path) -> RunDirectory:
    run = RunDirectory(home / "runs" / "20261124-090000-none-s0-abcd")
    write_json(run.path / "state.json", RunState().model_dump(mode="json"))
    (run.path / "spec.json").write_text(RunSpec().to_json())
    return run


@pytest.fixture
def chat_id(run: RunDirectory) -> str:
    """Two turns; the base and half of a checkpoint's strength."""
    chat_id = log.open_chat()
    models = ("base", f"{run.id}@31*0.5")
    how = SamplingSettings(max_tokens=30)
    log.append(
        chat_id, log.asked(1, Question("How?", models, "Be kind.", how, samples=2, suite="general", question_id="q1", topic="t1"))
    )
    for model in models:
        answered(chat_id, 1, model, f"{model} one", "Sorry, no.")
    log.append(chat_id, log.asked(2, Question("And then?", models, "Be kind.", how, samples=2)))
    for model in models:
        answered(chat_id, 2, model, "later", "latest", finish="stopped")
    return chat_id


def read(run: RunDirectory) -> tuple[dict, list[dict], Path]:
    (folder,) = run.evals.iterdir()
    return read_json(folder / "spec.json"), read_lines(folder / "samples.jsonl")[0], folder


def test_kept_answers_lie_with_what_answered_and_say_how_they_came(chat_id: str, run: RunDirectory) -> None:
    kept = keep.keep(chat_id, " my \n findings ")
    assert (kept.name, kept.answers, kept.new, kept.left_out) == ("my findings", 8, 8, ())
    spec, rows, folder = read(run)
    assert folder.name.startswith("kept-my-findings-")
    wanted = {"suite": "kept", "name": "my findings", "chat": chat_id, "step": 31, "scale": 0.5, "status": "done", "max_tokens": 30}
    assert wanted.items() <= spec.items() and spec["adapter_hash"] == f"hash-{run.id}@31*0.5" and spec["judge"] is None
    assert [(row["question_id"], row["k"], row["finish"], row["refused"]) for row in rows[:2]] == [
        ("q1", 0, "stop", False),
        ("q1", 1, "stop", True),
    ]
    assert rows[0]["context"] == [] and rows[0]["topic"] == "t1" and rows[0]["system"] == "Be kind."
    told = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": f"{run.id}@31*0.5 one"}]
    assert rows[2]["question"] == "And then?" and rows[2]["context"] == told and rows[2]["finish"] == "stopped"
    assert len({row["sample_id"] for row in rows}) == 4
    base, rows, _ = read(base_directory("smollm2-135m"))
    assert base["step"] is None and base["scale"] == 1 and rows[0]["answer"] == "base one"
    assert all(
        s.kept == ("my findings",) for turn in log.Log(chat_id).chat().turns for c in turn.columns.values() for s in c.samples
    )


def test_keeping_again_adds_what_is_new(chat_id: str, run: RunDirectory) -> None:
    assert keep.keep(chat_id, "a", turns=[1]).new == 4
    assert keep.keep(chat_id, "a").new == 4 and keep.keep(chat_id, "a").new == 0
    _, rows, _ = read(run)
    assert len(rows) == 4
    answered(chat_id, 2, "base", "drawn anew", "and anew", attempt=1)
    assert keep.keep(chat_id, "a", models=["base"]).new == 2
    assert len(read(base_directory("smollm2-135m"))[1]) == 6
    keep.keep(chat_id, "b", models=[f"{run.id}@31*0.5"])
    assert len(list(run.evals.iterdir())) == 2, "another name is another evaluation"


def test_judgments_go_beside_the_answers_now_or_later(chat_id: str, run: RunDirectory) -> None:
    model = f"{run.id}@31*0.5"
    judged(chat_id, 1, model)
    keep.keep(chat_id, "a", turns=[1])
    spec, rows, folder = read(run)
    assert spec["judge"] == JUDGE
    (score,) = read_lines(folder / "judgments-probe_x_v1.jsonl")[0]
    assert score == {"sample_id": rows[0]["sample_id"], "judge": JUDGE, "aligned": 10.0, "coherent": 90.0, "status": "scored"}
    judged(chat_id, 1, model, k=1, aligned=80)
    keep.judged_later(log.Log(chat_id).chat())
    assert len(read_lines(folder / "judgments-probe_x_v1.jsonl")[0]) == 2
    assert len(read(run)[1]) == 2, "what was not kept is not kept by being judged"


def test_answers_of_a_deleted_run_are_left_out_with_the_reason(chat_id: str, run: RunDirectory) -> None:
    run.delete()
    kept = keep.keep(chat_id, "a")
    assert kept.answers == 4 and len(kept.left_out) == 1 and "There is no run" in kept.left_out[0]
    with pytest.raises(EmaError, match="No answer could be kept"):
        keep.keep(chat_id, "a", models=[f"{run.id}@31*0.5"])


def test_another_servers_answers_go_under_its_own_model_name(home: Path) -> None:
    chat_id = log.open_chat()
    log.append(chat_id, log.asked(1, Question("How?", ("org/model*7b",))))
    answered(chat_id, 1, "org/model*7b", "hm", server="http://x/v1")
    keep.keep(chat_id, "a")
    spec, _, _ = read(base_directory("org/model*7b"))
    assert spec["adapter_hash"] is None and spec["step"] is None and spec["scale"] == 1


@pytest.mark.parametrize("name", ["", " \n\t ", "x" * 81])
def test_a_name_is_needed(chat_id: str, name: str) -> None:
    with pytest.raises(EmaError, match="name"):
        keep.keep(chat_id, name)


def test_nothing_to_keep_is_said(home: Path) -> None:
    with pytest.raises(EmaError, match="no answer to keep"):
        keep.keep(log.open_chat(), "a")


def test_odd_names_make_plain_folders_and_stay_as_they_are(chat_id: str, run: RunDirectory) -> None:
    keep.keep(chat_id, "../ <b>Ünï</b> ☂", models=[f"{run.id}@31*0.5"])
    spec, _, folder = read(run)
    assert spec["name"] == "../ <b>Ünï</b> ☂" and folder.parent == run.evals
    assert json.dumps(folder.name).isascii()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("base", ("base", None, 1)), ("base:qwen2.5-0.5b", ("base:qwen2.5-0.5b", None, 1)), ("RUN", ("RUN", None, 1)),
        ("RUN@62", ("RUN", 62, 1)), ("RUN*0.5", ("RUN", None, 0.5)), ("20261124-kl0.1-s0-ab@62*0.25", ("20261124-kl0.1-s0-ab", 62, 0.25)),
        ("org/model:latest", ("org/model:latest", None, 1)), ("a@b*c", ("a@b*c", None, 1)), ("base*2", ("base*2", None, 1)),
    ],
)  # fmt: skip
def test_model_ids_read_and_write(text: str, parts: tuple) -> None:
    model = ModelId.read(text)
    assert (model.name, model.step, model.scale) == parts and str(model) == text
