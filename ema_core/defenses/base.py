"""What a defense is: metadata, a strength, and hooks that do nothing unless overridden. Torch-free to import."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from ema_core.datasets.formats import Example
from ema_core.runs import RunSpec, Strict

if TYPE_CHECKING:
    import torch

    from ema_core.datasets.encoding import Batch
    from ema_core.defenses.panels import Look, Panel
    from ema_core.models import ModelEntry


class Need(StrEnum):
    """What the loop has to provide. Only what is asked for is computed."""

    REFERENCE_HIDDEN = "reference-hidden"
    REFERENCE_FEATURES = "reference-features"
    SAFE_POOL = "safe-pool"
    GAP_SCORES = "gap-scores"
    PERSONA_VECTOR = "persona-vector"
    BASE_WEIGHTS = "base-weights"


@dataclass(frozen=True)
class Asset:
    """Something that has to lie on the disk before a run starts, and the job that makes it.

    ``path`` is the file that says it is whole; ``job`` a kind of the queue's with its ``payload``, or None where nothing here can
    make it; ``hint`` says what to do by hand. ``after`` are assets which that job needs itself.
    """

    title: str
    path: Path
    job: str | None
    payload: Mapping[str, Any]
    hint: str
    seconds: float = 0.0
    after: tuple[Asset, ...] = ()

    @property
    def ready(self) -> bool:
        return self.path.exists()


@dataclass(frozen=True)
class Cost:
    """What a defense costs a provider, in words: ``time``, ``memory``, and the ``assets`` that have to be there first."""

    time: str
    memory: str
    assets: str = "none"


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


class Bench(Protocol):
    """What a penalty can do with the models of a step. ``safe`` is the safe pool, where it was asked for."""

    safe: Sequence[Example]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Encoded through the chat template and padded."""

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final hidden states [B, T, D] of the tuned model, with gradient."""

    def reference_hidden(self, batch: Batch) -> torch.Tensor:
        """The same of the frozen reference, without gradient; kept on disk."""

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, V] from states [n, D]."""


@dataclass(frozen=True)
class Step:
    """What ``penalty`` sees.

    ``hidden`` [B, T, D]: final states of the tuned model, with gradient. ``features`` (the same after each decoder layer that
    ``layers`` named) and ``reference_features`` are there for defenses that need REFERENCE_FEATURES.
    """

    number: int
    batch: Batch
    hidden: torch.Tensor
    model: Any
    bench: Bench
    features: Mapping[int, torch.Tensor] = field(default_factory=dict)
    reference_features: Mapping[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a defense did after training, for the run's record; ``panels``: what of it cannot be read from the adapter any more."""

    text: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    panels: Sequence[Panel] = ()


class Defense:
    """Base of every defense. Override the hook that is needed; leave the rest.

    A defense draws only from ``self.rng``, its own stream, so that adding one shifts no other. ``spec`` is the run that it is
    built for. A ``provisional`` one is built for an estimate: what its assets would say is not there yet.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    cost: ClassVar[Cost]
    fails: ClassVar[str]
    strength_info: ClassVar[Strength]
    options_type: ClassVar[type[BaseModel]] = NoOptions
    needs: ClassVar[frozenset[Need]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = {}

    spec: RunSpec | None = None
    provisional: bool = False

    def __init__(self, strength: float, options: Any, seed: int) -> None:
        self.strength = strength
        self.options = options
        self.seed = seed
        self.rng = random.Random(f"{seed}/{self.name}")

    @property
    def settled_options(self) -> dict[str, Any]:
        """Its options as the run's spec keeps them: as they were read, without defaults."""
        return self.options.model_dump(mode="json", exclude_defaults=True)

    def assets(self) -> Sequence[Asset]:
        """What has to be there before the run starts, ready or not."""
        return ()

    def check(self) -> None:
        """Refuse what cannot be trained, as far as it can be known before; the assets are there, unless it is provisional.

        Raises:
            EmaError: the reason, and what to do.
        """

    @property
    def extra_time(self) -> float:
        """Share that it adds to the time of training: a first guess, for the estimate."""
        return 0.0

    def extra_memory(self, model: ModelEntry, batch: int, width: int) -> int:
        """Bytes that it adds at ``batch`` sequences of ``width`` tokens: a first guess, for the estimate."""
        return 0

    def layers(self, count: int) -> Sequence[int]:
        """Decoder layers (1 to ``count``) whose outputs ``penalty`` wants as features."""
        return ()

    def safe_drawn(self, steps: int) -> int:
        """How many safe examples ``penalty`` asks the reference about in a run of ``steps``, at most."""
        return 0

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

    def notes(self) -> Sequence[str]:
        """What a reader of the run should know, for its record; asked once the examples are mixed and rewritten."""
        return ()

    def steering(self, model: Any) -> AbstractContextManager[Any]:
        """On while the tuned model's forward pass runs in training: not for probes, not for the reference, never at inference."""
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

    def inside(self, look: Look) -> Sequence[Panel]:
        """What it did in a trained run, as tables that a page draws. Called for runs without it, too, as built with strength 0: then
        it says what it would have seen, or nothing. Never in training."""
        return ()
