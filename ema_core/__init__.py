"""EMA Lab: in-training defenses against emergent misalignment. ``from ema_core import train, evaluate, compare``."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["RunSpec", "compare", "evaluate", "inside", "train"]


def __getattr__(name: str) -> Any:  # the API reaches every layer; a page that needs one of them should not pay for all
    if name in ("train", "evaluate", "compare", "inside"):
        from ema_core import api

        return getattr(api, name)
    if name == "RunSpec":
        from ema_core.runs import RunSpec

        return RunSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
