"""The guided tour: its stops and words from ``data/learn``, the study that it speaks of, what a person has done so far."""

from ema_core.tour.facts import Facts, facts_of, labels_and_scores, study_of
from ema_core.tour.progress import Progress, answered, finished, is_key, new_key, read, reset, reviews_as, visited
from ema_core.tour.stops import Check, Option, Stop, Term, read_stops, read_terms
from ema_core.tour.tasks import asked, met, names_in, number_of, right, tick

__all__ = [
    "Check",
    "Facts",
    "Option",
    "Progress",
    "Stop",
    "Term",
    "answered",
    "asked",
    "facts_of",
    "finished",
    "is_key",
    "labels_and_scores",
    "met",
    "names_in",
    "new_key",
    "number_of",
    "read",
    "read_stops",
    "read_terms",
    "reset",
    "reviews_as",
    "right",
    "study_of",
    "tick",
    "visited",
]
