"""A model that was tuned a little, and the stepper that penalties work at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ema_core.datasets.formats import Example
from ema_core.defenses.base import Defense
from ema_core.models import adapters
from ema_core.runs import recipe
from tests.defenses.bench import Bench


@pytest.fixture(scope="module")
def tuned(model) -> Iterator[Any]:
    """The embedded model with an adapter that is not zero."""
    import torch

    peft_model = adapters.attach(model.model, recipe("demo", rank=4), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.001)
    yield peft_model
    adapters.detach(peft_model)
    model.model.requires_grad_(False)


@pytest.fixture
def stepper(model, tuned, home) -> Bench:
    """``stepper(defenses, safe)``: the loop's own, on the tuned model."""
    from ema_core.training.step import Stepper

    def make(defenses: Sequence[Defense] = (), safe: Sequence[Example] = (), tokens: int = 0) -> Stepper:
        return Stepper(model, tuned, recipe("demo"), defenses, safe, tokens)

    return make
