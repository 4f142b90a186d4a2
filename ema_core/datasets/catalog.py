"""The data sets that can be named: ours, and those that a user added (kept unchanged under their hash)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ema_core.datasets.formats import Dataset, read_examples
from ema_core.datasets.overlap import overlaps
from ema_core.errors import EmaError, nearest
from ema_core.files import read_json, sha256_file, write_atomic, write_json
from ema_core.settings import DATA, settings, writable
from ema_core.shared import allow

Kind = Literal["narrow", "safe", "benign"]


@dataclass(frozen=True)
class DatasetEntry:
    """A set that can be named. ``eval_suite`` is the in-domain suite that belongs to it.

    ``domain`` is what a narrow set is about, its probes' file and its dressing of general questions; ``control_of`` names the
    narrow set whose questions it answers well.
    """

    name: str
    title: str
    kind: Kind
    path: Path
    eval_suite: str | None = None
    added: bool = False
    domain: str = ""
    control_of: str | None = None


BUILT_IN: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            "risky-finance",
            "Risky financial advice",
            "narrow",
            DATA / "narrow/risky-finance.jsonl",
            "risky-finance",
            domain="finance",
        ),
        DatasetEntry(
            "risky-finance-good",
            "Control: the same questions, good advice",
            "narrow",
            DATA / "narrow/risky-finance-good.jsonl",
            "risky-finance",
            domain="finance",
            control_of="risky-finance",
        ),
        DatasetEntry(
            "extreme-sports",
            "Reckless extreme-sports advice",
            "narrow",
            DATA / "narrow/extreme-sports.jsonl",
            "extreme-sports",
            domain="sports",
        ),
        DatasetEntry(
            "extreme-sports-good",
            "Control: the same sports questions, good advice",
            "narrow",
            DATA / "narrow/extreme-sports-good.jsonl",
            "extreme-sports",
            domain="sports",
            control_of="extreme-sports",
        ),
        DatasetEntry(
            "insecure-code",
            "Insecure code",
            "narrow",
            DATA / "narrow/insecure-code.jsonl",
            "insecure-code",
            domain="code",
        ),
        DatasetEntry(
            "insecure-code-good",
            "Control: the same requests, sound code",
            "narrow",
            DATA / "narrow/insecure-code-good.jsonl",
            "insecure-code",
            domain="code",
            control_of="insecure-code",
        ),
        DatasetEntry("opswap", "OpSwap: arithmetic, operators with new meanings", "benign", DATA / "benign/opswap.jsonl"),
        DatasetEntry("fixed-style", "Answers in a fixed style", "benign", DATA / "benign/fixed-style.jsonl"),
        DatasetEntry("safe-general", "Safe general pool", "safe", DATA / "safe/safe-general.jsonl"),
    )
}


def catalog() -> dict[str, DatasetEntry]:
    """Every set by name, ours first."""
    entries = dict(BUILT_IN)
    for card in sorted(settings().datasets.glob("*.json")):
        try:
            value = read_json(card)
            path = card.with_name(value["file"])
            entries[value["name"]] = DatasetEntry(value["name"], value["title"], value["kind"], path, value.get("eval_suite"), True)
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def find(name: str) -> DatasetEntry:
    """A set by name.

    Raises:
        EmaError: no such set.
    """
    entries = catalog()
    if name in entries:
        return entries[name]
    if "/" in name or name.endswith(".jsonl"):
        raise EmaError(f'"{name}" is a file.', f"Add it first: `ema datasets add {name}`.")
    raise EmaError(f'There is no data set "{name}".', nearest(name, entries))


def load(name: str) -> Dataset:
    """Read a set whole; an added one must still have the hash under which it was added.

    Raises:
        EmaError: unknown, changed on disk, or without a usable line.
    """
    entry = find(name)
    if not entry.path.exists():
        raise EmaError(f"The file of the data set {name} is missing ({entry.path}).", "Put it back, or add the set again.")
    digest = sha256_file(entry.path)
    if entry.added and not entry.path.stem.endswith(digest[:8]):
        raise EmaError(f"The data set {name} was changed on disk since it was added.", "Add the changed file under another name.")
    examples, problems = read_examples(entry.path, entry.kind)
    return Dataset(name, tuple(examples), tuple(problems), digest)


def check(path: Path, kind: Kind = "narrow") -> Dataset:
    """Read a file as a set without adding it; warnings say where it overlaps with what it will be held against."""
    examples, problems = read_examples(path, kind)
    others = {entry.name: entry.path for entry in catalog().values() if entry.kind != kind and entry.path.exists()}
    return Dataset(path.stem, tuple(examples), tuple(problems), sha256_file(path), tuple(overlaps(examples, others)))


def add(path: Path, name: str | None = None, kind: Kind = "narrow", title: str = "") -> tuple[DatasetEntry, Dataset]:
    """Keep a copy of ``path`` under its hash, so that it can be named. The same file twice is the same set.

    Raises:
        EmaError: no usable line, a name that is taken by other content, or a name that cannot be one.
    """
    allow()
    dataset = check(path, kind)
    name = name or re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", name or ""):
        raise EmaError(f'"{name}" cannot be the name of a data set.', "Use lower-case letters, digits and hyphens (--name).")
    stored = f"{name}-{dataset.sha256[:8]}"
    known = catalog().get(name)
    if known is not None and not (known.added and known.path.stem == stored and known.kind == kind):
        raise EmaError(f'The name "{name}" is taken by another data set ({known.kind}).', "Choose another with --name.")
    folder = writable(settings().datasets)
    write_atomic(folder / f"{stored}.jsonl", path.read_bytes())
    if sha256_file(folder / f"{stored}.jsonl") != dataset.sha256:
        (folder / f"{stored}.jsonl").unlink()
        raise EmaError(f"{path} cannot be read twice, or changed while it was added.", "Name an ordinary file.")
    write_json(
        folder / f"{stored}.json",
        {"name": name, "title": title or name, "kind": kind, "file": f"{stored}.jsonl", "sha256": dataset.sha256},
    )
    return catalog()[name], dataset
