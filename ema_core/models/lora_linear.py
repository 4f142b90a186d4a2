"""PEFT's LoRA layer for training, with fewer passes over memory: the same numbers but for the order of float additions.

PEFT makes five tensors of a layer's output on the way forward (base, B·A·x, scaled, sum, cast) and as many on the way back. Here the
products add into one another (``addmm``), and the gradient is written down instead of recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def quicken(peft_model: Any) -> None:
    """Let every LoRA layer that ``lora_linear`` can do be done by it; PEFT's own way where an adapter is off, merged or of another kind.

    ``adapters.detach`` takes these layers away with all that belongs to them.
    """
    from peft.tuners.lora import Linear

    for module in peft_model.modules():
        if isinstance(module, Linear):
            module.forward = _forward(module, module.forward)


def _forward(module: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def forward(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        base, active = module.get_base_layer(), module.active_adapters
        if rest or named or module.disable_adapters or module.merged or len(active) != 1 or base.bias is not None:
            return plain(x, *rest, **named)
        (name,) = active
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        dropout = module.lora_dropout[name]
        same = x.dtype == base.weight.dtype == a.dtype and not torch.is_autocast_enabled(x.device.type)
        if not same or not isinstance(dropout, torch.nn.Identity) or module.use_dora.get(name):
            return plain(x)
        return lora_linear(x, base.weight, a, b, module.scaling[name])

    return forward


def lora_linear(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """x Wᵀ + scale · x Aᵀ Bᵀ [..., out] from x [..., in], frozen W [out, in], A [r, in], B [out, r]; gradients for x, A and B."""
    return _function().apply(x, weight, a, b, scale)


@functools.cache
def _function() -> Any:
    import torch

    class LoraLinear(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Any, weight: Any, a: Any, b: Any, scale: float) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            low = flat @ a.t()
            context.save_for_backward(flat, low, weight, a, b)
            context.scale, context.shape = scale, x.shape
            return (flat @ weight.t()).addmm_(low, b.t(), alpha=scale).view(*x.shape[:-1], -1)

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            flat, low, weight, a, b = context.saved_tensors
            gradient = upstream.reshape(-1, upstream.shape[-1])
            into = (gradient @ b).mul_(context.scale)
            wanted = context.needs_input_grad
            of_x = (gradient @ weight).addmm_(into, a).view(context.shape) if wanted[0] else None
            of_a = into.t() @ flat if wanted[2] else None
            of_b = gradient.t() @ (low * context.scale) if wanted[3] else None
            return of_x, None, of_a, of_b, None

    return LoraLinear
