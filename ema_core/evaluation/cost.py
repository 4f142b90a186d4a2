"""What a setting costs a provider beside time: memory (an estimate), and what has to be there first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ema_core.defenses.registry import find
from ema_core.errors import EmaError
from ema_core.runs import RunDirectory
from ema_core.training.estimate import estimate


def provider_cost(run_ids: Sequence[str]) -> dict[str, Any]:
    """``memory`` in bytes (estimated, not measured), that of the undefended run as ``memory_undefended``, and ``assets`` in words.

    Of the first run that is still there; None where none is, or its data are gone.
    """
    for run_id in run_ids:
        try:
            spec = RunDirectory.open(run_id).spec
            plain = spec.model_copy(update={"defenses": ()})
            assets = [f"{defense.name}: {find(defense.name).cost.assets}" for defense in spec.defenses]
            return {
                "memory": estimate(spec).memory, "memory_undefended": estimate(plain).memory,
                "assets": "; ".join(text for text in assets if not text.endswith(": none")),
            }  # fmt: skip
        except EmaError:
            continue
    return {"memory": None, "memory_undefended": None, "assets": ""}
