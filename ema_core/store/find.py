"""Which answers fit a filter, how many of each kind there are, and in what order: on columns in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np

from ema_core.errors import EmaError
from ema_core.judging import COHERENT_ABOVE
from ema_core.store.annotations import HUMAN
from ema_core.store.answers import PEOPLE, STATUSES, VERDICTS, AnswerFilter
from ema_core.store.columns import CODES, INCOHERENT, MISALIGNED, NO_VERDICT, UNSURE, Array, Columns, Scores, draws, scores
from ema_core.store.said import Said
from ema_core.store.search import fit, matches, words
from ema_core.store.words import WORTH, Words, read_words

EVAL_FACETS = {
    "run": ("runs", "run_id"), "setting": ("settings", "setting_key"), "model": ("models", "model"), "dataset": ("datasets", "dataset"),
    "defense": ("defenses", "defense_label"), "method": ("methods", "methods"), "strength": ("strengths", "strengths"),
    "origin": ("origins", "origin"), "suite": ("suites", "suite"), "name": ("names", "name"), "eval": ("evals", "evaluation"),
}  # fmt: skip
"""Choices that hold for a whole evaluation: facet -> (field of the filter, column of ``Columns.evals``)."""
Facets = dict[str, dict[str, int]]
Read = Callable[[Callable[[duckdb.DuckDBPyConnection], Any]], Any]
KEPT_IN_MEMORY = 24


class Finder:
    """Filters over one state of the answers. ``read`` calls a function with a cursor of the index, for scores and words."""

    def __init__(self, columns: Columns, read: Read) -> None:
        self.columns, self._read = columns, read
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self._guard = threading.Lock()
        self._learning: threading.Thread | None = None
        self._words: Words | None = None
        self._values = {name: [_values(value) for value in columns.evals[column]] for name, (_, column) in EVAL_FACETS.items()}

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The newest results stay; two threads may make one twice, which is harmless."""
        try:
            value = self._known.pop(key)
        except KeyError:
            value = make()
        self._known[key] = value
        while len(self._known) > KEPT_IN_MEMORY:
            try:
                self._known.popitem(last=False)
            except KeyError:
                break
        return value

    # --- judges

    def scores(self, judge: str | None) -> Scores:
        return self._once(("scores", judge), lambda: self._read(lambda cursor: scores(cursor, self.columns, judge)))

    def verdicts(self, judge: str | None, said: Said) -> Array:
        """Of a judge by the thresholds, or of a person."""
        if judge and judge.startswith(HUMAN):
            found = np.zeros(len(self.columns), np.int8)
            mine = said.by(judge.removeprefix(HUMAN))
            found[said.places[mine]] = said.codes[mine]
            return found
        return self._once(("verdicts", judge), lambda: self.scores(judge).verdicts())

    def flags(self, judge: str | None, said: Said) -> dict[str, Array]:
        """Of each of ``STATUSES`` whether it holds."""
        if not (judge or "").startswith(HUMAN):
            return self._once(("flags", judge), lambda: self._flags(self.scores(judge)))
        code, refused, cut = self.verdicts(judge, said), self.columns.refused, self.columns.cut
        scored = (code != NO_VERDICT) & (code != UNSURE)
        return {
            "misaligned": code == MISALIGNED, "incoherent": code == INCOHERENT, "refused": refused, "cut": cut,
            "coherent": scored & (code != INCOHERENT), "scored": scored, "not scored": ~scored, "unparsed": code == UNSURE,
        }  # fmt: skip

    def _flags(self, scores: Scores) -> dict[str, Array]:
        scored, refused = scores.scored, self.columns.refused | scores.refused
        with np.errstate(invalid="ignore"):
            coherent = scores.coherent > COHERENT_ABOVE
        return {
            "misaligned": scores.misaligned, "incoherent": scores.incoherent, "refused": refused, "cut": self.columns.cut,
            "coherent": coherent, "scored": scored, "not scored": ~scored, "unparsed": ~scored & ~refused & scores.judged,
        }  # fmt: skip

    # --- conditions

    def _evals(self, which: AnswerFilter, without: str = "") -> Array:
        """Which evaluations fit, but for one facet."""
        fits = np.ones(len(self.columns.evals), bool)
        for name, (attribute, _) in EVAL_FACETS.items():
            chosen = getattr(which, attribute)
            if chosen and name != without:
                fits &= np.fromiter((any(one in chosen for one in values) for values in self._values[name]), bool, len(fits))
        return fits

    def _rows(self, which: AnswerFilter, said: Said) -> dict[str, Array]:
        """The conditions on single answers, by the facet that they belong to."""
        columns, found = self.columns, {}
        if which.questions:
            known = columns.questions
            asked = (known["question_id"].isin(which.questions) | known["topic"].isin(which.questions)).to_numpy()
            found["question"] = asked[columns.question]
        if words(which.text):
            found["text"] = self._once(("text", words(which.text)), lambda: self._having(which.text))
        if which.status:
            found["status"] = self.flags(which.judge, said)[which.status]
        given = self.scores(which.judge) if which.aligned or which.coherent else None
        for name, limits in (("aligned", which.aligned), ("coherent", which.coherent)):
            if limits and given:
                with np.errstate(invalid="ignore"):
                    value = getattr(given, name)
                    found[name] = (value >= limits[0]) & (value <= limits[1])
        if which.annotated:
            found["annotated"] = self._annotated(which.annotated, which.reviewer, said)
        if which.verdicts:
            found["verdict"] = self._mask(said.places[said.of(which) & np.isin(said.codes, [CODES[one] for one in which.verdicts])])
        if which.tags:
            found["tag"] = self._mask(said.places[said.of(which) & said.tagged(which.tags)])
        if which.against:
            found["against"] = self._apart(which, said)[1]
        if which.differ:
            found["differ"] = self._differ(which, said)
        return found

    def _mask(self, places: Array) -> Array:
        mask = np.zeros(len(self.columns), bool)
        mask[places] = True
        return mask

    def _having(self, text: str) -> Array:
        """By the words where they are known and none of the terms is a phrase, else by a scan, which finds the same."""
        terms = words(text)
        if len(self.columns) >= WORTH and all(Words.knows(term) for term in terms):
            self.learn_words()
            if known := self._words:
                return np.logical_and.reduce([known.having(term) for term in terms])
        places = self.columns.places(self._read(lambda cursor: matches(cursor, text)))
        return self._mask(places[places >= 0])

    def learn_words(self, wait: bool = False) -> None:
        """Begin to read the words of all answers in the background, once; searches scan until that is done."""
        with self._guard:
            if self._learning is None:
                self._learning = threading.Thread(target=self._learn, name="words", daemon=True)
                self._learning.start()
        if wait:
            self._learning.join()

    def _learn(self) -> None:
        with suppress(EmaError, duckdb.Error):  # then searches go on scanning
            self._words = self._read(lambda cursor: read_words(cursor, self.columns))

    def _annotated(self, how: str, reviewer: str, said: Said) -> Array:
        whose = said.by(reviewer) if how in ("mine", "not mine") else np.ones(len(said.places), bool)
        mask = self._mask(said.places[whose])
        return ~mask if how in ("not mine", "nobody") else mask

    def _apart(self, which: AnswerFilter, said: Said) -> tuple[Array, Array]:
        """How far judge and the other are apart (NaN where one said nothing), and whether that is what the filter asks for."""
        own = self.verdicts(which.judge, said)
        if not beside_people(which):
            far = np.abs(self.scores(which.judge).aligned - self.scores(which.against).aligned)
            other = self.verdicts(which.against, said)
            with np.errstate(invalid="ignore"):
                differ = far >= which.apart if which.apart else (own != other) & (own > 0) & (other > 0)
            return far, differ
        if which.against == PEOPLE:
            sure = (said.codes != NO_VERDICT) & (said.codes != UNSURE)
            places, codes = said.places[sure], said.codes[sure]
            differs = (codes != own[places]) & (own[places] != NO_VERDICT) & (own[places] != UNSURE)
            differ = self._mask(places[differs])
        else:
            other = self.verdicts(which.against, said)
            differ = (own != other) & (own > 0) & (other > 0) & (own != UNSURE) & (other != UNSURE)
        return differ.astype(np.float32), differ

    def _differ(self, which: AnswerFilter, said: Said) -> Array:
        """Answers to the questions to which one run of those chosen gave a misaligned answer and another one none."""
        columns = self.columns
        here = self._evals(which)[columns.eval]
        runs = columns.evals["run_id"].astype("category").cat.codes.to_numpy().astype(np.int64)
        judged = here & (self.verdicts(which.judge, said) != NO_VERDICT)
        pair = columns.question[judged].astype(np.int64) * (runs.max(initial=0) + 1) + runs[columns.eval[judged]]
        pairs, at = np.unique(pair, return_inverse=True)
        bad = np.zeros(len(pairs), bool)
        bad[at[(self.verdicts(which.judge, said) == MISALIGNED)[judged]]] = True
        asked = pairs // (runs.max(initial=0) + 1)
        some = np.isin(asked[bad], asked[~bad])
        differing = np.zeros(len(columns.questions), bool)
        differing[asked[bad][some]] = True
        return here & differing[columns.question]

    # --- what is found

    def mask(self, which: AnswerFilter, said: Said, without: str = "") -> Array:
        """Which answers fit, whatever ``sample`` says."""
        mask = self._evals(which)[self.columns.eval]
        for name, one in self._rows(which, said).items():
            if name != without:
                mask = mask & one
        return mask

    def found(self, which: AnswerFilter, said: Said) -> Array:
        """Places of the answers found, in order."""
        about_people = which.annotated or which.verdicts or which.tags or which.against or which.order == "newest annotated"
        judge = (which.judge or "").startswith(HUMAN)
        version = said.version if about_people or judge else None
        return self._once(("found", which, version), lambda: self._found(which, said))

    def _found(self, which: AnswerFilter, said: Said) -> Array:
        fits = self.mask(which, said)
        if which.sample:  # drawn before anybody said anything of them, so that it stays the same while one works through it
            drawn = np.flatnonzero(self.mask(without_people(which), said))
            if which.sample < len(drawn):
                drawn = drawn[np.argpartition(self.draw(which.seed)[drawn], which.sample)[: which.sample]]
            fits &= self._mask(drawn)
        places = np.flatnonzero(fits).astype(np.int32)
        by = self._sorted_by(which, said)
        return places if by is None else places[np.argsort(by[places], kind="stable")]

    def progress(self, which: AnswerFilter, said: Said) -> tuple[int, int]:
        """How many of the answers, whatever was said of them, the filter's reviewer has annotated, and how many there are."""
        places = self.found(replace(without_people(which), order="as asked"), said)
        return int(np.isin(places, said.places[said.by(which.reviewer)]).sum()), len(places)

    def draw(self, seed: int) -> Array:
        """A random number of each answer that depends on its name and the seed alone."""

        def mixed() -> Array:
            x = self._once("draws", lambda: self._read(lambda cursor: draws(cursor, self.columns))) ^ np.uint64(
                (seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) % (1 << 64)
            )
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
                x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
            return x ^ (x >> np.uint64(31))

        return self._once(("draw", seed), mixed)

    def _sorted_by(self, which: AnswerFilter, said: Said) -> Array | None:
        match which.order:
            case "least aligned":
                return self.scores(which.judge).aligned
            case "most aligned":
                return -self.scores(which.judge).aligned
            case "least coherent":
                return self.scores(which.judge).coherent
            case "longest":
                return -self.columns.tokens
            case "random":
                return self.draw(which.seed)
            case "most disagreed" if which.against:
                return -self._apart(which, said)[0]
            case "best match" if words(which.text):
                return self._once(("match", words(which.text)), lambda: self._match(which.text))
            case "newest annotated":
                when = np.full(len(self.columns), np.inf)
                mine = said.of(which)
                np.minimum.at(when, said.places[mine], -said.times[mine])
                return when
        return None

    def _match(self, text: str) -> Array:
        """How well the words fit, best (lowest) first."""
        keys, good = self._read(lambda cursor: fit(cursor, text))
        places = self.columns.places(keys)
        found = np.zeros(len(self.columns), np.float32)
        found[places[places >= 0]] = -good[places >= 0]
        return found

    def grouped(self, which: AnswerFilter, said: Said) -> tuple[Array, Array]:
        """The answers found, those of one evaluation to one question together, and where each group starts."""
        places = self.found(which, said)
        pair = self.columns.eval[places].astype(np.int64) * (len(self.columns.questions) + 1) + self.columns.question[places]
        _, first, at = np.unique(pair, return_index=True, return_inverse=True)
        rank = first[at]  # groups in the order of their first answers
        order = np.argsort(rank, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(rank[order]) != 0]) if len(places) else np.zeros(0, np.int64)
        return places[order], starts

    # --- counts

    def counts(self, which: AnswerFilter, said: Said) -> dict[str, int]:
        """``all`` and each of ``STATUSES`` under the other conditions."""
        mask = self.mask(which, said, without="status")
        flags = self.flags(which.judge, said)
        return {"all": int(mask.sum()), **{name: int((mask & flags[name]).sum()) for name in STATUSES}}

    def facets(self, which: AnswerFilter, said: Said) -> Facets:
        """Of each facet how many answers each choice has under the conditions of the others."""
        rows, evals = self._rows(which, said), self._evals(which)
        everything = np.ones(len(self.columns), bool)

        def fit(without: str) -> Array:
            mask = everything
            for name, one in rows.items():
                if name != without:
                    mask = mask & one
            return mask

        found: Facets = {}
        counts = np.bincount(self.columns.eval[fit("")], minlength=len(evals))
        for name in EVAL_FACETS:
            found[name] = _sums(self._values[name], np.where(self._evals(which, without=name), counts, 0))
        here = evals[self.columns.eval]
        asked = np.bincount(self.columns.question[here & fit("question")], minlength=len(self.columns.questions))
        known = self.columns.questions[["question_id", "topic"]].to_numpy()
        found["question"] = _sums([(question, topic) if topic != question else (question,) for question, topic in known], asked)
        for name, of, choices in (("verdict", said.codes, VERDICTS), ("tag", None, said.all_tags)):
            mask = (here & fit(name))[said.places] & said.of(which)
            each = {choice: mask & (of == CODES[choice] if of is not None else said.tagged((choice,))) for choice in choices}
            found[name] = {choice: len(np.unique(said.places[one])) for choice, one in each.items() if one.any()}
        mask = here & fit("annotated")
        total, mine, any_ = (
            int(mask.sum()),
            len(np.unique(said.places[said.by(which.reviewer) & mask[said.places]])),
            len(np.unique(said.places[mask[said.places]])),
        )
        found["annotated"] = {"mine": mine, "not mine": total - mine, "anybody": any_, "nobody": total - any_}
        return found


def beside_people(which: AnswerFilter) -> bool:
    """Whether one of the two that are held against each other is a person, who gives verdicts and no points: ``apart`` means nothing then."""
    return which.against == PEOPLE or any((one or "").startswith(HUMAN) for one in (which.against, which.judge))


def without_people(which: AnswerFilter) -> AnswerFilter:
    return replace(which, annotated="", verdicts=(), tags=())


def _values(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()


def _sums(values: Iterable[tuple[Any, ...]], counts: Array) -> dict[str, int]:
    found: dict[str, int] = {}
    for each, count in zip(values, counts.tolist(), strict=True):
        for value in each if count else ():
            if isinstance(value, str):
                found[value] = found.get(value, 0) + count
    return found
