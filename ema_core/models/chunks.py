"""The head applied to few positions at a time: never two full-vocabulary tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHUNK = 128
"""Positions a head call: 25 MB of float32 logits at a vocabulary of 49,152, about what a processor keeps near (64, 128 and 256 were timed)."""


def mean_in_chunks(
    states: torch.Tensor,
    reference: torch.Tensor,
    head: Callable[[Any], Any],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Mean over positions of ``loss(logits, reference logits)``, as a scalar whose gradient flows into ``states``.

    ``states`` and ``reference`` [n, D]; ``loss`` gives [m] from two [m, V]. The head is frozen, so ``states`` alone get a
    gradient; it is made with the value, chunk by chunk, and only it is kept for the backward pass.
    """
    import torch

    gradient = torch.zeros_like(states)
    total = torch.zeros((), dtype=torch.float64)
    for piece in torch.arange(len(states), device=states.device).split(CHUNK):
        with torch.enable_grad():
            here = states.detach()[piece].requires_grad_()
            with torch.no_grad():
                fixed = head(reference[piece]).float()
            value = loss(head(here).float(), fixed).sum() / max(1, len(states))
            value.backward()
        total += value.detach().double().cpu()
        gradient[piece] = here.grad

    class Known(torch.autograd.Function):
        """A value whose gradient is known already."""

        @staticmethod
        def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
            return total.to(tensor.device, torch.float32)

        @staticmethod
        def backward(context: Any, upstream: torch.Tensor) -> torch.Tensor:
            return (upstream * gradient).to(gradient.dtype)

    result: torch.Tensor = Known.apply(states)
    return result
