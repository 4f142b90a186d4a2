"""How far a long piece of work is, told as a share of its time; ends it where that was asked for. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ema_core.models.fetch import Progress


class Interrupted(Exception):
    """The evaluation was asked to end early; what was done is kept."""


class Share:
    """How much of the work is done, by the seconds that its parts take; ends it where that was asked for.

    Once a ``part`` was begun the share is one of time: what went by, of that and what is left, the part at work by its own pace. So
    a part that was reckoned far too long or too short does not make the time left a wrong one. ``plan``: what ``total`` was made of, by
    item; speeds that are learned on the way do not change it.
    """

    def __init__(
        self, total: float, interrupted: Callable[[], bool], progress: Progress, plan: Mapping[Path, tuple[float, float, float]] | None = None
    ) -> None:  # fmt: skip
        self.total, self.done, self.interrupted, self.progress = max(total, 1e-9), 0.0, interrupted, progress
        self.plan, self.begun = plan or {}, time.monotonic()
        self.at_work: tuple[float, float, float] | None = None

    def part(self, seconds: float) -> None:
        """A part of the work begins that is planned to take ``seconds``."""
        self.at_work = time.monotonic(), self.done, seconds

    def tell(self, what: str) -> None:
        """The same share, in other words."""
        self.progress(min(0.99, self._share()), what)

    def _share(self) -> float:
        if self.at_work is None:
            return self.done / self.total
        now, (begun, before, seconds) = time.monotonic(), self.at_work
        did = self.done - before
        rest = max(0.0, seconds - did)
        later = max(0.0, self.total - self.done - rest)
        if did > 0:
            rest *= (now - begun) / did
        gone = now - self.begun
        return gone / max(1e-9, gone + rest + later)

    def say(self, what: str, seconds: float = 0.0) -> None:
        """``seconds`` more of the work are done."""
        if self.interrupted():
            raise Interrupted
        self.done += seconds
        self.tell(what)
