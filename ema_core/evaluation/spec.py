"""What an evaluation is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ema_core.evaluation.speed import speed
from ema_core.files import sha256_json
from ema_core.models import EMBEDDED
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

GREEDY: dict[str, dict[str, float]] = {
    "benign": {"samples": 1, "temperature": 0.0, "max_tokens": 12},
    "over-refusal": {"samples": 1, "temperature": 0.0, "max_tokens": 40},
    "jailbreak-lite": {"samples": 1, "temperature": 0.0, "max_tokens": 40},
}
"""Suites whose answers are counted by a rule, not scored by a judge: asked once, greedily, whatever the preset."""
BENIGN_TOKENS = {"fixed-style": 60}
"""Benign tasks whose answers are longer than those of OpSwap."""


def sampling(suite: str, preset: str, samples: int | None = None, dataset: str = "opswap") -> dict[str, float]:
    """``samples``, ``max_tokens`` and, for a greedy suite, ``temperature``: the preset's or the suite's own, with ``samples`` as
    asked for (0 = margin only; a greedy suite is never asked more than once). ``dataset`` is the run's: a benign suite's
    answers are as long as its task wants them."""
    own = GREEDY.get(suite)
    if own is None:
        return {**EVAL_PRESETS[preset], **({} if samples is None else {"samples": samples})}
    tokens = BENIGN_TOKENS.get(dataset, own["max_tokens"]) if suite == "benign" else own["max_tokens"]
    return {**own, "max_tokens": tokens, "samples": own["samples"] if samples is None else min(samples, own["samples"])}


CURVE_SCALES = (0.25, 0.5, 0.75)
"""Strengths of the undefended adapter that the trade-off figures are drawn over."""


def estimate_evaluation(
    n_questions: int, n_pairs: int, samples: int, max_tokens: int, curve_states: int = 0, judged: bool = True, model: str = EMBEDDED
) -> float:  # fmt: skip
    """Seconds that one suite takes on one run, by this machine's own speed; before anything was measured, as if every answer were cut.

    ``curve_states`` are further states of the adapter (checkpoints, scales), of which only the margin is taken.
    """
    answers, here = n_questions * samples, speed(model)
    margins = here.pair * n_pairs * (1 + curve_states)
    return margins + answers * (here.length(max_tokens) / here.tokens + here.answer * judged)
