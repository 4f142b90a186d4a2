"""The reference model's final hidden states, kept on disk. Its logits are the head applied to them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ema_core.settings import settings

if TYPE_CHECKING:
    import torch

MIN_FREE_BYTES = 2 << 30
"""With less room on the disk nothing more is kept; what is missing is computed anew."""


class ReferenceHidden:
    """Final hidden states [T, D] of one sequence at a time under the frozen reference.

    Keyed by all that makes them what they are: token ids, weights, dtype, device, threads. They are computed one sequence
    at a time, so that an entry made again equals the old one to the bit whatever batch asked for it.
    """

    def __init__(self, weights_hash: str, dtype: str, device: str, threads: int) -> None:
        self.folder: Path = settings().cache / "reference" / f"{weights_hash}-{dtype}-{device}-t{threads}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keep = shutil.disk_usage(self.folder).free > MIN_FREE_BYTES

    def get(self, ids: tuple[int, ...], compute: Callable[[tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
        """The states of ``ids``; ``compute`` makes them where they are not kept."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.safetensors"
        try:
            return load_file(path)["hidden"]
        except (FileNotFoundError, SafetensorError, KeyError):
            hidden = compute(ids).contiguous()
        if self.keep:
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                save_file({"hidden": hidden.cpu()}, partial)
                os.replace(partial, path)
            except (OSError, SafetensorError):
                partial.unlink(missing_ok=True)
                self.keep = False
        return hidden
