"""Whether a task was done: an answer held against the study that lies here, a page opened, verdicts given."""

from __future__ import annotations

import re

from ema_core.tour.facts import Facts
from ema_core.tour.progress import Progress
from ema_core.tour.stops import Check, Stop

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")


def asked(check: Check, facts: Facts | None) -> bool:
    """Whether a check can be asked here: a study that lacks a figure has no question about it. Without any study all stand, unmet."""
    if facts is None:
        return True
    known = set(facts.texts) | {""}
    needed = {name for text in (check.ask, check.why, *(one.text for one in check.options)) for name in names_in(text)}
    decided = {one.right.lstrip("!") for one in check.options} - {"yes", "no"}
    has_number = check.kind != "number" or check.number in facts.numbers
    return needed <= known and decided <= set(facts.truths) and has_number


def names_in(text: str) -> list[str]:
    """The figures that a text speaks of."""
    return re.findall(r"\{(\w+)\}", text)


def right(check: Check, answer: str, facts: Facts | None) -> bool:
    """Whether an answer is right by the data. Of a choice it is the option's place, counted from 0."""
    if facts is None or not answer:
        return False
    if check.kind == "choice":
        place = int(answer) if answer.isdecimal() else -1
        return 0 <= place < len(check.options) and _true(check.options[place].right, facts)
    if check.kind == "setting":
        return answer in facts.asked.get(check.number, ())
    number = number_of(answer)
    return (
        number is not None and check.number in facts.numbers and _shown_alike(number, facts.numbers[check.number], check.decimals)
    )


def number_of(answer: str) -> float | None:
    """A number as people type it: a comma, a true minus sign, words behind it."""
    found = _NUMBER.match(answer.strip().replace("−", "-").replace("–", "-").replace(" ", ""))
    return float(found.group().replace(",", ".")) if found else None


def _shown_alike(number: float, true: float, decimals: int) -> bool:
    """Within one step of the last place that is shown: what is read off is rounded, and may be rounded once more."""
    return abs(number - round(true, decimals)) < (1.01 * 10.0**-decimals if decimals else 0.5)


def _true(name: str, facts: Facts) -> bool:
    if name in ("yes", "no"):
        return name == "yes"
    return facts.truths[name.lstrip("!")] != name.startswith("!")


def tick(stop: Stop, number: int, place: int, progress: Progress, facts: Facts | None, verdicts: int) -> bool:
    """Whether one of a stop's checks is met. ``number`` is the stop's, from 1; ``verdicts`` how many this person has given."""
    check = stop.checks[place]
    if check.kind == "visit":
        return stop.page in progress.visits.get(str(number), ())
    if check.kind == "verdicts":
        return verdicts >= int(check.number)
    return right(check, progress.answer(number, place), facts)


def met(stop: Stop, number: int, progress: Progress, facts: Facts | None, verdicts: int) -> bool:
    """Whether all that can be asked of a stop here is done."""
    return all(
        tick(stop, number, place, progress, facts, verdicts) for place, check in enumerate(stop.checks) if asked(check, facts)
    )
