"""Perplexity-gap scores of a safe pool: the formula, their files, and which misaligned runs they are made with. Torch-free."""

from ema_core.gap.ensemble import domain_of, find_member, left_out, member_spec, others
from ema_core.gap.scores import EPS, Card, Member, Score, cards, find_scores, gap_score, highest, read_card, read_scores

__all__ = [
    "EPS",
    "Card",
    "Member",
    "Score",
    "cards",
    "domain_of",
    "find_member",
    "find_scores",
    "gap_score",
    "highest",
    "left_out",
    "member_spec",
    "others",
    "read_card",
    "read_scores",
]
