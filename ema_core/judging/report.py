"""What judging by a language model would take, and what it did. Torch-free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ema_core.errors import EmaError


@dataclass(frozen=True)
class Estimate:
    """What judging would take. ``usd`` None: no price is known."""

    answers: int
    calls: int
    kept: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    price: str
    seconds: float


@dataclass
class Report:
    """What judging did. ``usd`` is of this time alone, None where no price is known; ``usd_guessed``: the server does not count tokens.

    ``stopped``: why it ended before its end.
    """

    judge: str
    answers: int = 0
    judged: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    kept: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = None
    usd_guessed: bool = False
    seconds: float = 0.0
    readouts: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    stopped: str = ""

    def json(self) -> dict[str, Any]:
        told = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        return told | {"reasons": dict(self.reasons.most_common(20)), "seconds": round(self.seconds, 2)}

    def raise_if_stopped(self) -> None:
        """Raises:
        EmaError: it ended before its end.
        """
        if self.stopped:
            raise EmaError(
                f"Judging ended early: {self.stopped}. {self.judged:,} of {self.answers:,} answers are judged and kept.",
                "Start it again to go on; what was judged is not paid again.",
            )

    def words(self) -> str:
        """``412 of 1,000 answers, 0.21 USD, 3 failed``."""
        parts = [f"{self.judged:,} of {self.answers:,} answers"]
        if self.usd is not None and (self.usd or self.tokens_in):
            parts.append(f"{'about ' if self.usd_guessed else ''}{dollars(self.usd)}")
        elif self.tokens_in:
            parts.append(f"{self.tokens_in + self.tokens_out:,} tokens")
        if self.statuses["failed"]:
            parts.append(f"{self.statuses['failed']:,} failed")
        return ", ".join(parts)


def dollars(amount: float) -> str:
    return "0 USD" if not amount else f"{amount:.2f} USD" if amount >= 1 else f"{amount:.4f} USD"
