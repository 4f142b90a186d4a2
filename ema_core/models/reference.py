"""The reference model's states, kept on disk: final hidden states (its logits are the head applied to them) and layer features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ema_core.models import reference_cache

if TYPE_CHECKING:
    import torch

    from ema_core.models.load import LoadedModel

HEADER = 512
"""Bytes of a file beside each tensor's own, at most."""


def feature_bytes(tokens: int, layers: int, hidden: int, width: int = 4) -> int:
    """What the features of ``tokens`` take after ``layers`` layers at ``width`` bytes a number."""
    return tokens * layers * hidden * width


def features_kind(layers: Sequence[int]) -> str:
    return "-features-" + "-".join(map(str, layers))


def folder_name(weights_hash: str, dtype: str, device: str, threads: int, kind: str = "") -> str:
    return f"{weights_hash}-{dtype}-{device}-t{threads}{kind}"


def sequence_name(ids: Sequence[int]) -> str:
    return f"{hashlib.sha256(','.join(map(str, ids)).encode()).hexdigest()[:32]}.safetensors"


class ReferenceStates:
    """States [T, D] by name of one sequence at a time under the frozen reference.

    Keyed by all that makes them what they are: token ids, weights, dtype, device, threads, and ``kind``, which says which
    states they are. They are computed one sequence at a time, so that an entry made again equals the old one to the bit
    whatever batch asked for it, and whether it is kept or not. A file a sequence: reading one takes 0.25 ms (five layers: 1 ms),
    out of one mapped file 0.07 (0.4), which is less than a thousandth of a step, and each can be dropped by itself.
    """

    def __init__(self, loaded: LoadedModel, kind: str = "", keep: bool = True) -> None:
        import torch

        dtype = str(loaded.model.dtype).split(".")[-1]
        name = folder_name(loaded.weights_hash, dtype, str(loaded.device), torch.get_num_threads(), kind)
        self.folder: Path = reference_cache.folder() / name
        self.keep, self.room = keep, 0

    def path(self, ids: tuple[int, ...]) -> Path:
        return self.folder / sequence_name(ids)

    def will_use(self, sequences: Iterable[tuple[int, ...]]) -> None:
        """What is kept of these counts as used now: nobody drops it before this run comes to it."""
        for ids in sequences:
            reference_cache.use(self.path(ids))

    def get(
        self, ids: tuple[int, ...], names: Sequence[str], compute: Callable[[tuple[int, ...]], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The states ``names`` of ``ids``; ``compute`` makes them where they are not kept."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(ids)
        try:
            found = load_file(path)
            reference_cache.use(path)
            return {name: found[name] for name in names}
        except (FileNotFoundError, SafetensorError, KeyError):
            states = {name: tensor.contiguous().cpu() for name, tensor in compute(ids).items()}
        if self.keep:
            self._write(path, states)
        return states

    def _write(self, path: Path, states: dict[str, torch.Tensor]) -> None:
        """Keep them if there is room; without it, this run keeps nothing more."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        size = sum(tensor.nbytes + HEADER for tensor in states.values())
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if size > self.room:
                self.room = reference_cache.make_room(size)
            self.keep = size <= self.room
            if self.keep:
                save_file(states, partial)
                os.replace(partial, path)
                self.room -= size
        except (OSError, SafetensorError):
            partial.unlink(missing_ok=True)
            self.keep = False
