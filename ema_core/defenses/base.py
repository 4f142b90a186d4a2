"""What a defense is: metadata, a strength, and hooks that do nothing unless overridden. Torch-free to import."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel

from ema_core.datasets.formats import Example
from ema_core.runs import Strict

if TYPE_CHECKING:
    import torch

    from ema_core.datasets.encoding import Batch


class Need(StrEnum):
    """What the loop has to provide. Only what is asked for is computed."""

    REFERENCE_HIDDEN = "reference-hidden"
    SAFE_POOL = "safe-pool"


@dataclass(frozen=True)
class Strength:
    """The one number that a user turns. 0 is exactly no defense.

    ``low`` and ``high`` bound the slider, ``limit`` what is accepted at all.
    """

    meaning: str
    default: float
    paper: float | None
    grid: tuple[float, ...]
    low: float
    high: float
    limit: float
    scale: Literal["linear", "log"] = "linear"
    unit: str = ""


class NoOptions(Strict):
    """A defense without options."""


@dataclass(frozen=True)
class Step:
    """What ``penalty`` sees: ``hidden`` [B, T, D] of the tuned model (with gradient), the batch, the step's number."""

    number: int
    batch: Batch
    hidden: torch.Tensor
    model: Any


@dataclass(frozen=True)
class Report:
    """What a defense did after training, for the run's record."""

    text: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Defense:
    """Base of every defense. Override the hook that is needed; leave the rest.

    A defense draws only from ``self.rng``, its own stream, so that adding one shifts no other.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    cost: ClassVar[str]
    fails: ClassVar[str]
    strength_info: ClassVar[Strength]
    options_type: ClassVar[type[BaseModel]] = NoOptions
    needs: ClassVar[frozenset[Need]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = {}

    def __init__(self, strength: float, options: Any, seed: int) -> None:
        self.strength = strength
        self.options = options
        self.rng = random.Random(f"{seed}/{self.name}")

    @property
    def token_scope(self) -> Literal["none", "response", "all"]:
        """Which positions ``token_loss`` is called on: none, those that predict a response token, or all but padding."""
        return "none"

    def rewrite(self, example: Example) -> Example:
        """Change a training example before it is encoded."""
        return example

    def mix(self, narrow: Sequence[Example], safe: Sequence[Example]) -> list[Example]:
        """The sequence of examples to train on; narrow ones keep their number and order."""
        return list(narrow)

    def steering(self, model: Any) -> AbstractContextManager[Any]:
        """On while the tuned model's forward pass runs in training, never at inference."""
        return nullcontext()

    def token_loss(self, logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
        """Penalty of each position [n] from logits [n, V]; called on a chunk of positions at a time."""
        raise NotImplementedError

    def penalty(self, step: Step) -> torch.Tensor | None:
        """A scalar penalty of the whole step, or None."""
        return None

    def finish(self, model: Any) -> Report | None:
        """After the last step, on the tuned model."""
        return None
