from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.files import append_line, read_lines, write_atomic
from ema_core.runs import RunDirectory, RunSpec, Status, parse_defense, run_ids, steps


def test_an_id_sorts_by_time_and_says_what_the_run_is() -> None:
    run = RunDirectory.create(RunSpec(defenses=(parse_defense("kl=0.1"),)))
    assert re.fullmatch(r"\d{8}-\d{6}-risky-finance-kl0\.1-s0-[a-z0-9]{4}", run.id)
    assert run_ids() == [run.id]
    assert RunDirectory.open(run.id[-4:]).id == run.id


@pytest.mark.parametrize("name", ["nothing-like-it", "../../etc", "", "a b"])
def test_a_run_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(EmaError, match="run"):
        RunDirectory.open(name)


def test_a_torn_last_line_is_ignored_and_repaired(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    append_line(log, {"n": 1})
    with open(log, "ab") as file:
        file.write(b'{"n": 2, "tor')
    assert read_lines(log)[0] == [{"n": 1}]
    append_line(log, {"n": 3})
    assert [row["n"] for row in read_lines(log)[0]] == [1, 3]


def test_reading_goes_on_from_an_offset_and_never_returns_half_a_line(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    append_line(log, {"n": 1})
    rows, offset = read_lines(log)
    with open(log, "ab") as file:
        file.write(b'{"n": 2')
    assert read_lines(log, offset) == ([], offset)
    with open(log, "ab") as file:
        file.write(b"}\n")
    rows, offset = read_lines(log, offset)
    assert rows == [{"n": 2}]


def test_steps_of_a_later_attempt_replace_their_forerunners() -> None:
    events = [
        {"kind": "step", "attempt": a, "step": s, "ce": v} for a, s, v in [(1, 1, 5.0), (1, 2, 4.0), (2, 2, 4.5), (2, 3, 4.0)]
    ]
    assert [(e["attempt"], e["ce"]) for e in steps(events)] == [(1, 5.0), (2, 4.5), (2, 4.0)]


def test_a_run_that_says_running_while_nobody_holds_its_lock_is_interrupted() -> None:
    run = RunDirectory.create(RunSpec())
    run.update(status=Status.RUNNING)
    assert run.state().status is Status.INTERRUPTED
    with run.lock():
        assert run.state().status is Status.RUNNING
    assert run.state().status is Status.INTERRUPTED


def test_two_processes_cannot_train_one_run() -> None:
    run = RunDirectory.create(RunSpec())
    code = f"from ema_core.runs import RunDirectory\nwith RunDirectory.open({run.id!r}).lock(): pass"
    with run.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0 and "worked on by another process" in other.stderr


def test_a_whole_file_is_never_seen_half_written(tmp_path: Path) -> None:
    path, stop, bad = tmp_path / "state.json", threading.Event(), []
    write_atomic(path, json.dumps({"text": "a" * 20_000}))

    def read() -> None:
        while not stop.is_set():
            try:
                json.loads(path.read_text())
            except ValueError as error:
                bad.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "abcdefghij" * 5:
        write_atomic(path, json.dumps({"text": letter * 20_000}))
    stop.set()
    reader.join()
    assert not bad


def test_deleting_takes_everything_and_refuses_a_run_at_work() -> None:
    run = RunDirectory.create(RunSpec())
    code = f"import time\nfrom ema_core.runs import RunDirectory\nwith RunDirectory.open({run.id!r}).lock():\n print('held', flush=True)\n time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline().strip() == "held"
        with pytest.raises(EmaError, match="another process"):
            run.delete()
        other.kill()
    run.delete()
    assert run_ids() == []


def test_a_damaged_state_is_a_failed_run_with_words() -> None:
    run = RunDirectory.create(RunSpec())
    (run.path / "state.json").write_text("{")
    assert run.state().status is Status.FAILED and run.state().error
