"""The reference model's states, kept on disk: final hidden states (its logits are the head applied to them) and layer features."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ema_core.settings import settings

if TYPE_CHECKING:
    import torch

    from ema_core.models.load import LoadedModel

MIN_FREE_BYTES = 2 << 30
"""With less room on the disk nothing more is kept; what is missing is computed anew."""

FEATURES_LIMIT = 4 << 30
"""Bytes of layer features that one run may keep; beyond it they are computed anew in each step (6,000 sequences of 300 tokens
at 135M parameters would take 21 GB)."""


def feature_bytes(tokens: int, layers: int, hidden: int, width: int = 4) -> int:
    """What the features of ``tokens`` take after ``layers`` layers at ``width`` bytes a number."""
    return tokens * layers * hidden * width


def features_fit(size: int) -> bool:
    """Whether a run keeps ``size`` bytes of features."""
    folder = settings().cache
    while not folder.exists():
        folder = folder.parent
    return size <= FEATURES_LIMIT and shutil.disk_usage(folder).free > MIN_FREE_BYTES + size


class ReferenceStates:
    """States [T, D] by name of one sequence at a time under the frozen reference.

    Keyed by all that makes them what they are: token ids, weights, dtype, device, threads, and ``kind``, which says which
    states they are. They are computed one sequence at a time, so that an entry made again equals the old one to the bit
    whatever batch asked for it, and whether it is kept or not.
    """

    def __init__(self, loaded: LoadedModel, kind: str = "", keep: bool = True) -> None:
        import torch

        dtype = str(loaded.model.dtype).split(".")[-1]
        name = f"{loaded.weights_hash}-{dtype}-{loaded.device}-t{torch.get_num_threads()}{kind}"
        self.folder: Path = settings().cache / "reference" / name
        self.keep = keep
        if keep:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.keep = shutil.disk_usage(self.folder).free > MIN_FREE_BYTES

    def get(
        self, ids: tuple[int, ...], names: Sequence[str], compute: Callable[[tuple[int, ...]], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The states ``names`` of ``ids``; ``compute`` makes them where they are not kept."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.safetensors"
        try:
            found = load_file(path)
            return {name: found[name] for name in names}
        except (FileNotFoundError, SafetensorError, KeyError):
            states = {name: tensor.contiguous().cpu() for name, tensor in compute(ids).items()}
        if self.keep:
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                save_file(states, partial)
                os.replace(partial, path)
            except (OSError, SafetensorError):
                partial.unlink(missing_ok=True)
                self.keep = False
        return states
