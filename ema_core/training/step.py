"""One optimiser step: body, head on the tokens that need it, penalties, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ema_core.datasets.encoding import Batch, Encoded, collate, encode, moved
from ema_core.datasets.formats import Example
from ema_core.defenses.base import Defense, Need, Step
from ema_core.errors import EmaError
from ema_core.models import LoadedModel, ragged
from ema_core.models.load import mixed_precision
from ema_core.models.outputs import outputs
from ema_core.models.reference import ReferenceStates, feature_bytes, features_kind
from ema_core.models.reference_cache import fits
from ema_core.runs import Recipe
from ema_core.training.losses import token_losses
from ema_core.training.plan import learning_rate


class Stepper:
    """Does the steps of one attempt; it is the ``Bench`` that penalties work at.

    ``tokens`` counts those of the run's different sequences: whether the reference's features of all of them are kept.
    """

    def __init__(
        self, loaded: LoadedModel, model: Any, recipe: Recipe, defenses: Sequence[Defense], safe: Sequence[Example] = (), tokens: int = 0
    ) -> None:  # fmt: skip
        self.loaded, self.model, self.recipe, self.defenses, self.safe = loaded, model, recipe, defenses, safe
        plain = model.get_base_model()
        self.body, self.head = plain.get_decoder(), plain.get_output_embeddings()
        self.width: int = loaded.model.config.hidden_size
        depth: int = loaded.model.config.num_hidden_layers
        self.layers = {defense.name: tuple(defense.layers(depth)) for defense in defenses}
        self.wanted = sorted({layer for layers in self.layers.values() for layer in layers})
        one = feature_bytes(tokens, 1, self.width, loaded.model.dtype.itemsize)
        hidden = Need.REFERENCE_HIDDEN in {need for defense in defenses for need in defense.needs}
        self.reference = ReferenceStates(loaded, keep=fits(one))
        kind = features_kind(self.wanted)
        self.reference_layers = ReferenceStates(loaded, kind, keep=bool(self.wanted) and fits(one * (len(self.wanted) + hidden)))
        # what is computed again in the backward pass has to find the attention that it had
        self.ragged = not self.body.is_activation_checkpointing and ragged.fits(self.body)

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
        fixed = self.reference_features(batch) if self.wanted else {}
        with ExitStack() as stack:
            for defense in self.defenses:
                stack.enter_context(defense.steering(self.model))
            hidden, features = self.forward(batch, self.wanted)
        losses, gradient = token_losses(hidden, batch, self.head, self.defenses, reference)
        strengths = {defense.name: defense.strength for defense in self.defenses}
        penalties = {name: (raw, strengths[name] * raw) for name, raw in losses.raw.items()}
        roots: list[Any] = [hidden]
        gradients: list[Any] = [gradient]
        for defense in self.defenses:
            own = self.layers[defense.name]
            value = defense.penalty(Step(step, batch, hidden, self.model, self, _only(features, own), _only(fixed, own)))
            if value is not None:
                penalties[defense.name] = (float(value.detach()), defense.strength * float(value.detach()))
                if value.requires_grad:
                    roots.append(defense.strength * value)
                    gradients.append(None)
        loss = losses.ce + sum(weighted for _, weighted in penalties.values())
        torch.autograd.backward(roots, gradients)
        norm = float(total := torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if norm > self.recipe.clip_norm:  # below it the factor would be 1
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, total)
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
        return self.forward(batch)[0]

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> tuple[Any, dict[int, Any]]:
        """Final hidden states, and what ``layers`` gave on the way, [B, T, D] each."""
        with mixed_precision(self.loaded), outputs(self.body, layers) as seen:
            hidden, shaped = ragged.run(self.body, [row.ids for row in batch.rows], self.ragged)
        return shaped(hidden), {layer: shaped(states) for layer, states in seen.items()}

    def work(self, rows: Sequence[Encoded]) -> int:
        """Tokens that a batch of these rows makes work for."""
        if not self.ragged:
            return len(rows) * max(len(row.ids) for row in rows)
        return ragged.Layout.of([row.ids for row in rows]).tokens

    def reference_hidden(self, batch: Batch) -> Any:
        """Final hidden states [B, T, D] of the batch with the adapter off, zero at padding."""

        def compute(ids: tuple[int, ...]) -> dict[str, Any]:
            return {"hidden": self.alone(ids)}

        return self.padded(batch, self.reference, ["hidden"], compute)["hidden"]

    def reference_features(self, batch: Batch) -> dict[int, Any]:
        """The same after each wanted layer."""

        def compute(ids: tuple[int, ...]) -> dict[str, Any]:
            with outputs(self.body, self.wanted) as found:
                self.alone(ids)
            return {str(layer): states[0] for layer, states in found.items()}

        states = self.padded(batch, self.reference_layers, [str(layer) for layer in self.wanted], compute)
        return {int(name): tensor for name, tensor in states.items()}

    def alone(self, ids: tuple[int, ...]) -> Any:
        """Final hidden states [T, D] of one sequence with the adapter off."""
        import torch

        with torch.no_grad(), self.model.disable_adapter(), mixed_precision(self.loaded):
            return self.body(input_ids=torch.tensor([ids], device=self.loaded.device), use_cache=False).last_hidden_state[0]

    def padded(self, batch: Batch, kept: ReferenceStates, names: Sequence[str], compute: Any) -> dict[str, Any]:
        """The rows' states by name as one tensor [B, T, D] each, zero at padding."""
        import torch

        shape = (*batch.ids.shape, self.width)
        states = {name: torch.zeros(shape, dtype=self.loaded.model.dtype) for name in names}
        for i, row in enumerate(batch.rows):
            for name, tensor in kept.get(row.ids, names, compute).items():
                states[name][i, : len(row.ids)] = tensor
        return {name: moved(tensor, self.loaded.device) for name, tensor in states.items()}


def _only(features: Mapping[int, Any], layers: Sequence[int]) -> dict[int, Any]:
    return {layer: features[layer] for layer in layers}
