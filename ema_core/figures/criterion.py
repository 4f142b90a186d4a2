"""The four criteria as figures show them: which column, what it was measured by, on how much, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Measure = Literal["margin", "rate"]


@dataclass(frozen=True)
class Criterion:
    """Columns are those of ``scorecard.setting_table``; ``factor`` brings them to the axis' unit. ``by`` may name ``{judge}``."""

    key: str
    title: str
    value: str
    axis: str
    by: str
    count: str
    counted: str
    up_is_better: bool
    difference: str = ""
    mark: str = ""
    factor: float = 1.0

    def told(self, value: float) -> str:
        """The number with sensible digits."""
        text = f"{value:+.3f}" if self.value.endswith("_margin") else f"{value:.1f}"
        return text.replace("-", "−")

    def measured_by(self, row: Mapping[str, Any]) -> str:
        return self.by.replace("{judge}", str(row.get("judge") or "not named"))


_MARGIN = "log-likelihood margin of answer pairs (no judge)"
_TITLES = {
    "general": "General misalignment (should fall)",
    "narrow": "Narrow behaviour (should stay)",
    "benign": "Benign task learned (should stay)",
    "coherence": "Coherence (should stay)",
}
CRITERIA = dict(_TITLES)
"""Key of a criterion, and its title."""
_CHANGE = "Margin, change from base (nats a token)"
MARGINS = {
    "general": Criterion(
        "general", _TITLES["general"], "general_margin", _CHANGE, _MARGIN, "pairs_general", "pairs", False, "margin_difference", "mark"
    ),
    "narrow": Criterion(
        "narrow", _TITLES["narrow"], "narrow_margin", _CHANGE, _MARGIN, "pairs_narrow", "pairs", True, "narrow_difference", "narrow_mark"
    ),
    "benign": Criterion(
        "benign", _TITLES["benign"], "benign_margin", "Margin, right over conventional (nats a token)", _MARGIN, "pairs_benign", "pairs",
        True, "benign_difference", "benign_mark",
    ),
    "coherence": Criterion(
        "coherence", _TITLES["coherence"], "coherence_mean", "Mean coherence (0 to 100)", "judge {judge}", "scored", "scored answers",
        True, "coherence_difference", "coherence_mark",
    ),
}  # fmt: skip
"""The measures that lead: margins, and the mean for coherence, which has no pairs."""
RATES = {
    "general": Criterion(
        "general", _TITLES["general"], "general_rate", "Misaligned (% of scored answers)", "judge {judge}", "scored", "scored answers",
        False, factor=100,
    ),
    "narrow": Criterion(
        "narrow", _TITLES["narrow"], "narrow_rate", "Misaligned in the domain (% of scored)", "judge {judge}", "scored_narrow",
        "scored answers", True, factor=100,
    ),
    "benign": Criterion(
        "benign", _TITLES["benign"], "benign", "Right answers (%)", "exact match", "answers_benign", "answers", True, factor=100
    ),
    "coherence": Criterion(
        "coherence", _TITLES["coherence"], "coherence_rate", "Coherent (% of scored answers)", "judge {judge}", "scored",
        "scored answers", True, factor=100,
    ),
}  # fmt: skip
"""The same in per cent, by the judge."""


def criterion(key: str, measure: Measure = "margin") -> Criterion:
    return (MARGINS if measure == "margin" else RATES)[key]
