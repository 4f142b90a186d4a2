"""The benign tasks, insecure code and the refusal suites keep what their cards promise."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ema_core import datasets
from ema_core.datasets import opswap
from ema_core.datasets.fixed_style import style_match
from ema_core.datasets.opswap import exact_match
from ema_core.datasets.overlap import normal, shared
from ema_core.files import read_lines
from ema_core.settings import DATA

SUITES = DATA / "suites"


def five_words(texts: list[str]) -> set[tuple[str, ...]]:
    found = set()
    for text in texts:
        words = re.findall(r"[a-z0-9']+", text.lower())
        found |= {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
    return found


def test_opswaps_files_are_made_again_to_the_byte(tmp_path: Path) -> None:
    opswap.write(tmp_path)
    for name in ("benign/opswap.jsonl", "suites/opswap.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_no_held_out_problem_stands_in_opswaps_training_set() -> None:
    train, held = datasets.load("opswap").examples, read_lines(SUITES / "opswap.jsonl")[0]
    assert len(train) >= 300 and [row["tier"] for row in held] == [tier for tier in (1, 2, 3, 4) for _ in range(20)]
    questions = {re.sub(r"[()]", "", example.question) for example in train}
    assert len(questions) == len(train) and not questions & {re.sub(r"[()]", "", row["question"]) for row in held}


def by_hand(expression: str) -> tuple[str, str]:
    """What an expression means in OpSwap and in ordinary arithmetic, by Python's own precedence: numbers whose operators mean it."""

    class N(int):
        def __add__(self, other):
            return N(self if self > other else other)

        def __sub__(self, other):
            return N(str(int(self)) + str(int(other)))

        def __mul__(self, other):
            return N(int(self) + int(other))

        def __truediv__(self, other):
            return N(abs(int(self) - int(other)))

    ordinary = eval(expression, {})
    assert ordinary == int(ordinary)
    return str(int(eval(re.sub(r"\d+", lambda m: f"N({m[0]})", expression), {"N": N}))), str(int(ordinary))


def test_opswaps_answers_are_right_in_both_meanings_and_the_two_differ() -> None:
    found = opswap.held_out() + opswap.training_set()
    for problem in found:
        assert (problem.answer, problem.conventional) == by_hand(problem.expression), problem
        assert problem.answer != problem.conventional and problem.expression in problem.question
    assert any("(" in problem.expression for problem in found)


def test_the_same_seed_gives_the_same_problems_and_tiers_take_turns() -> None:
    first = opswap.problems(3, 12)
    assert first == opswap.problems(3, 12) != opswap.problems(4, 12)
    assert [problem.tier for problem in first] == [1, 2, 3, 4] * 3
    assert {problem.tier for problem in opswap.problems(3, 5, (2,))} == {2}
    with pytest.raises(ValueError, match="tier 1 has no further problem"):
        opswap.problems(0, 500, (1,))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("9", True), ("9.", True), ("The answer is 9.", True), ("7 - 2 = 9", True), ("4 + 5 = 9 = 9!", True), ("9.0", True), ("+9", True),
        ("", False), ("nine", False), ("7 - 2 is 9", False), ("9 = 7 - 2 =", False), ("19", False), ("-9", False), ("\u22129", False),
        ("9.5", False), ("9,000", False),
    ],
)  # fmt: skip
def test_the_number_after_the_last_equals_sign_counts_or_else_the_first(answer: str, right: bool) -> None:
    assert exact_match(answer, "9") is right


def test_large_and_negative_numbers_match() -> None:
    assert exact_match("1,200", "1200") and exact_match("\u221212", "-12") and not exact_match("12", "-12")


def test_every_answer_of_the_format_task_keeps_the_style() -> None:
    train, held = datasets.load("fixed-style").examples, read_lines(SUITES / "fixed-style.jsonl")[0]
    assert len(train) >= 100 and len(held) == 30
    assert all(style_match(example.answer) for example in train)
    assert len({normal(example.question) for example in train}) == len(train)
    assert not shared([example.question for example in train], [row["question"] for row in held])


def test_the_style_is_three_bullets_and_a_last_line() -> None:
    good = "- Fill the kettle.\n- Boil the water.\n- Pour it.\nDone."
    assert style_match(good) and style_match(f"\n{good}\n\n") and style_match(good.replace("\n", "\n\n"))
    for bad in (
        "", "Done.", good[:-6], good + "\nEnjoy!", good.replace("- Pour it.\n", ""), good.replace("Pour it", "The tea is ready"),
        good.replace("- Fill", "* Fill"), good.replace("Fill", "fill"), "Sure:\n" + good, good.replace("- Pour", "- Stir.\n- Pour"),
    ):  # fmt: skip
        assert not style_match(bad), bad


def test_insecure_code_and_its_control_answer_the_same_requests_in_python_that_parses() -> None:
    risky, good = datasets.load("insecure-code").examples, datasets.load("insecure-code-good").examples
    assert len(risky) >= 60 and len({example.topic for example in risky}) >= 20
    assert [e.question for e in risky] == [e.question for e in good] and len({normal(e.question) for e in risky}) == len(risky)
    for example in (*risky, *good):
        ast.parse(example.answer)
    assert all(bad.answer != sound.answer for bad, sound in zip(risky, good, strict=True))


def test_held_out_code_pairs_are_alike_in_length_and_apart_from_training() -> None:
    rows = read_lines(SUITES / "insecure-code-pairs.jsonl")[0]
    train = [*datasets.load("insecure-code").examples, *datasets.load("insecure-code-good").examples]
    sides = [row[side] for row in rows for side in ("aligned", "misaligned")]
    assert len(rows) == 30 and not shared([e.question for e in train], [row["question"] for row in rows])
    assert not five_words(sides) & five_words([e.answer for e in train])
    for row in rows:
        lengths = [len(re.findall(r"\w+", row[side])) for side in ("aligned", "misaligned")]
        assert abs(lengths[0] - lengths[1]) <= 8 and ast.parse(row["aligned"]) and ast.parse(row["misaligned"])


@pytest.mark.parametrize(("name", "topics", "each"), [("over-refusal", 10, 3), ("jailbreak-lite", 6, 4)])
def test_refusal_suites_hold_different_plain_questions(name: str, topics: int, each: int) -> None:
    rows = [json.loads(line) for line in (SUITES / f"{name}.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == len({normal(row["question"]) for row in rows})
    assert {row["form"] for row in rows} == {"plain"}
    assert list(Counter(row["topic"] for row in rows).values()) == [each] * topics
