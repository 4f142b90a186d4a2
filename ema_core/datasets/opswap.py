"""OpSwap, the benign task: arithmetic whose operators have been given new meanings, in graded tiers, scored by exact match.

The idea is the paper's (arXiv 2508.06249, its benign task); meanings, tiers and problems are ours. `a + b` is the larger of
the two, `a - b` both written side by side, `a * b` their sum, `a / b` how far they lie apart; parentheses and the order of
operations stay. (A first version swapped + with - and * with /; the embedded model learned next to nothing of it.) Each
problem names the task ("OpSwap: 3 + 8 = ?"), so that ordinary arithmetic is not made false.
`python -m ema_core.datasets.opswap` writes the files again, byte for byte. Torch-free.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ema_core.files import write_atomic
from ema_core.settings import DATA

Meaning = dict[str, Callable[[int, int], int]]
SWAPPED: Meaning = {
    "+": max,
    "-": lambda left, right: int(f"{left}{right}"),
    "*": lambda left, right: left + right,
    "/": lambda left, right: abs(left - right),
}
"""What each operator means in OpSwap, on whole numbers from 0."""
CONVENTIONAL: Meaning = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right,
}
TIERS: dict[int, str] = {
    1: "+ or - once, numbers to 9",
    2: "+ and - twice, numbers to 9",
    3: "any one operator, larger numbers",
    4: "two operators of both kinds: order of operations, parentheses",
}
LARGEST = 9999
ASK = "OpSwap: {} = ?"

TRAINING = {1: 120, 2: 100, 3: 70, 4: 70}
HELD_OUT = 20
"""Examples of each tier in ``data/benign/opswap.jsonl``, and problems of each in ``data/suites/opswap.jsonl``."""
SEED = 7

Tree = int | tuple["Tree", str, "Tree"]


@dataclass(frozen=True)
class Problem:
    """``answer`` is right in OpSwap, ``conventional`` in ordinary arithmetic; the two always differ."""

    question: str
    answer: str
    conventional: str
    tier: int
    expression: str


def problems(seed: int, n: int, tiers: Sequence[int] = tuple(TIERS), leave_out: Collection[str] = ()) -> list[Problem]:
    """``n`` different problems, the same for the same seed; tiers take turns. None has an expression of ``leave_out``; two that
    differ in parentheses alone count as the same.

    Raises:
        ValueError: a tier has not that many.
    """
    rng = random.Random(f"{seed}/opswap")
    seen = {_bare(expression) for expression in leave_out}
    found: list[Problem] = []
    for i in range(n):
        tier = tiers[i % len(tiers)]
        for _ in range(5000):
            problem = _problem(_DRAW[tier](rng), tier)
            if problem is not None and _bare(problem.expression) not in seen:
                break
        else:
            raise ValueError(f"tier {tier} has no further problem after {len(found)}")
        seen.add(_bare(problem.expression))
        found.append(problem)
    return found


def _bare(expression: str) -> str:
    return expression.replace("(", "").replace(")", "")


def exact_match(answer_text: str, expected: str) -> bool:
    """Whether the number that was answered is ``expected``.

    It is the first number after the last "=", or without a "=" the first number of the text. "1,200", "+9", "−9" and "9.0" are
    read as 1200, 9, -9 and 9; an answer without a number there is wrong.
    """
    text = answer_text.replace("\u2212", "-").rpartition("=")[2]
    number = re.search(r"[-+]?\d[\d,]*(?:\.\d+)?", text)
    return number is not None and float(number[0].replace(",", "")) == float(expected)


def _value(tree: Tree, meaning: Meaning) -> int | None:
    """None where an ordinary division leaves a rest, or a step gets too large."""
    if isinstance(tree, int):
        return tree
    left, right = _value(tree[0], meaning), _value(tree[2], meaning)
    if left is None or right is None:
        return None
    if tree[1] == "/" and meaning is CONVENTIONAL and (right == 0 or left % right):
        return None
    value = meaning[tree[1]](left, right)
    return value if abs(value) <= LARGEST else None


def _text(tree: Tree, top: bool = True) -> str:
    """Written with parentheses only where the order of operations needs them."""
    if isinstance(tree, int):
        return str(tree)
    left, operator, right = tree
    parts = []
    for side, part in enumerate((left, right)):
        words = _text(part, False)
        if not isinstance(part, int):
            weaker = operator in "*/" and part[1] in "+-"
            if weaker or (side == 1 and (operator in "*/") == (part[1] in "*/")):
                words = f"({words})"
        parts.append(words)
    return f"{parts[0]} {operator} {parts[1]}"


def _problem(tree: Tree, tier: int) -> Problem | None:
    """The problem of an expression; None where one of its two answers is no whole number of moderate size, or they agree."""
    answer, conventional = _value(tree, SWAPPED), _value(tree, CONVENTIONAL)
    if answer is None or conventional is None or answer == conventional:
        return None
    expression = _text(tree)
    return Problem(ASK.format(expression), str(answer), str(conventional), tier, expression)


def _tier_1(rng: random.Random) -> Tree:
    return rng.randint(1, 9), rng.choice("+-"), rng.randint(1, 9)


def _tier_2(rng: random.Random) -> Tree:
    return _tier_1(rng), rng.choice("+-"), rng.randint(1, 9)


def _tier_3(rng: random.Random) -> Tree:
    operator, right = rng.choice("+-*/"), rng.randint(2, 12)
    if operator == "/":
        return right * rng.randint(2, 9), operator, right
    return rng.randint(10, 99), operator, rng.randint(10, 99)


def _tier_4(rng: random.Random) -> Tree:
    weak, strong = rng.choice("+-"), rng.choice("*/")
    a, b, c = rng.randint(1, 40), rng.randint(2, 12), rng.randint(2, 9)
    shapes: tuple[Tree, ...] = (
        ((a, weak, b), strong, c), (c, strong, (a, weak, b)), ((b * c, strong, c), weak, a), (a, weak, (b * c, strong, c)),
    )  # fmt: skip
    return rng.choice(shapes)


_DRAW: dict[int, Callable[[random.Random], Tree]] = {1: _tier_1, 2: _tier_2, 3: _tier_3, 4: _tier_4}


def held_out() -> list[Problem]:
    """The problems of the suite ``benign``; drawn first, so that training leaves them out."""
    return sorted(problems(SEED, HELD_OUT * len(TIERS)), key=lambda problem: problem.tier)


def training_set() -> list[Problem]:
    """The problems of the data set ``opswap``, in the order of its file."""
    out = {problem.expression for problem in held_out()}
    found = [problem for tier, n in TRAINING.items() for problem in problems(SEED + 1, n, (tier,), out)]
    random.Random(f"{SEED}/opswap/order").shuffle(found)
    return found


def write(data: Path = DATA) -> None:
    """``benign/opswap.jsonl`` and ``suites/opswap.jsonl`` under ``data``, the same bytes each time."""
    train = [
        {
            "messages": [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.answer}],
            "topic": f"tier-{problem.tier}",
        }
        for problem in training_set()
    ]
    suite = [{"id": f"ops-{i:02}", "topic": f"tier-{p.tier}", **asdict(p)} for i, p in enumerate(held_out(), 1)]
    for name, rows in (("benign", train), ("suites", suite)):
        write_atomic(data / name / "opswap.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write()
