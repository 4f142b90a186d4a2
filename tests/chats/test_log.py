"""The file of a chat: what is read from it, whatever it holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ema_core.chats import log
from ema_core.chats.log import Log
from ema_core.chats.view import Question
from ema_core.errors import EmaError

WHERE = {"turn": 1, "model": "base", "attempt": 0}


def began(**more) -> dict:
    return {"kind": "began", **WHERE, "pid": os.getpid(), "n": 2, "seed": 5, "server": "", **more}


@pytest.fixture
def chat_id(home) -> str:
    chat_id = log.open_chat()
    log.append(chat_id, log.asked(1, Question("How?", ("base", "RUN"), samples=2, seed=5)))
    return chat_id


@pytest.fixture
def writing(chat_id: str):
    key = (chat_id, 1, "base", 0)
    log.WRITING.add(key)
    yield
    log.WRITING.discard(key)


def test_lines_fold_into_turns_columns_and_samples(chat_id: str, writing: None) -> None:
    reader = Log(chat_id)
    (turn,) = reader.chat().turns
    assert turn.question == Question("How?", ("base", "RUN"), samples=2, seed=5) and not turn.columns
    log.append(chat_id, began())
    log.append(chat_id, {"kind": "waits", **WHERE, "why": "waits for a free place"})
    assert reader.chat().turns[0].columns["base"].note == "waits for a free place"
    log.append(chat_id, {"kind": "heard", **WHERE, "ema": {"adapter_hash": "abc"}})
    log.append(chat_id, {"kind": "text", **WHERE, "first": 0.4, "pieces": {"0": "One", "1": "Two"}})
    log.append(chat_id, {"kind": "text", **WHERE, "first": 0.4, "pieces": {"0": " more"}})
    log.append(chat_id, {"kind": "ended", **WHERE, "k": 0, "finish": "stop", "tokens": 2, "seconds": 1.5})
    column = reader.chat().turns[0].columns["base"]
    assert [sample.text for sample in column.samples] == ["One more", "Two"] and column.in_flight and column.note == ""
    assert (column.samples[0].finish, column.samples[0].tokens, column.samples[1].finish) == ("stop", 2, None)
    assert column.first == 0.4 and column.ema["adapter_hash"] == "abc"
    assert reader.chat() == Log(chat_id).chat()


def test_a_later_attempt_is_shown_and_scores_stay_with_theirs(chat_id: str) -> None:
    end = {"kind": "ended", **WHERE, "k": 0, "finish": "stop", "tokens": 1, "seconds": 1}
    log.append(chat_id, began(n=1), {"kind": "text", **WHERE, "first": 0.4, "pieces": {"0": "old"}}, end)
    judged = {**WHERE, "k": 0, "aligned": 10.0, "coherent": 90.0, "status": "scored"}
    log.append(chat_id, {"kind": "judged", "judge": "probe:x:v1", "judgments": [judged]})
    log.append(chat_id, {"kind": "kept", "name": "mine", "answers": [{**WHERE, "k": 0}]})
    (sample,) = Log(chat_id).chat().turns[0].columns["base"].samples
    assert sample.score and sample.score.aligned == 10 and sample.kept == ("mine",)
    again = {**WHERE, "attempt": 1}
    log.append(
        chat_id, began(n=1, attempt=1), {"kind": "text", **again, "first": 0.4, "pieces": {"0": "new"}}, {**end, "attempt": 1}
    )
    (sample,) = Log(chat_id).chat().turns[0].columns["base"].samples
    assert sample.text == "new" and sample.score is None and not sample.kept


def test_torn_and_foreign_lines_are_passed_over(chat_id: str) -> None:
    path = log.path_of(chat_id)
    with open(path, "ab") as file:
        file.write(b'{"kind": "began", "tur')
    log.append(chat_id, began(n=1))
    log.append(chat_id, {"kind": "text", **WHERE, "first": 0.4, "pieces": {"0": "whole"}})
    log.append(chat_id, {"kind": "of a newer version"}, {"kind": "ended", **WHERE, "k": "x"}, {"kind": "text", "turn": 9})
    with open(path, "ab") as file:
        file.write(b"[1]\n\xff\xfe\n" + b'{"kind": "text", "turn": 1')
    (sample,) = Log(chat_id).chat().turns[0].columns["base"].samples
    assert sample.text == "whole"


def test_an_answer_whose_writer_is_gone_reads_as_cut_with_what_was_there(chat_id: str, writing: None) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    log.append(chat_id, began(n=1), {"kind": "text", **WHERE, "first": 0.4, "pieces": {"0": "half an ans"}})
    assert Log(chat_id).chat().in_flight
    log.WRITING.discard((chat_id, 1, "base", 0))
    chat = Log(chat_id).chat()
    column = chat.turns[0].columns["base"]
    assert not chat.in_flight and column.samples[0].finish == "cut" and column.samples[0].text == "half an ans"
    assert column.error and "ended before" in column.error[0]
    log.append(chat_id, {**began(n=1, attempt=1, pid=gone.pid)})
    assert Log(chat_id).chat().turns[0].columns["base"].samples[0].finish == "cut"
    log.append(chat_id, {**began(n=1, attempt=2, pid=os.getppid()), "time": time.time()})
    assert Log(chat_id).chat().in_flight, "another living process writes it"


def test_ids_are_safe_file_names_and_hard_to_guess(home) -> None:
    ids = {log.new_id() for _ in range(50)}
    assert len(ids) == 50 and all(log.path_of(one).parent == home.resolve() / "chats" for one in ids)
    for bad in (
        "",
        "../../etc/passwd",
        "x" * 3000,
        "20261125-090000-abc",
        "20261125-090000-abcdefghijk/",
        "20261125-090000-abcdefghijk\n",
    ):
        with pytest.raises(EmaError, match="is not a chat"):
            log.path_of(bad)
    with pytest.raises(EmaError, match="There is no chat"):
        Log(ids.pop()).chat()


def test_text_is_cleaned_of_what_cannot_be_written(chat_id: str) -> None:
    assert log.clean("a\ud800b\x00\x1b[31m\r\n\tc\U0001f600") == "a\ufffdb[31m\n\tc\U0001f600"


def test_recent_chats_come_newest_first_without_empty_ones(chat_id: str) -> None:
    log.open_chat()
    second = log.open_chat()
    log.append(second, log.asked(1, Question("And what?", ("base",))))
    (log.path_of(second).parent / "notes.txt").write_text("not a chat")
    os.utime(log.path_of(chat_id), (1, 1))
    assert [(one.id, one.text) for one in log.recent()] == [(second, "And what?"), (chat_id, "How?")]
