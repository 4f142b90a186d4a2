"""Layers of a model in training with fewer passes over memory: the same numbers but for the order of float additions.

PEFT makes five tensors of a LoRA layer's output on the way forward (base, B·A·x, scaled, sum, cast) and as many on the way back, an
RMS norm of transformers six and ten. Here products add into one another, and the gradient is written down instead of recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def quicken(peft_model: Any) -> None:
    """Let LoRA layers and RMS norms be done by the functions below where they are plain; PEFT's and transformers' own way elsewhere."""
    from peft.tuners.lora import Linear

    for module in peft_model.modules():
        if isinstance(module, Linear):
            module.forward = _forward(module, module.forward)
        elif _is_rms_norm(module):
            module.forward = _normed(module, module.forward)


def plain_again(model: Any) -> None:
    """Every layer by its own class's code, as before ``quicken``."""
    for module in model.modules():
        vars(module).pop("forward", None)


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
    result: torch.Tensor = _lora_linear().apply(x, weight, a, b, scale)
    return result


def _is_rms_norm(module: Any) -> bool:
    """One that says so, and gives what the formula gives."""
    import torch

    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or eps is None or weight.dtype != torch.float32:
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    with torch.no_grad():
        return bool(torch.allclose(module(x), rms_norm(x, weight, eps), rtol=1e-5, atol=1e-6))


def _normed(module: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: torch.Tensor) -> Any:
        same = x.dtype == module.weight.dtype and not module.weight.requires_grad
        return rms_norm(x, module.weight, module.variance_epsilon) if same else plain(x)

    return forward


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / √(mean x² + eps) · weight over the last dimension; a gradient for x alone."""
    result: torch.Tensor = _rms_norm().apply(x, weight, eps)
    return result


@functools.cache
def _rms_norm() -> Any:
    import torch

    class RmsNorm(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Any, weight: Any, eps: float) -> Any:
            one_over = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
            unit = x * one_over
            context.save_for_backward(unit, one_over, weight)
            return unit * weight

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            unit, one_over, weight = context.saved_tensors
            gradient = upstream * weight
            along = torch.linalg.vecdot(gradient, unit).div_(unit.shape[-1]).unsqueeze(-1)
            return gradient.addcmul_(unit, along, value=-1).mul_(one_over), None, None

    return RmsNorm


@functools.cache
def _lora_linear() -> Any:
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
