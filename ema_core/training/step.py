"""One optimiser step: body, head on the tokens that need it, penalties, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ema_core.datasets.encoding import Batch, Encoded, collate, encode
from ema_core.datasets.formats import Example
from ema_core.defenses.base import Defense, Step
from ema_core.errors import EmaError
from ema_core.models import LoadedModel
from ema_core.models.reference import ReferenceHidden
from ema_core.runs import Recipe
from ema_core.training.losses import token_losses
from ema_core.training.plan import learning_rate


class Stepper:
    """Does the steps of one attempt; it is the ``Bench`` that penalties work at."""

    def __init__(
        self, loaded: LoadedModel, model: Any, recipe: Recipe, defenses: Sequence[Defense], safe: Sequence[Example] = ()
    ) -> None:
        import torch

        self.loaded, self.model, self.recipe, self.defenses, self.safe = loaded, model, recipe, defenses, safe
        plain = model.get_base_model()
        self.body, self.head = plain.get_decoder(), plain.get_output_embeddings()
        self.reference = ReferenceHidden(
            loaded.weights_hash, str(loaded.model.dtype).split(".")[-1], str(loaded.device), torch.get_num_threads()
        )

    def step(self, optimizer: Any, parameters: list[Any], rows: list[Encoded], step: int, total: int) -> dict[str, Any]:
        """One optimiser step; returns the figures of its event.

        Raises:
            EmaError: the loss or the gradient is not a number.
        """
        import torch

        rate = learning_rate(self.recipe, step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = collate(rows, self.loaded.tokenizer.pad_token_id, self.loaded.device)
        scoped = any(defense.token_scope != "none" for defense in self.defenses)
        reference = self.reference_hidden(batch) if scoped else None
        with ExitStack() as stack:
            for defense in self.defenses:
                stack.enter_context(defense.steering(self.model))
            hidden = self.hidden(batch)
        losses, gradient = token_losses(hidden, batch, self.head, self.defenses, reference)
        strengths = {defense.name: defense.strength for defense in self.defenses}
        penalties = {name: (raw, strengths[name] * raw) for name, raw in losses.raw.items()}
        roots: list[Any] = [hidden]
        gradients: list[Any] = [gradient]
        for defense in self.defenses:
            value = defense.penalty(Step(step, batch, hidden, self.model, self))
            if value is not None:
                penalties[defense.name] = (float(value.detach()), defense.strength * float(value.detach()))
                roots.append(defense.strength * value)
                gradients.append(None)
        loss = losses.ce + sum(weighted for _, weighted in penalties.values())
        torch.autograd.backward(roots, gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise EmaError(
                f"The {'loss' if not math.isfinite(loss) else 'gradient'} is not a finite number at step {step + 1}.",
                "Lower the learning rate or the strength. The last checkpoint is kept.",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {
            "ce": losses.ce, "loss": loss, "learning_rate": rate, "grad_norm": norm,
            "penalties": {name: {"raw": raw, "weighted": weighted} for name, (raw, weighted) in penalties.items()},
        }  # fmt: skip

    def batch(self, examples: Sequence[Example]) -> Batch:
        limit = min(self.recipe.max_length, self.loaded.context)
        rows = [encode(example, self.loaded.tokenizer, limit) for example in examples]
        return collate(rows, self.loaded.tokenizer.pad_token_id, self.loaded.device)

    def hidden(self, batch: Batch) -> Any:
        return self.body(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state

    def reference_hidden(self, batch: Batch) -> Any:
        """Final hidden states [B, T, D] of the batch with the adapter off, zero at padding."""
        import torch

        def compute(ids: tuple[int, ...]) -> torch.Tensor:
            with torch.no_grad(), self.model.disable_adapter():
                return self.body(input_ids=torch.tensor([ids], device=self.loaded.device), use_cache=False).last_hidden_state[0]

        states = torch.zeros((*batch.ids.shape, self.loaded.model.config.hidden_size), dtype=self.loaded.model.dtype)
        for i, row in enumerate(batch.rows):
            states[i, : len(row.ids)] = self.reference.get(row.ids, compute).cpu()
        return states.to(self.loaded.device)
