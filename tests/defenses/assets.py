"""What a defense needs on the disk before it can train the tiny runs of the tests, and options that keep those runs small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ema_core.models import LoadedModel

OPTIONS: dict[str, dict[str, Any]] = {"kl-safe": {"batch_size": 2}}

MAKE: dict[str, Callable[[LoadedModel], None]] = {}
"""By defense: makes what it needs in the test's own home, small and at once."""
