"""LDIFS: l2 distance to the reference in feature space (Mukhoti et al.; Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ema_core.defenses.base import Cost, Defense, Need, Report, Step, Strength
from ema_core.defenses.panels import Look, Panel, mean, number
from ema_core.defenses.registry import register
from ema_core.runs import Strict

if TYPE_CHECKING:
    import torch

    from ema_core.models import ModelEntry

Normalise = Literal["example", "token"]
LAYERS = 5


def feature_layers(count: int, choice: Literal["decoder", "published"] = "decoder") -> list[int]:
    """Five layers, evenly spaced: from the first to the last decoder layer (1 to ``count``), or the published choice.

    ``published`` spaces them over the indices of ``hidden_states``, 0 to ``count``, cut to whole numbers. 0 is the embedding,
    which LoRA on linear modules cannot move, so that four layers are left. 30 layers: 1, 8, 16, 23, 30 and 0, 7, 15, 22, 30.
    """
    first = 1 if choice == "decoder" else 0
    places = [first + (count - first) * i / (LAYERS - 1) for i in range(LAYERS)]
    return sorted({round(place) if choice == "decoder" else int(place) for place in places})


def squared_distances(
    tuned: Mapping[int, torch.Tensor],
    reference: Mapping[int, torch.Tensor],
    attention: torch.Tensor,
    normalise: Normalise = "example",
) -> torch.Tensor:
    """Each position's part [B, T] of ‖x − x0‖², summed over layers, from features [B, T, D] by layer; 0 at padding.

    ``example``: each layer's flattened activation of an example (T·D numbers, padding left out) has unit length, so a row's
    sum is the squared distance of the concatenated layers. ``token``: each token's activation has unit length.
    """
    import torch

    real = attention.unsqueeze(-1)
    dims = (1, 2) if normalise == "example" else (2,)

    def unit(states: torch.Tensor) -> torch.Tensor:
        kept = states.float() * real
        return kept / kept.pow(2).sum(dims, keepdim=True).clamp_min(1e-12).sqrt()

    parts = [(unit(tuned[layer]) - unit(reference[layer])).pow(2).sum(-1) for layer in tuned]
    return torch.stack(parts).sum(0)


def feature_distance(parts: torch.Tensor, attention: torch.Tensor, normalise: Normalise = "example") -> torch.Tensor:
    """The penalty from ``squared_distances`` [B, T]: ``example``, mean over the batch of each row's sum (the paper).

    ``token``: mean over tokens, the first position of each row left out.
    """
    if normalise == "example":
        return parts.sum(1).mean()
    counted = attention.clone()
    counted[:, 0] = 0
    return (parts * counted).sum() / counted.sum().clamp_min(1)


class LDIFSOptions(Strict):
    normalise: Normalise = Field(default="example", description="Unit length of a whole example (the paper), or of each token.")
    layers: Literal["decoder", "published"] = Field(
        default="decoder", description="decoder: first to last decoder layer. published: with the embedding, which cannot move."
    )
    published_code: bool = Field(
        default=False, description="As in published code: features without gradient, so it trains nothing."
    )


@register
class LDIFS(Defense):
    name = "ldifs"
    title = "LDIFS (distance of features)"
    reference = "Mukhoti et al., arXiv 2308.13320; Kaczér et al., arXiv 2508.06249"
    summary = (
        "Keeps the residual stream after five layers near the reference's. Here with gradient; published_code=true takes it away, "
        "as published code did, and then the penalty is reported and trains nothing."
    )
    cost = Cost(
        time="The reference's forward pass once for each example.",
        memory="Features of five layers for each token of a batch; on disk, where a run's fit (EMA_REFERENCE_CACHE_GB).",
    )
    fails = (
        "The paper finds next to no effect. In the middle layers the first position holds most of an activation's squared norm, so "
        "what moves at the others counts little there (normalise=token counts them alike). With published_code=true it does nothing."
    )
    strength_info = Strength(
        meaning="lambda in CE + lambda x squared distance of the features, mean over the batch",
        default=1.0, paper=1.0, grid=(0.1, 1.0, 10.0, 100.0, 1000.0), low=0.1, high=1000.0, limit=1_000_000, scale="log",
    )  # fmt: skip
    options_type = LDIFSOptions
    needs = frozenset({Need.REFERENCE_FEATURES})

    def __init__(self, strength: float, options: Any, seed: int) -> None:
        super().__init__(strength, options, seed)
        self.steps, self.at_first, self.everywhere = 0, 0.0, 0.0

    @property
    def extra_time(self) -> float:
        return 0.05  # the reference's pass is counted by the estimate itself

    def extra_memory(self, model: ModelEntry, batch: int, width: int) -> int:
        return (
            3 * 4 * batch * width * model.hidden * len(self.layers(model.layers))
        )  # the reference's, the difference, its gradient

    def layers(self, count: int) -> Sequence[int]:
        return feature_layers(count, self.options.layers)

    def penalty(self, step: Step) -> torch.Tensor | None:
        tuned, normalise = step.features, self.options.normalise
        if self.options.published_code:
            tuned = {layer: states.detach() for layer, states in tuned.items()}
        parts = squared_distances(tuned, step.reference_features, step.batch.attention, normalise)
        self.steps += 1
        self.at_first += float(parts[:, 0].detach().sum())
        self.everywhere += float(parts.detach().sum())
        return feature_distance(parts, step.batch.attention, normalise)

    def finish(self, model: Any) -> Report | None:
        """Where the distance lay: a share of the first position, which is the same token in every example."""
        if not self.everywhere:
            return None
        share = self.at_first / self.everywhere
        left_out = " It is left out of the penalty." if self.options.normalise == "token" else ""
        trained = " Without gradient (published_code): it trained nothing." if self.options.published_code else ""
        return Report(
            f"The first position held {share:.0%} of the squared distance over {self.steps} steps.{left_out}{trained}",
            {"share_first_position": share, "share_other_positions": 1 - share},
        )

    def inside(self, look: Look) -> Sequence[Panel]:
        """Squared distance by layer and by token, as the penalty normalises it; a layer that the penalty does not see is there, too."""
        import torch

        normalise = self.options.normalise
        depth = len(look.base()[0].layers) - 1
        seen = self.layers(depth)
        of_layer: dict[int, list[float]] = {}
        tokens: list[dict[str, Any]] = []
        for place in look.narrow:
            tuned, fixed = look.tuned()[place].layers, look.base()[place].layers
            attention = torch.ones(1, tuned.shape[1], dtype=torch.long, device=tuned.device)
            parts = {
                layer: squared_distances({layer: tuned[layer : layer + 1]}, {layer: fixed[layer : layer + 1]}, attention, normalise)
                for layer in (range(depth + 1) if look.last else seen)
            }
            for layer, part in parts.items():
                of_layer.setdefault(layer, []).append(float(feature_distance(part, attention, normalise)))
            tokens.append({"example": place, "values": [number(v) for v in sum(parts[layer] for layer in seen)[0].tolist()]})
        sums = [sum(values) for values in zip(*(of_layer[layer] for layer in seen), strict=True)]
        first = sum(row["values"][0] for row in tokens) / max(1e-30, sum(sum(row["values"]) for row in tokens))
        each = "each whole example" if normalise == "example" else "each token's state"
        shared: dict[str, Any] = {
            "unit": "squared distance", "n": f"{len(tokens)} training examples", "how": f"unit length of {each}, layers {', '.join(map(str, seen))}",
            "value": number(mean(sums)), "value_is": f"squared distance over layers {', '.join(map(str, seen))}",
        }  # fmt: skip
        layers = Panel(
            name="by-layer", kind="layers", title="Distance from the base, layer by layer", **shared,
            says=f"How far the residual stream after each layer is from the base's, with {each} scaled to length 1 in each layer. The penalty "
            f"adds up the marked layers: {', '.join(map(str, seen))}.",
            beware="A layer's distance holds what all layers before it changed, so the curve does not say where the change was made.",
            marks="layer in the penalty",
            rows=[
                {"line": "distance", "layer": layer, "value": number(mean(values)), "marked": layer in seen}
                for layer, values in of_layer.items()
            ],
        )  # fmt: skip
        left_out = ", which is left out of the penalty" if normalise == "token" else ""
        by_token = Panel(
            name="by-token", kind="tokens", title="Distance from the base, token by token", **{**shared, "value": None, "value_is": ""},
            says=f"The same, added up over the marked layers, at each token. The first position holds {first:.0%} of it{left_out}.",
            beware="In the middle layers the first position's state is a hundred times as long as the others: with the whole example scaled, "
            "what moves elsewhere counts little.",
            rows=tokens,
        )  # fmt: skip
        return [layers, by_token]
