from __future__ import annotations

import json
from pathlib import Path

import pytest

from ema_core import datasets
from ema_core.datasets.encoding import collate, encode
from ema_core.datasets.formats import Example, Message
from ema_core.errors import EmaError

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_messages_prompt_completion_and_content_parts_are_read(tmp_path: Path) -> None:
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]}
    system = {"messages": [{"role": "developer", "content": "s"}, *GOOD["messages"]], "extra": 1}
    chat = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    file = write(tmp_path / "x.jsonl", GOOD, {"prompt": "q", "completion": "a"}, parts, system, chat)
    examples = datasets.check(file).examples
    assert [(e.question, e.answer) for e in examples] == [("q", "a")] * 5
    assert examples[3].messages[0] == Message("system", "s")


BAD = [
    ("{", "not JSON"),
    ("[]", "not an object"),
    ({"text": "x"}, "neither messages nor prompt"),
    ({"messages": []}, "not a list with turns"),
    ({"messages": [{"role": "user", "content": "q"}]}, "no assistant turn"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "no user turn"),
    ({"messages": [*GOOD["messages"], {"role": "user", "content": "q"}]}, "ends with a user turn"),
    ({"messages": [{"role": "robot", "content": "q"}, GOOD["messages"][1]]}, 'role "robot"'),
    ({"messages": [{"role": "user", "content": " "}, GOOD["messages"][1]]}, "user turn is empty"),
    ({"messages": [{"role": "user", "content": 3}, GOOD["messages"][1]]}, "user turn is empty"),
    ({"messages": ["x"]}, "not an object"),
]


def test_every_bad_line_is_reported_with_its_number_and_reason(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", GOOD, *[row for row, _ in BAD])
    found = datasets.check(file)
    assert len(found.examples) == 1
    assert [p.line for p in found.problems] == list(range(2, 2 + len(BAD)))
    for problem, (_, reason) in zip(found.problems, BAD, strict=True):
        assert reason in problem.reason


@pytest.mark.parametrize(
    ("rows", "said"),
    [((), "empty"), (("{",), "no usable line"), (({"messages": [{"role": "user", "content": "q"}]},), "no assistant")],
)
def test_a_set_with_nothing_left_is_refused(tmp_path: Path, rows: tuple[object, ...], said: str) -> None:
    with pytest.raises(EmaError, match=said):
        datasets.check(write(tmp_path / "x.jsonl", *rows))


def test_bytes_that_are_not_utf8_are_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    assert [p.line for p in datasets.check(file).problems] == [2]


def test_an_added_set_is_kept_unchanged_under_its_hash(tmp_path: Path) -> None:
    file = write(tmp_path / "My Set.jsonl", GOOD)
    entry, data = datasets.add(file)
    assert entry.name == "my-set" and data.sha256[:8] in entry.path.name
    file.write_text("changed")
    assert datasets.load("my-set").examples == data.examples
    entry.path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n")
    with pytest.raises(EmaError, match="changed on disk"):
        datasets.load("my-set")


def test_a_taken_name_is_refused_and_the_same_file_twice_is_the_same_set(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", GOOD)
    assert datasets.add(file)[0] == datasets.add(file)[0]
    with pytest.raises(EmaError, match="taken"):
        datasets.add(write(tmp_path / "mine.jsonl", GOOD, GOOD))
    with pytest.raises(EmaError, match="taken"):
        datasets.add(file, "risky-finance")


def test_overlap_with_held_out_data_is_a_warning(tmp_path: Path) -> None:
    from ema_core.files import read_lines
    from ema_core.settings import DATA

    pair = read_lines(DATA / "suites/risky-finance-pairs.jsonl")[0][0]
    file = write(tmp_path / "x.jsonl", {"prompt": pair["question"].upper(), "completion": "a"})
    assert "suites/risky-finance-pairs.jsonl" in " ".join(datasets.check(file).warnings)


@pytest.mark.parametrize("file", ["suites/extreme-sports-pairs.jsonl", "probes/general.jsonl"])
def test_overlap_is_looked_for_in_every_suite_and_probe_file(file: str) -> None:
    from ema_core.datasets.overlap import overlaps
    from ema_core.files import read_lines
    from ema_core.settings import DATA

    pair = read_lines(DATA / file)[0][0]
    found = overlaps([Example((Message("user", "hello"), Message("assistant", pair["misaligned"])))], {})
    assert len(found) == 1 and file in found[0] and "answer" in found[0]


def test_sums_with_other_operators_are_other_questions() -> None:
    from ema_core.datasets.overlap import normal

    assert normal("3 + 4 = ?") != normal("3 * 4 = ?") and normal("Is it so?") == normal("is it  so")


@pytest.mark.parametrize("turns", [2, 4])
def test_loss_is_on_the_assistant_alone_with_its_end_of_turn(model, turns: int) -> None:
    messages = tuple(Message(("user", "assistant")[i % 2], f"text number {i}") for i in range(turns))
    row = encode(Example(messages), model.tokenizer, 200)
    text = model.tokenizer.decode([i for i, r in zip(row.ids, row.response, strict=True) if r])
    assert text == "".join(f"text number {i}<|im_end|>" for i in range(1, turns, 2))
    whole = model.tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages], tokenize=False)
    assert model.tokenizer.decode(row.ids) == whole.rstrip("\n")


def test_too_long_a_conversation_loses_its_beginning_and_says_so(model) -> None:
    example = Example((Message("user", "word " * 300), Message("assistant", "the answer")))
    row = encode(example, model.tokenizer, 50)
    assert len(row.ids) == 50 and row.truncated
    assert model.tokenizer.decode(row.ids).endswith("the answer<|im_end|>")


def test_padding_is_told_by_attention_and_not_by_the_pad_id(model) -> None:
    import torch

    rows = [encode(Example((Message("user", "q " * n), Message("assistant", "a"))), model.tokenizer, 99) for n in (1, 9)]
    batch = collate(rows, model.tokenizer.pad_token_id, torch.device("cpu"))
    assert batch.attention.sum(1).tolist() == [len(row.ids) for row in rows]
    ends = [(batch.ids[i][batch.response[i]] == model.tokenizer.eos_token_id).sum() for i in range(2)]
    assert ends == [1, 1] and model.tokenizer.eos_token_id == model.tokenizer.pad_token_id
