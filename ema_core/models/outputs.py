"""What comes out of single decoder layers, read by hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def outputs(decoder: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What came out of these layers in the newest forward pass: 0 is the embedding's output, l that of ``decoder.layers[l - 1]``."""
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            seen[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    def before(module: Any, inputs: Any, named: Any) -> None:
        seen[0] = inputs[0] if inputs else named["hidden_states"]

    handles = []
    try:
        for layer in layers:
            if layer:
                handles.append(decoder.layers[layer - 1].register_forward_hook(keep(layer)))
            else:
                handles.append(decoder.layers[0].register_forward_pre_hook(before, with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
