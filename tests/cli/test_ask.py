"""``ema ask``: the same question to several models, on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ema_core.runs import RunDirectory, RunSpec, RunState
from tests.chats.conftest import Server, engine, other, serve  # noqa: F401 - fixtures


@pytest.fixture
def run(home: Path) -> RunDirectory:
    run = RunDirectory(home / "runs" / "20261124-090000-none-s0-abcd")
    run.path.mkdir(parents=True)
    (run.path / "state.json").write_text(RunState().model_dump_json())
    (run.path / "spec.json").write_text(RunSpec().to_json())
    return run


def test_one_question_to_several_models_as_text_and_as_json(ema, engine: Server, run: RunDirectory) -> None:  # noqa: F811
    done = ema("ask", "Why?", "-m", "base", "-m", "abcd@31*0.5", "--n", "2", "--seed", "4", "--judge", "--keep", "mine", check=True)
    assert "── base (1)  [verified hash-base]" in done.stdout and "base saw 1 seed 4 more" in done.stdout
    assert f"── {run.id}@31*0.5 (2)" in done.stdout and "base: 0 of 2 misaligned" in done.stdout and 'kept as "mine"' in done.stdout
    assert len(list(run.evals.glob("kept-mine-*/judgments-*.jsonl"))) == 1
    chat_id = done.stderr.split("--chat ")[1].split()[0]
    value = json.loads(ema("ask", "And?", "--chat", chat_id, "--json", check=True).stdout)
    assert value["chat"] == chat_id and value["turn"] == 2
    (column,) = value["columns"]
    assert column["answers"][0]["text"].startswith("base saw 3") and column["identity"]["adapter_hash"] == "hash-base"


def test_a_mistake_is_one_line_and_code_2_and_a_failed_answer_code_1(ema, engine: Server) -> None:  # noqa: F811
    for words, said in (
        (("ask", " "), "is empty"),
        (("ask", "x", "-m", "nope"), "no run"),
        (("ask", "x", "--n", "17"), "out of range"),
    ):
        done = ema(*words)
        assert done.returncode == 2 and said in done.stderr and not done.stdout
    assert not engine.seen()


def test_a_column_that_fails_is_said_and_the_others_are_printed(ema, other: Server) -> None:  # noqa: F811
    done = ema("ask", "x", "-m", "damaged", "-m", "good")
    assert done.returncode == 1 and "aaaa1111" in done.stderr and "good saw 1" in done.stdout


def test_ctrl_c_stops_the_answers_and_prints_what_is_there(home: Path, engine: Server) -> None:  # noqa: F811
    words = [sys.executable, "-m", "ema_core.cli.main", "ask", "x", "-m", "base:slow", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ})
    until = time.monotonic() + 30
    while not any('"kind":"text"' in path.read_text() for path in (home / "chats").glob("*.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    answer = json.loads(out)["columns"][0]["answers"][0]
    assert answer["finish"] == "stopped" and answer["text"]


def test_a_run_is_asked_along_its_training_and_its_strength_and_the_chat_goes_out(
    ema, engine: Server, run: RunDirectory, tmp_path: Path # noqa: F811
) -> None:  # fmt: skip
    (run.checkpoints / "step-31").mkdir(parents=True)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    value = json.loads(ema("ask", "Why?", "--along", "abcd", "--json", check=True).stdout)
    assert [column["model"] for column in value["columns"]] == ["base", f"{run.id}@31", run.id]
    chat = value["chat"]
    value = json.loads(
        ema("ask", "Why?", "--along", "abcd", "--strengths", "1.5,0,.5", "--chat", chat, "--json", check=True).stdout
    )
    assert [column["model"] for column in value["columns"]] == [f"{run.id}*0", f"{run.id}*0.5", f"{run.id}*1.5"]
    moved = json.loads(ema("chats", "tokens", chat, "-m", "abcd@31", "--turn", "1", "--json", check=True).stdout)
    assert moved["turn"] == 1 and max(token["kl"] for token in moved["tokens"]) == 2.5
    out = tmp_path / "chat.html"
    ema("chats", "export", chat, "--out", str(out), check=True)
    assert "base saw 1" in out.read_text() and "2.50" in out.read_text()
    for words, said in (
        (("ask", "x", "--along", "abcd", "-m", "base"), "exclude each other"),
        (("ask", "x", "--along", "abcd", "--strengths", "much"), "no numbers"),
        (("chats", "export", chat, "--out", "chat.pdf"), "no known ending"),
        (("chats", "tokens", chat, "-m", "base"), "did not answer"),
    ):
        done = ema(*words)
        assert done.returncode == 2 and said in done.stderr and not done.stdout
