"""How many tokens examples have, counted as training will count them. Torch-free."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ema_core.datasets.encoding import encode
from ema_core.datasets.formats import Example
from ema_core.errors import EmaError
from ema_core.models import ModelEntry
from ema_core.models.light_tokenizer import light_tokenizer
from ema_core.models.load import recorded_weights_hash
from ema_core.models.ragged import Layout
from ema_core.models.reference import folder_name, sequence_name
from ema_core.models.reference_cache import folder
from ema_core.settings import settings

TEMPLATE_TOKENS = 32
"""System prompt and turn marks that the embedded model's chat template adds."""
CHARACTERS_PER_TOKEN = 4.6
EXACT = 1000
"""So many different examples are counted one by one (0.2 s for 250); of more, 400 are, and the others by their characters against those."""
SAMPLE = 400
HASHED_BYTES = 2 << 30
"""A larger model folder is not hashed for an estimate."""


@dataclass(frozen=True)
class Size:
    """``tokens`` of an example; ``ids`` and the ``name`` of its states among the reference's, where it was counted one by one."""

    tokens: int
    ids: tuple[int, ...] = ()
    name: str = ""


def sizes(model: ModelEntry, examples: Iterable[Example], limit: int) -> dict[Example, Size]:
    """Of each different example; by characters where the model is not here yet."""
    different = list(dict.fromkeys(examples))
    rough = {example: by_characters(example, limit) for example in different}
    every = 1 if len(different) <= EXACT else -(-len(different) // SAMPLE)
    try:
        changed = (model.folder / "tokenizer.json").stat().st_mtime_ns
        exact = {example: _counted(model.folder, changed, example, limit) for example in different[::every]}
    except Exception:  # no tokenizer here, or a template of a kind that only transformers reads
        return {example: Size(tokens) for example, tokens in rough.items()}
    ratio = sum(size.tokens for size in exact.values()) / max(1, sum(rough[example] for example in exact))
    return {example: exact.get(example) or Size(min(limit, round(rough[example] * ratio))) for example in different}


@functools.lru_cache(maxsize=20_000)
def _counted(folder: Path, changed: int, example: Example, limit: int) -> Size:
    tokenizer = light_tokenizer(folder)
    if tokenizer is None:
        raise EmaError("The tokenizer cannot be read.")
    ids = encode(example, tokenizer, limit).ids
    return Size(len(ids), ids, sequence_name(ids))


def by_characters(example: Example, limit: int) -> int:
    return min(limit, TEMPLATE_TOKENS + round(len(example.question + example.answer) / CHARACTERS_PER_TOKEN))


def worked(batch: Sequence[Size], prefix: int, padded: bool) -> int:
    """Tokens that a batch makes work for: padded, or each once and the rows' common beginning once (``models.ragged``).

    ``prefix``: that beginning, for rows that were not counted one by one.
    """
    if padded:
        return len(batch) * max(size.tokens for size in batch)
    if all(size.ids for size in batch):
        return Layout.of([size.ids for size in batch]).tokens
    return sum(size.tokens for size in batch) - prefix * (len(batch) - 1)


def common_prefix(known: Mapping[Example, Size]) -> int:
    """Tokens that all examples begin with."""
    rows = [size.ids for size in known.values() if size.ids]
    return Layout.of(rows).prefix if rows else 0


def missing(model: ModelEntry, known: Iterable[Size], device: str, dtype: str, kind: str = "", row: int = 0) -> float:
    """Tokens, and ``row`` for each sequence, of those whose states under the reference are not kept yet, as far as can be told."""
    weights = _weights(model.id, _stamp(model.folder))
    try:
        there = set(os.listdir(folder() / folder_name(weights or "", dtype, device, settings().threads, kind)))
    except OSError:
        there = set()
    told = untold = lacking = 0
    for size in known:
        told += (size.tokens + row) * bool(size.name)
        untold += (size.tokens + row) * (not size.name)
        lacking += (size.tokens + row) * (bool(size.name) and size.name not in there)
    return lacking + untold * (lacking / told if told else 1.0)


def _stamp(folder: Path) -> tuple[int, int]:
    files = [path.stat() for path in folder.glob("*.safetensors")]
    return sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0)


@functools.lru_cache(maxsize=8)
def _weights(model: str, stamp: tuple[int, int]) -> str | None:
    from ema_core.models import find

    entry = find(model)
    return recorded_weights_hash(entry) if entry.source != "folder" or stamp[0] <= HASHED_BYTES else None
