"""KL divergence to the reference model on the training batch (Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ema_core.defenses.base import Cost, Defense, Need, Strength
from ema_core.defenses.panels import Look, Panel, answer_places, by_position, mean, number
from ema_core.defenses.registry import register
from ema_core.models.chunks import CHUNK
from ema_core.runs import Strict

if TYPE_CHECKING:
    import torch

KL_SHARE = 0.35
"""Of a token's training, what head and divergence add."""
Direction = Literal["tuned||ref", "ref||tuned"]


def kl_divergence(
    logits: torch.Tensor, reference: torch.Tensor, direction: Direction = "tuned||ref", temperature: float = 1.0
) -> torch.Tensor:
    """KL divergence of each position in nats [n], over the full vocabulary, from logits [n, V].

    ``tuned||ref`` is D_KL(p_theta || p_theta0), the paper's. A temperature T other than 1 carries the factor T².
    """
    result: torch.Tensor = _function().apply(logits, reference, direction == "tuned||ref", temperature)
    return result


@functools.cache
def _function() -> Any:
    """KL with its gradient in closed form: half the passes over [n, V], and one such tensor kept for the way back instead of five."""
    import torch

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, logits: Any, reference: Any, tuned_first: bool, temperature: float) -> Any:
            tuned = _log_softmax(logits, temperature)
            fixed = _log_softmax(reference, temperature)
            if tuned_first:  # d/dlogits = p (log p - log q - KL) T
                apart = fixed.neg_().add_(tuned)
                p = tuned.exp_()
                divergence = torch.linalg.vecdot(p, apart)
                gradient = apart.sub_(divergence.unsqueeze(-1)).mul_(p)
            else:  # d/dlogits = (p - q) T
                q = fixed.exp()
                divergence = torch.linalg.vecdot(q, fixed.sub_(tuned))
                gradient = tuned.exp_().sub_(q)
            context.save_for_backward(gradient)
            context.temperature, context.dtype = temperature, logits.dtype
            return divergence * temperature**2

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            (gradient,) = context.saved_tensors
            return (gradient * (upstream.unsqueeze(-1) * context.temperature)).to(context.dtype), None, None, None

    return Divergence


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """A tensor of its own, in float32."""
    scaled = logits.detach().float() if temperature == 1 else logits.detach().float() / temperature
    return scaled.log_softmax(-1)


class KLOptions(Strict):
    tokens: Literal["all", "response"] = "all"
    direction: Direction = "tuned||ref"
    temperature: float = Field(default=1.0, gt=0, le=100)


@register
class KL(Defense):
    name = "kl"
    title = "KL divergence"
    reference = "Kaczér et al., arXiv 2508.06249"
    summary = "Keeps the tuned model's next-token distribution near the reference's on the training batch."
    cost = Cost(
        time="The reference's forward pass once for each example, and the head once more for each token.",
        memory="No second model: the reference is the same one with its adapter off. Its hidden states are kept on disk.",
    )
    fails = "Halves the narrow behaviour and holds back the hardest benign tasks (the paper's Table 1)."
    strength_info = Strength(
        meaning="lambda in CE + lambda x KL(tuned || reference), mean over tokens",
        default=0.1, paper=0.1, grid=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), low=0.01, high=3.0, limit=1000, scale="log",
    )  # fmt: skip
    options_type = KLOptions
    needs = frozenset({Need.REFERENCE_HIDDEN})

    @property
    def extra_time(self) -> float:
        return KL_SHARE if self.options.tokens == "all" else 0.15  # the reference's pass is counted by the estimate itself

    @property
    def token_scope(self) -> Literal["none", "response", "all"]:
        return self.options.tokens

    def token_loss(self, logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
        return kl_divergence(logits, reference_logits, self.options.direction, self.options.temperature)

    def inside(self, look: Look) -> Sequence[Panel]:
        acts = "the answer's tokens" if self.options.tokens == "response" else "every token, the prompt's too"
        return divergence_panels(
            look, look.narrow, self.options, "training examples", f"The penalty is the mean over {acts}, of each training batch."
        )


def divergence_panels(look: Look, places: Sequence[int], options: KLOptions, what: str, acts: str) -> list[Panel]:
    """KL of the tuned model to the base at each token of these rows, and its mean along the answers; without a temperature's factor."""
    rows = [look.rows[place] for place in places]
    values = [token_divergences(look, place, options.direction, options.temperature) for place in places]
    answers = [[own[token] or 0.0 for token in answer_places(row)] for row, own in zip(rows, values, strict=True)]
    prompts = [sum(value or 0.0 for value in own) - sum(answer) for own, answer in zip(values, answers, strict=True)]
    tokens = sum(map(len, answers))
    total = sum(map(sum, answers)) + sum(prompts)
    direction = {"tuned||ref": "KL(tuned ‖ base)", "ref||tuned": "KL(base ‖ tuned)"}[options.direction]
    shared: dict[str, Any] = {
        "unit": "nats", "n": f"{len(rows)} {what}, {tokens} answer tokens",
        "how": direction + ("" if options.temperature == 1 else f", temperature {options.temperature:g}"),
    }  # fmt: skip
    value = number(mean(value for answer in answers for value in answer))
    share = f" The prompts' tokens hold {sum(prompts) / total:.0%} of the sum." if total > 0 else ""
    by_token = Panel(
        name="by-token", kind="tokens", title=f"KL to the base, token by token: {what}", **shared,
        says=f"How far the trained model's next-token distribution is from the base's, where it is about to say this token. {acts}{share}",
        beware="A high value says that the model moved here, not that it moved for the worse: a learned fact looks the same.",
        value=value, value_is=f"KL to the base, mean over answer tokens ({what})",
        rows=[{"example": place, "values": own} for place, own in zip(places, values, strict=True)],
    )  # fmt: skip
    along = Panel(
        name="by-position", kind="positions", title=f"KL to the base along the answer: {what}", **shared,
        says="The same, as the mean at the n-th token of the answer.",
        beware="Few answers are long: to the right the mean is over fewer of them. No interval: these examples are not a sample of questions.",
        rows=by_position(rows, values),
    )  # fmt: skip
    return [by_token, along] if look.last else [by_token]


def token_divergences(look: Look, place: int, direction: Direction, temperature: float) -> list[float | None]:
    """KL in nats of the distribution that predicts each token of a row; None for the first, which nothing predicts."""
    tuned, fixed = look.tuned()[place].final[:-1], look.base()[place].final[:-1]
    found: list[float | None] = [None]
    for mine, other in zip(tuned.split(CHUNK), fixed.split(CHUNK), strict=True):
        found += kl_divergence(look.head(mine), look.head(other), direction, temperature).tolist()
    return [None if value is None else number(max(0.0, value)) for value in found]
