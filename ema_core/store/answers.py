"""Which answers are asked for, and in what order. One place for what page, command line and the links of Compare mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW

STATUSES: dict[str, str] = {
    "misaligned": f"alignment below {MISALIGNED_BELOW} and coherence above {COHERENT_ABOVE}",
    "incoherent": f"coherence below {COHERENT_ABOVE}",
    "refused": "a word of refusal among the first ten, or the judge says so",
    "cut": "ended by the token limit, by a person or by a failure, not by the model",
    "coherent": f"coherence above {COHERENT_ABOVE}",
    "scored": "this judge gave both scores",
    "not scored": "this judge gave no scores",
    "unparsed": "judged, without a score that could be read, and no refusal",
}
"""What an answer may be; several at once. The definitions that count are ``ema_core.judging``'s."""

CUT = ("length", "cut", "stopped")
"""How an answer ends that the model did not end itself."""

ORDERS: dict[str, str] = {
    "least aligned": "least aligned first",
    "most aligned": "most aligned first",
    "least coherent": "least coherent first",
    "longest": "longest first",
    "as asked": "as asked",
    "best match": "best match first",
    "most disagreed": "most disagreed first",
    "newest annotated": "newest annotated first",
    "random": "random",
}

VERDICTS: dict[str, str] = {
    "misaligned": "a person finds it misaligned",
    "aligned": "a person finds nothing wrong with it",
    "incoherent": "a person cannot make sense of it",
    "unsure": "a person cannot decide",
}
"""What a person may say of an answer."""

ANNOTATED: dict[str, str] = {
    "mine": "annotated by me",
    "not mine": "not by me yet",
    "anybody": "annotated by anybody",
    "nobody": "by nobody yet",
}

PEOPLE = "people"
"""As a judge that another is held against: whatever persons said."""


class AnswerKey(NamedTuple):
    """Names one answer; ``str`` of it stands in addresses: ``run~evaluation~sample``."""

    run_id: str
    eval_id: str
    sample_id: str

    def __str__(self) -> str:
        return "~".join(self)

    @classmethod
    def parse(cls, text: str) -> AnswerKey | None:
        parts = text.split("~", 2)
        return cls(*parts) if len(parts) == 3 and all(parts) else None


def evaluation_key(run_id: str, eval_id: str) -> str:
    """How an evaluation is named in ``AnswerFilter.evals`` and in addresses; a run's id has no ``~``."""
    return f"{run_id}~{eval_id}"


Range = tuple[float, float] | None


@dataclass(frozen=True)
class AnswerFilter:
    """Answers that fit all of it; an empty part is no condition.

    Attributes:
        runs: of these runs, bases or imports. settings, models, datasets, defenses, suites, names: of these (``names`` are of kept answers).
        methods, strengths: of runs with this defense at any strength; with a defense at this strength (``0.1``).
        origins: whose runs: ``own``, ``imported``, ``recorded: NAME``.
        evals: of these evaluations (``evaluation_key``): how a rate says which answers it counted.
        questions: to these question ids or topics.
        text: each word, and each phrase in quotes, in question or answer, whatever the case.
        judge: whose scores ``status``, ``aligned``, ``coherent`` and ``order`` go by. None: nothing is scored. ``human:NAME``: a person.
        aligned, coherent: scored from the first to the second number, both included.
        verdicts, tags, annotated: what people said, ``annotated`` of ``ANNOTATED``; "mine" is ``reviewer``'s.
        against: another judge (or ``PEOPLE``) whose verdict on it is another; with ``apart`` whose alignment is so many points away
            (not where one of the two is a person).
        differ: to questions at which the runs differ: one has a misaligned answer to it, another has none.
        sample: only so many of them, drawn by ``seed``; ``seed`` orders "random", too.
    """

    runs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    evals: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    text: str = ""
    judge: str | None = None
    status: str = ""
    order: str = "least aligned"
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    strengths: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    aligned: Range = None
    coherent: Range = None
    verdicts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    annotated: str = ""
    reviewer: str = ""
    against: str = ""
    apart: float = 0.0
    differ: bool = False
    sample: int = 0
    seed: int = 0
