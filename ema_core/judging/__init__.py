"""Judges and what they say. Importing this package does not import torch."""

from ema_core.judging.check import CheckReport, check
from ema_core.judging.fit import FitReport, fit
from ema_core.judging.head import held_out, read_card
from ema_core.judging.judge_id import LlmJudgeId, complete, is_llm
from ema_core.judging.judgment import (
    COHERENT_ABOVE,
    MISALIGNED_BELOW,
    Item,
    Judge,
    Judgment,
    Status,
    is_incoherent,
    is_misaligned,
    is_refusal,
    judgments_name,
)
from ema_core.judging.llm import LlmJudge, open_judge
from ema_core.judging.probe import SHIPPED, ProbeJudge, known_judges, read_name, resolve
from ema_core.judging.published import Summary, judged_folder, read_all, read_judged, summary

__all__ = [
    "COHERENT_ABOVE",
    "MISALIGNED_BELOW",
    "SHIPPED",
    "CheckReport",
    "FitReport",
    "Item",
    "Judge",
    "Judgment",
    "LlmJudge",
    "LlmJudgeId",
    "ProbeJudge",
    "Status",
    "Summary",
    "check",
    "complete",
    "fit",
    "held_out",
    "is_incoherent",
    "is_llm",
    "is_misaligned",
    "is_refusal",
    "judged_folder",
    "judgments_name",
    "known_judges",
    "open_judge",
    "read_all",
    "read_card",
    "read_judged",
    "read_name",
    "resolve",
    "summary",
]
