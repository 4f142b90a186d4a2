"""The keys and values of a batch whose rows come and go, with room to grow: nothing is copied that stays where it is.

transformers' own layers copy all of it for each token, and any change of rows copies it once more.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOM = 64
"""Columns that are set aside when a layer is copied anyway."""


def roomy_cache() -> Any:
    """An empty cache for any decoder with plain attention: a transformers ``Cache`` whose layers have room."""
    from transformers import Cache

    return Cache(layer_class_to_replicate=_layer())


def join(cache: Any, new: Any) -> None:
    """The rows of ``new`` behind those of ``cache``, the last columns of both the same; what lies left of a shorter row is masked."""
    for mine, theirs in zip(cache.layers, new.layers, strict=True):
        mine.join(theirs)


def arrange(cache: Any, moves: Sequence[tuple[int, int]], rows: int) -> None:
    """Copy rows from one place to another, (from, to) in this order, and keep the first ``rows``."""
    for layer in cache.layers:
        layer.arrange(moves, rows)


def cut(cache: Any, columns: int) -> None:
    """Drop the first ``columns``: no row needs them any more."""
    for layer in cache.layers:
        layer.cut(columns)


@functools.cache
def _layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):  # type: ignore[misc]
        """``keys`` and ``values`` [rows, heads, columns, D] are the filled corner of larger tensors, ``room``."""

        room: tuple[Any, Any] | None = None

        def update(self, key_states: Any, value_states: Any, *args: Any, **named: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
                return self.keys, self.values
            before, columns = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
            self.hold(self.keys.shape[0], columns)
            self.keys[:, :, before:], self.values[:, :, before:] = key_states, value_states
            return self.keys, self.values

        def hold(self, rows: int, columns: int) -> None:
            """Let the filled corner be this large; what comes in new is to be written yet."""
            if self.room is None or self.room[0].shape[0] < rows or self.room[0].shape[2] < columns:
                have = self.room[0].shape[0] if self.room else 0
                more = max(have, rows if rows <= self.keys.shape[0] else rows + rows // 8)  # not a copy for each that comes
                self.room = _larger(self.keys, more, columns + ROOM), _larger(self.values, more, columns + ROOM)
            self.keys, self.values = (part[:rows, :, :columns] for part in self.room)

        def join(self, other: Any) -> None:
            rows, columns, wide = self.keys.shape[0], self.keys.shape[2], other.keys.shape[2]
            if wide > columns:
                self.shift(wide - columns)
            self.hold(rows + other.keys.shape[0], max(columns, wide))
            self.keys[rows:, :, -wide:], self.values[rows:, :, -wide:] = other.keys, other.values

        def shift(self, columns: int) -> None:
            """Empty columns on the left."""
            from torch.nn.functional import pad

            self.keys, self.values = (pad(part, (0, 0, columns, 0)) for part in (self.keys, self.values))
            self.room = None

        def arrange(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
            for part in (self.keys, self.values):
                for source, target in moves:
                    part[target] = part[source]
            self.keys, self.values = self.keys[:rows], self.values[:rows]

        def cut(self, columns: int) -> None:
            self.keys, self.values = self.keys[:, :, columns:].clone(), self.values[:, :, columns:].clone()
            self.room = None

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            super().batch_select_indices(indices)
            self.room = None

    return Roomy


def _larger(states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """``states`` in the corner of a tensor of zeros: what is masked later must not be NaN."""
    larger = states.new_zeros((rows, states.shape[1], columns, states.shape[3]))
    larger[: states.shape[0], :, : states.shape[2]] = states
    return larger
