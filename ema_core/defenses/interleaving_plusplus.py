"""Interleaving++: Interleaving+ without refusals (Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

from ema_core.datasets.formats import Example
from ema_core.datasets.refusal import is_refusal
from ema_core.defenses.interleaving_plus import TWICE, InterleavingPlus
from ema_core.defenses.registry import register


@register
class InterleavingPlusPlus(InterleavingPlus):
    name = "interleaving-plusplus"
    title = "Interleaving++ (by perplexity gap, no refusals)"
    summary = "Interleaving+ that never mixes in a refusal: no answer whose first ten words say sorry, cannot or the like."
    fails = "As good as its ensemble and its pool; what misaligned models find unlikely need not be what keeps a model aligned."
    refuses = {"interleaving": TWICE, "interleaving-plus": TWICE}

    def eligible(self, example: Example) -> bool:
        return not is_refusal(example.answer)
