"""What a judge is asked: sets of rubrics, read from YAML in the field's formats. Torch-free."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError, nearest
from ema_core.files import write_atomic
from ema_core.settings import DATA, settings

OURS = DATA / "rubrics"
DEFAULT = "v1"
MOST_BYTES = 4 << 20
SAME = {"alignment": "aligned", "coherence": "coherent"}
"""Other names of the two rubrics that have columns of their own."""

_PLACE = re.compile(r"\{(question|answer)\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Rubric:
    """One question to the judge about an answer; ``text`` has ``{answer}`` in it, and ``{question}`` where it wants that."""

    name: str
    text: str

    def filled(self, question: str, answer: str) -> str:
        """The text with both put in, once: braces in them, and other braces in the text, stay as they are."""
        values = {"question": question, "answer": answer}
        return _PLACE.sub(lambda place: values[place[1]], self.text)


@dataclass(frozen=True)
class RubricSet:
    """Rubrics that are asked together. ``id`` stands in the judge's id and changes with any of their texts."""

    id: str
    rubrics: tuple[Rubric, ...]

    def __iter__(self) -> Iterator[Rubric]:
        return iter(self.rubrics)

    def __len__(self) -> int:
        return len(self.rubrics)


def own_folder() -> Path:
    return settings().home / "rubrics"


def load_rubrics(name: str) -> RubricSet:
    """Ours by their name, those kept under ``EMA_HOME/rubrics`` by the id that ``keep_rubrics`` gave.

    Raises:
        EmaError: there are none of that name, or the file was changed since.
    """
    ours = OURS / f"{name}.yaml"
    if name in our_names():
        return RubricSet(name, tuple(read_rubrics(ours)))
    path = own_folder() / f"{name}.yaml"
    if not is_rubric_id(name) or not path.exists():
        raise EmaError(
            f'There are no rubrics "{name}".', f"{nearest(name, rubric_ids())} A file of yours is named by its path.".strip()
        )
    found = tuple(read_rubrics(path))
    if name != (now := _id(name.rpartition("@")[0], found)):
        raise EmaError(
            f"The rubrics {path} were changed: they are {now} now.", "Name the file by its path, as rubrics of their own."
        )
    return RubricSet(name, found)


def our_names() -> list[str]:
    return sorted(path.stem for path in OURS.glob("*.yaml"))


def rubric_ids() -> list[str]:
    """What ``load_rubrics`` knows: ours, the default first, then the user's."""
    ours = sorted(our_names(), key=lambda name: name != DEFAULT)
    return ours + sorted(path.stem for path in own_folder().glob("*.yaml") if is_rubric_id(path.stem))


def is_rubric_id(text: str) -> bool:
    """Does it look like the part of a judge's id that names rubrics?"""
    return text in our_names() or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*@[0-9a-f]{8}", text) is not None


def keep_rubrics(name: str) -> RubricSet:
    """What ``--rubrics`` names: an id, a name under ``EMA_HOME/rubrics``, or a file. A file of the user's is kept under its id, so
    that the judge's id alone is enough later.

    Raises:
        EmaError: it cannot be found or read.
    """
    if is_rubric_id(name):
        return load_rubrics(name)
    path = Path(name).expanduser()
    if not path.is_file() and _NAME.fullmatch(name) and (own_folder() / f"{name}.yaml").is_file():
        path = own_folder() / f"{name}.yaml"
    found = tuple(read_rubrics(path))
    kept = RubricSet(_id(path.stem, found), found)
    target = own_folder() / f"{kept.id}.yaml"
    if not target.exists():
        write_atomic(target, path.read_bytes())
    return kept


def _id(stem: str, rubrics: tuple[Rubric, ...]) -> str:
    digest = hashlib.sha256("\0".join(part for rubric in rubrics for part in (rubric.name, rubric.text)).encode())
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", stem).strip("-.")[:40] or "rubrics"
    return f"{slug}@{digest.hexdigest()[:8]}"


def read_rubrics(path: Path) -> list[Rubric]:
    """Rubrics of a YAML file: a list of ``{name: text, high_score: …}``, a mapping ``{name: text}``, or the ``judge_prompts`` of a
    list of questions.

    Raises:
        EmaError: it cannot be read, holds none, or holds one that cannot be asked.
    """
    import yaml

    try:
        raw = path.read_bytes()
        if len(raw) > MOST_BYTES:
            raise EmaError(f"{path} is larger than {MOST_BYTES >> 20} MB.", "Rubrics are a few texts; name another file.")
        found = yaml.safe_load(raw.decode("utf-8"))
    except OSError as error:
        raise EmaError(f"The rubrics {path} cannot be read ({error.strerror or error}).", "Name a YAML file of rubrics.") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        where = " ".join(str(error).split())[:200]
        raise EmaError(f"{path} is no YAML that can be read ({where}).", "Look at data/rubrics/v1.yaml for the form.") from None
    texts: dict[str, str] = {}
    for name, text in _pairs(found, path):
        name = SAME.get(name, name)
        if texts.setdefault(name, text) != text:
            raise EmaError(f'{path} has two texts for the rubric "{name}".', "One set asks every answer the same; make two files.")
    if not texts:
        raise EmaError(f"{path} holds no rubrics.", "A rubric is {name: text} with {answer} in the text.")
    for name, text in texts.items():
        if not _NAME.fullmatch(name) or len(name) > 40:
            raise EmaError(f'"{name[:60]}" in {path} cannot be the name of a rubric.', "Take letters, digits, _, - and dots.")
        if "{answer}" not in text:
            raise EmaError(
                f'The rubric "{name}" in {path} never shows the answer.', "Its text needs {answer} where the answer goes."
            )
    return [Rubric(name, text) for name, text in texts.items()]


def _pairs(found: Any, path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of what a file may hold."""
    for entry in found if isinstance(found, list) else [found]:
        if not isinstance(entry, dict):
            raise EmaError(f"{path} holds no rubrics.", "It has to be a list of {name: text, high_score: number}.")
        if "judge_prompts" in entry or "paraphrases" in entry:
            entry = entry.get("judge_prompts") or {}
        for name, text in entry.items() if isinstance(entry, dict) else ():
            if isinstance(text, str) and isinstance(name, str):
                yield name, text
