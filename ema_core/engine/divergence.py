"""Token by token: how far a tuned model's next-token distribution is from its base's over an answer that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ema_core.engine.names import Target
from ema_core.engine.shelf import Shelf
from ema_core.generation.chat_template import AnswerText, Turn, encode_turns
from ema_core.models.lora import On, switched_on

if TYPE_CHECKING:
    import torch

MOST_READ = 1024
"""Tokens of an answer that are read: both models' logits of all of them are held at once."""
TOP = 5
CHUNK = 64
"""Positions whose probabilities over the whole vocabulary are held in float64 at once."""


@dataclass(frozen=True)
class Likely:
    """A token that might have come, and its probability."""

    text: str
    p: float


@dataclass(frozen=True)
class TokenDivergence:
    """A token of the answer: KL(tuned ‖ base) in nats of what was expected in its place, its own probability under both models, and the
    likeliest tokens of each. ``text`` is "" for a token that ends within a character; the one that ends it has all of it."""

    text: str
    kl: float
    tuned: float
    base: float
    tuned_top: tuple[Likely, ...]
    base_top: tuple[Likely, ...]


@dataclass(frozen=True)
class Diverged:
    """``total``: tokens of the whole answer, of which the first ``len(tokens)`` were read."""

    tokens: list[TokenDivergence]
    total: int


@dataclass(eq=False)
class Diverging:
    """Work for the engine's thread: one answer, one forward pass a model, both given the same tokens."""

    target: Target
    turns: Sequence[Turn]
    answer: str
    deliver: Callable[[Any], None]
    cancelled: bool = False
    done: list[TokenDivergence] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled = True

    def read(self, shelf: Shelf) -> Diverged:
        """Raises:
        EmaError: the adapter is refused.
        """
        import torch

        loaded = shelf.model(self.target.model)
        on, _ = shelf.get(self.target)
        tokenizer = loaded.tokenizer
        prompt = encode_turns(tokenizer, self.turns)
        whole = tokenizer(self.answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = whole[: max(0, min(MOST_READ, loaded.context - len(prompt)))]
        if not ids:
            return Diverged([], len(whole))
        row = torch.tensor([prompt + ids[:-1]], device=loaded.device)  # the last token is foretold, never read
        with torch.inference_mode():
            logits = []
            for who in (on, On()):
                with switched_on(loaded.model, [who]):
                    logits.append(loaded.model(input_ids=row, use_cache=False, logits_to_keep=len(ids)).logits[0])
            return Diverged(_compared(tokenizer, ids, *logits), len(whole))


def _compared(tokenizer: Any, ids: list[int], tuned: torch.Tensor, base: torch.Tensor) -> list[TokenDivergence]:
    """``tuned`` and ``base`` [tokens, vocabulary]: the logits from which each token of the answer could have been drawn."""
    import torch

    found = []
    text = AnswerText(tokenizer)
    double = torch.float32 if tuned.device.type == "mps" else torch.float64
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        ours, theirs = (logits[start : start + CHUNK].to(double).log_softmax(-1) for logits in (tuned, base))
        distances = divergence(ours, theirs).tolist()
        drawn = torch.tensor(part, device=ours.device).unsqueeze(1)
        own = [each.gather(1, drawn).squeeze(1).exp().tolist() for each in (ours, theirs)]
        tops = [_likely(tokenizer, each) for each in (ours, theirs)]
        for i, token in enumerate(part):
            found.append(TokenDivergence(text.push(token), distances[i], own[0][i], own[1][i], tops[0][i], tops[1][i]))
    if rest := text.end():
        last = found[-1]
        found[-1] = TokenDivergence(last.text + rest, last.kl, last.tuned, last.base, last.tuned_top, last.base_top)
    return found


def divergence(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(tuned ‖ base) in nats of each row of log-probabilities [tokens, vocabulary]."""
    return (tuned.exp() * (tuned - base)).sum(-1).clamp(min=0)


def _likely(tokenizer: Any, values: torch.Tensor) -> list[tuple[Likely, ...]]:
    top = values.topk(min(TOP, values.shape[-1]))
    return [
        tuple(Likely(tokenizer.decode([token]), p) for token, p in zip(tokens, probabilities, strict=True))
        for tokens, probabilities in zip(top.indices.tolist(), top.values.exp().tolist(), strict=True)
    ]
