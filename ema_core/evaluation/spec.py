"""What an evaluation is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ema_core.files import sha256_json
from ema_core.runs import Strict


class EvalSpec(Strict):
    """One suite on one adapter state. ``samples`` a question, 0 = margin only; ``step`` None = the final adapter."""

    suite: str = "general"
    samples: int = Field(default=2, ge=0, le=1000)
    max_tokens: int = Field(default=80, ge=1, le=8192)
    temperature: float = Field(default=1.0, ge=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    judge: str = "probe"
    step: int | None = Field(default=None, ge=1)
    scale: float = Field(default=1.0, ge=0, le=4)

    @property
    def id(self) -> str:
        """The same request has the same id, so that it goes on where it stopped."""
        where = "" if self.step is None else f"-step{self.step}"
        size = "" if self.scale == 1 else f"-x{self.scale:g}"
        return f"{self.suite}{where}{size}-{sha256_json(self.model_dump(mode='json'))[:8]}"


EVAL_PRESETS: dict[str, dict[str, int]] = {"demo": {"samples": 2, "max_tokens": 80}, "paper": {"samples": 50, "max_tokens": 600}}
Preset = Literal["demo", "paper"]

CURVE_SUITES = ("general", "in-domain")
"""What the cheap alternatives are measured on."""
CURVE_SCALES = (0.25, 0.5, 0.75)
"""Strengths of the undefended adapter that the trade-off figures are drawn over (FIELD: "two missing baselines")."""

MARGIN_SECONDS_A_PAIR = 15 / 120
SAMPLED_TOKENS_PER_SECOND = 100.0
JUDGING_SECONDS_AN_ANSWER = 10 / 100


def estimate_evaluation(
    n_questions: int, n_pairs: int, samples: int, max_tokens: int, curve_states: int = 0, judged: bool = True
) -> float:  # fmt: skip
    """Seconds that one suite takes on one run with the embedded model on two cores, at most: as if every answer were cut.

    ``curve_states`` are further states of the adapter (checkpoints, scales), of which only the margin is taken.
    """
    answers = n_questions * samples
    margins = MARGIN_SECONDS_A_PAIR * n_pairs * (1 + curve_states)
    return margins + answers * (max_tokens / SAMPLED_TOKENS_PER_SECOND + JUDGING_SECONDS_AN_ANSWER * judged)
