"""Judges and what they say. Importing this package does not import torch."""

from ema_core.judging.check import CheckReport, check
from ema_core.judging.fit import FitReport, fit
from ema_core.judging.head import read_card
from ema_core.judging.judgment import (
    COHERENT_ABOVE,
    MISALIGNED_BELOW,
    Judge,
    Judgment,
    Status,
    is_incoherent,
    is_misaligned,
    is_refusal,
)
from ema_core.judging.probe import SHIPPED, ProbeJudge, known_judges, resolve
from ema_core.judging.published import Summary, judged_folder, read_all, read_judged, summary

__all__ = [
    "COHERENT_ABOVE",
    "MISALIGNED_BELOW",
    "SHIPPED",
    "CheckReport",
    "FitReport",
    "Judge",
    "Judgment",
    "ProbeJudge",
    "Status",
    "Summary",
    "check",
    "fit",
    "is_incoherent",
    "is_misaligned",
    "is_refusal",
    "judged_folder",
    "known_judges",
    "read_all",
    "read_card",
    "read_judged",
    "resolve",
    "summary",
]
