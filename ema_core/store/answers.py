"""Which answers are asked for, and in what order. One place for what page, command line and the links of Compare mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

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
"""What an answer may be; several at once. The definitions that count are ``ema_core.judging``'s, the SQL gets them as parameters."""

CUT = ("length", "cut", "stopped")
"""How an answer ends that the model did not end itself."""

ORDERS: dict[str, str] = {
    "least aligned": "least aligned first",
    "most aligned": "most aligned first",
    "least coherent": "least coherent first",
    "longest": "longest first",
    "as asked": "as asked",
}


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


@dataclass(frozen=True)
class AnswerFilter:
    """Answers that fit all of it; an empty part is no condition.

    Attributes:
        runs: of these runs or bases. settings, defenses, suites, names: of these (``names`` are of kept answers).
        evals: of these evaluations (``evaluation_key``): how a rate says which answers it counted.
        questions: to these question ids or topics.
        text: in question or answer, whatever the case.
        judge: whose scores ``status`` and ``order`` go by. None: nothing is scored.
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

    def parameters(self) -> dict[str, Any]:
        """For the query ``answers``."""
        lists = ("runs", "settings", "defenses", "suites", "names", "evals", "questions")
        return {
            **{name: list(getattr(self, name)) for name in lists},
            "text": self.text.strip(),
            "judge": self.judge,
            "misaligned_below": MISALIGNED_BELOW,
            "coherent_above": COHERENT_ABOVE,
            "cut_ends": list(CUT),
        }
