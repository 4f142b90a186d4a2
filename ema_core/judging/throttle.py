"""How many questions are at the server at once: half of it after "too many", a little more with every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


class Throttle:
    """One for all that ask a server. ``limit`` is how many may be there now."""

    def __init__(self, start: int, most: int, ending: asyncio.Event) -> None:
        self.most, self.ending = most, ending
        self.limit = float(min(start, most))
        self.active = 0
        self.not_before = 0.0
        self._halved = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> float:
        """Waits for a place; returns when it was had."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.active < max(1, int(self.limit)))
            self.active += 1
        try:
            while (wait := self.not_before - time.monotonic()) > 0 and not self.ending.is_set():
                await asyncio.sleep(min(0.5, wait) + random.uniform(0, 0.05))
        except BaseException:
            await self._leave()
            raise
        return time.monotonic()

    async def __aexit__(self, *error: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        async with self._changed:
            self.active -= 1
            self._changed.notify_all()

    def answered(self) -> None:
        """One more at once for each round of answers."""
        self.limit = min(self.most, self.limit + 1 / max(1.0, self.limit))

    def too_many(self, asked_at: float, wait: float) -> None:
        """Half as many, once for all that were on their way together; nobody asks before ``wait`` is over."""
        self.not_before = max(self.not_before, time.monotonic() + wait)
        if asked_at >= self._halved:
            self.limit = max(1.0, self.limit / 2)
            self._halved = time.monotonic()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; None where it does not say."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        raw = headers.get(name, "").strip()
        try:
            return max(0.0, float(raw) * factor)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(raw).timestamp() - time.time())
        except (ValueError, TypeError, IndexError):
            continue
    return None


def backoff(tries: int, most: float = 30.0) -> float:
    """Seconds before the next try: doubling, with jitter, so that many do not come back together."""
    return random.uniform(0.5, 1.0) * min(most, 0.5 * 2.0**tries)
