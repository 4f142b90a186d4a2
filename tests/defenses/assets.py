"""What a defense needs on the disk before it can train the tiny runs of the tests, and options that keep those runs small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ema_core.models import LoadedModel
from ema_core.settings import settings
from tests.gap.planted import plant_scores
from tests.personas.planted import plant_vector
from tests.training.tiny_model import base_of_embedded

OPTIONS: dict[str, dict[str, Any]] = {"kl-safe": {"batch_size": 2}}


def _base_weights(model: LoadedModel) -> None:
    OPTIONS["safe-lora"] = {"base": str(base_of_embedded(model, settings().home / "base-weights"))}


MAKE: dict[str, Callable[[LoadedModel], Any]] = {
    "safe-lora": _base_weights,
    "persona-steering": lambda model: plant_vector(),
    "interleaving-plus": lambda model: plant_scores(),
    "interleaving-plusplus": lambda model: plant_scores(),
}
"""By defense: makes what it needs in the test's own home, small and at once."""
