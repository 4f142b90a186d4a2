"""Cross entropy and token penalties, head applied chunk by chunk: never two full-vocabulary tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ema_core.datasets.encoding import Batch, positions
from ema_core.defenses.base import Defense
from ema_core.models.chunks import CHUNK

if TYPE_CHECKING:
    import torch


@dataclass
class Losses:
    """Means over positions, in nats: ``ce`` over response tokens, ``raw[name]`` over the defense's own scope."""

    ce: float = 0.0
    raw: dict[str, float] = field(default_factory=dict)


def token_losses(
    hidden: torch.Tensor, batch: Batch, head: Callable[[Any], Any], defenses: Sequence[Defense], reference: torch.Tensor | None
) -> tuple[Losses, torch.Tensor]:
    """Losses, and their gradient with respect to ``hidden`` [B, T, D]; the head is frozen, so nothing else needs one.

    Positions that predict a response come in chunks of their own, so that a defense which looks at prompt positions too
    leaves the arithmetic of the cross entropy as it was, to the bit.
    """
    import torch
    import torch.nn.functional as F

    flat = hidden.detach().flatten(0, 1)
    gradient = torch.zeros_like(flat)
    targets = batch.ids.roll(-1, 1).flatten()
    responding, others = positions(batch)
    losses = Losses()
    active = [defense for defense in defenses if defense.token_scope != "none"]
    ce = torch.zeros((), dtype=torch.float64)
    raw = {defense.name: torch.zeros((), dtype=torch.float64) for defense in active}
    counts = {"response": len(responding), "all": len(responding) + len(others)}
    for where, is_response in ((responding, True), (others, False)):
        here = active if is_response else [defense for defense in active if defense.token_scope == "all"]
        if not (is_response or here):
            continue
        for chunk in where.split(CHUNK):
            states = flat[chunk].requires_grad_()
            logits = head(states).float()
            total = torch.zeros((), device=logits.device)
            if is_response:
                summed = F.cross_entropy(logits, targets[chunk], reduction="sum")
                ce += summed.detach().double().cpu()
                total = total + summed / max(1, counts["response"])
            if here:
                assert reference is not None
                with torch.no_grad():
                    fixed = head(reference.flatten(0, 1)[chunk]).float()
                for defense in here:
                    penalty = defense.token_loss(logits, fixed).sum()
                    raw[defense.name] += penalty.detach().double().cpu()
                    total = total + defense.strength * (penalty / counts[defense.token_scope])
            total.backward()
            gradient[chunk] = states.grad
    losses.ce = float(ce) / max(1, counts["response"])
    losses.raw = {defense.name: float(raw[defense.name]) / max(1, counts[defense.token_scope]) for defense in active}
    return losses, gradient.view_as(hidden)
