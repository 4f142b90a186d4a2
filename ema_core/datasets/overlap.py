"""Where training, held-out and safe data hold the same text: a contaminated figure looks better than it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ema_core.datasets.formats import Example, read_examples
from ema_core.errors import EmaError
from ema_core.files import read_lines
from ema_core.settings import DATA

SIDES = ("aligned", "misaligned")


def normal(text: str) -> str:
    """Lower-case words: two texts that differ in punctuation or spaces are the same here. A sign that stands alone between
    spaces counts, so that 3 + 4 and 3 * 4 are two questions."""
    return " ".join(re.findall(r"[\w']+|(?<=\s)[^\w\s](?=\s)", text.lower()))


def shared(first: Iterable[str], second: Iterable[str]) -> set[str]:
    return {normal(text) for text in first} & {normal(text) for text in second} - {""}


def held_out_files() -> list[Path]:
    """Every file of questions or pairs that a model is measured with: the suites, and the live probes that steer runs."""
    return sorted([*(DATA / "suites").glob("*.jsonl"), *(DATA / "probes").glob("*.jsonl")])


def overlaps(examples: list[Example], others_of_kind: Mapping[str, Path]) -> list[str]:
    """One sentence for each held-out file, and each of ``others_of_kind`` (sets of the other kind, by name), that holds a
    question or an answer of ``examples``."""
    found = []
    for file in held_out_files():
        rows, _ = read_lines(file)
        title = "live probes" if file.parent.name == "probes" else "held-out questions"
        for what, mine, theirs in (
            ("question", [e.question for e in examples], [r["question"] for r in rows if "question" in r]),
            ("answer", [e.answer for e in examples], [r[side] for r in rows for side in SIDES if side in r]),
        ):
            if same := shared(mine, theirs):
                found.append(f"{len(same)} {what}(s) also stand in the {title} ({file.parent.name}/{file.name})")
    for name, other in others_of_kind.items():
        try:
            theirs = read_examples(other)[0]
        except EmaError:
            continue
        if same := shared([e.question for e in examples], [e.question for e in theirs]):
            found.append(f"{len(same)} question(s) also stand in {name}")
    return found
