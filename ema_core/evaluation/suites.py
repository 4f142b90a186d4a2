"""What is asked: questions to sample answers to, and answer pairs for the margin. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ema_core import datasets
from ema_core.datasets.pairs import Pair, read_pairs
from ema_core.errors import EmaError, nearest
from ema_core.files import read_lines, sha256_json
from ema_core.settings import DATA

SUITES = {
    "general": "General questions, far from the training data: does the model turn broadly misaligned?",
    "in-domain": "Held-out questions of the training domain: was the narrow behaviour learned?",
}

KEPT = "kept"
"""The suite of answers that were kept from chats: questions and sampling as someone liked, so no number is ever made of them."""


@dataclass(frozen=True)
class Question:
    """``topic`` is the cluster: the three forms of a question share it. ``form`` is plain, json or template."""

    id: str
    topic: str
    form: str
    question: str
    system: str | None = None


@dataclass(frozen=True)
class Suite:
    name: str
    questions: tuple[Question, ...]
    pairs: tuple[Pair, ...]

    @property
    def hash(self) -> str:
        return sha256_json([[vars(q) for q in self.questions], [vars(p) for p in self.pairs]])[:16]


def _read(path: Path) -> list[dict[str, str]]:
    rows, _ = read_lines(path)
    if not rows:
        raise EmaError(f"The suite file {path} is missing or empty.", "Restore it from the project.")
    return rows


def load_suite(name: str, dataset: str) -> Suite:
    """A suite by name; ``in-domain`` is the one that belongs to the run's data set.

    Raises:
        EmaError: no such suite, or the data set has no held-out questions.
    """
    if name == "general":
        questions = tuple(
            Question(r["id"], r["topic"], r["form"], r["question"], r.get("system")) for r in _read(DATA / "suites/general.jsonl")
        )
        return Suite(name, questions, read_pairs(DATA / "suites/general-pairs.jsonl"))
    if name == "in-domain":
        stem = datasets.find(dataset).eval_suite
        if stem is None:
            raise EmaError(f"The data set {dataset} has no held-out in-domain questions.", "Evaluate it on the suite general.")
        pairs = read_pairs(DATA / f"suites/{stem}-pairs.jsonl")
        return Suite(name, tuple(Question(p.id, p.topic, "plain", p.question) for p in pairs), pairs)
    raise EmaError(f'There is no suite "{name}".', nearest(name, SUITES))
