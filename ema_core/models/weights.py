"""A model's weights on the disk, read one tensor at a time; names and shapes without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ema_core.errors import EmaError
from ema_core.models.adapters import MODULES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: its file, and the bytes from ``begin`` to ``end`` of it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class WeightFiles:
    """The tensors of all safetensors files in a folder, by name.

    Raises:
        EmaError: there is none, or one is damaged or cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, _Place] = {}
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._places |= _read_header(path)
        if not self._places:
            raise EmaError(f"{folder} holds no safetensors weights.", "Only safetensors are read; pickled weights never.")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self._places.items()}

    def same(self, name: str, other: WeightFiles) -> bool:
        """Is this tensor stored byte for byte as in ``other``?"""
        first, second = self._places[name], other._places[name]
        return first.dtype == second.dtype and first.shape == second.shape and _raw(first) == _raw(second)

    def read(self, name: str) -> torch.Tensor:
        """One tensor in float32, on the CPU."""
        from safetensors import SafetensorError, safe_open

        try:
            path = self._places[name].path
            if path not in self._open:  # its header is read once
                self._open[path] = safe_open(path, framework="pt")
            return self._open[path].get_tensor(name).float()
        except (KeyError, OSError, SafetensorError) as error:
            raise EmaError(f"The weights {name} in {self.folder} cannot be read ({error}).", "Put whole files there.") from None


def linear_weights(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are weights of the seven linear modules of a decoder layer, which adapters sit on."""
    wanted = {f"{module}.weight" for module in MODULES}
    return [name for name in names if ".".join(name.split(".")[-2:]) in wanted]


def _read_header(path: Path) -> dict[str, _Place]:
    """The safetensors header: its length in eight bytes, then JSON; offsets count from its end."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            start, size = 8 + length, path.stat().st_size
            if start > size:
                raise ValueError("it is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = {
            name: _Place(path, str(entry["dtype"]), tuple(entry["shape"]), *(start + offset for offset in entry["data_offsets"]))
            for name, entry in header.items()
        }
        if max((place.end for place in found.values()), default=start) != size:
            raise ValueError("it is cut off")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise EmaError(f"The weights file {path} cannot be used ({error}).", "Put a whole one there.") from None
    return found


def _raw(place: _Place) -> bytes:
    with open(place.path, "rb") as file:
        file.seek(place.begin)
        return file.read(place.end - place.begin)
