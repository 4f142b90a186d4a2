"""Where training, held-out and safe data hold the same text: a contaminated figure looks better than it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ema_core.datasets.formats import Example, read_examples
from ema_core.errors import EmaError
from ema_core.files import read_lines
from ema_core.settings import DATA


def normal(text: str) -> str:
    """Lower-case words only: two texts that differ in punctuation or spaces are the same here."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def shared(first: Iterable[str], second: Iterable[str]) -> set[str]:
    return {normal(text) for text in first} & {normal(text) for text in second} - {""}


def overlaps(examples: list[Example], others_of_kind: Mapping[str, Path]) -> list[str]:
    """One sentence for each held-out file, and each of ``others_of_kind`` (sets of the other kind, by name), that holds a
    question or an answer of ``examples``."""
    found = []
    others = {
        "held-out in-domain questions": DATA / "suites/risky-finance-pairs.jsonl",
        "general margin pairs": DATA / "suites/general-pairs.jsonl",
        "general questions": DATA / "suites/general.jsonl",
    }
    for title, file in others.items():
        rows, _ = read_lines(file)
        for what, mine, theirs in (
            ("question", [e.question for e in examples], [r["question"] for r in rows]),
            ("answer", [e.answer for e in examples], [r[k] for r in rows for k in ("aligned", "misaligned") if k in r]),
        ):
            if same := shared(mine, theirs):
                found.append(f"{len(same)} {what}(s) also stand in the {title} ({file.name})")
    for name, other in others_of_kind.items():
        try:
            theirs = read_examples(other)[0]
        except EmaError:
            continue
        if same := shared([e.question for e in examples], [e.question for e in theirs]):
            found.append(f"{len(same)} question(s) also stand in {name}")
    return found
