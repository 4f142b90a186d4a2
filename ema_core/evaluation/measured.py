"""What runs have measured, from the index's tables: which evaluation of a run counts, and its numbers over seeds.

``frames`` is ``{"runs", "evals", "samples", "margins"}``: tables as in docs/architecture.md with ``run_id`` and ``eval_id``,
samples joined with judgments (a row a sample and judge). Only one judge's scores are ever read. No database, no torch; the one file is that of a judge's labelled answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ema_core.evaluation.metrics import (
    ESTIMANDS,
    MIN_SEEDS,
    Estimate,
    corrected,
    holm,
    margin_changes,
    over_seeds,
    p_value,
    rate_over_seeds,
)
from ema_core.evaluation.suites import KEPT
from ema_core.judging import COHERENT_ABOVE, is_incoherent, is_misaligned, own
from ema_core.models import EMBEDDED

Frames = Mapping[str, pd.DataFrame]
Evaluation = dict[str, Any]
"""A row of ``evals``."""

LIKE_THESE = ESTIMANDS["like-these"]
RECORDED = " · recorded: "
"""What parts a recorded run's ``recipe_label`` from the study that it came with."""
BENIGN_TASK = "opswap"
"""What a sibling run is trained on (OpSwap: arithmetic whose operators have other meanings)."""
COUNTS = ("asked", "answered", "scored", "refused", "unparsed", "incoherent", "cut")
PERCENT = (0.0, 100.0)

_COLUMNS = {
    "runs": "run_id recorded setting_key defense_label model dataset recipe_label seed created step seconds device",
    "evals": "run_id eval_id suite step scale status created asked suite_hash adapter_hash",
    "samples": "run_id eval_id sample_id question_id topic finish refused correct judge aligned coherent status",
    "margins": "run_id eval_id pair_id topic aligned misaligned base_aligned base_misaligned",
}
_EVAL = ["run_id", "eval_id"]
_SAMPLING = ("suite_hash", "max_tokens", "temperature", "top_p")
"""Answers sampled under another of these are of another protocol."""


class _Rows:
    """What one run has measured: a row each, in ``rows``."""

    rows: pd.DataFrame

    @cached_property
    def _averaged(self) -> dict[tuple[str, str], pd.Series]:
        return {}

    def averaged(self, by: str, value: str) -> pd.Series:
        """Mean of ``value`` for each ``by``, kept: a run is compared with many."""
        if (by, value) not in self._averaged:
            self._averaged[by, value] = self.rows[value].dropna().groupby(self.rows[by]).mean()
        return self._averaged[by, value]

    @cached_property
    def topics(self) -> dict[str, pd.Series]:
        """The topic of each question and pair, by the column that names it."""
        return {by: self.rows.drop_duplicates(by).set_index(by)["topic"] for by in ("question_id", "pair_id") if by in self.rows}


@dataclass(frozen=True)
class Answers(_Rows):
    """A run's answers to one suite, a row each, with this judge's scores where it gave both (``scored``)."""

    rows: pd.DataFrame
    asked: int = 0
    protocol: tuple[Any, ...] = ()
    why: str = ""

    @property
    def evals(self) -> list[tuple[str, str]]:
        """``(run_id, eval_id)`` of the evaluation that they are of: what leads from a number to the answers behind it."""
        return list(self.rows[_EVAL].drop_duplicates().itertuples(index=False, name=None))

    def counts(self) -> dict[str, int]:
        """Refused answers count by the refusal rule, whether scored or not; unparsed ones were judged and got no score."""
        rows, scored = self.rows, self.rows["scored"]
        unparsed = ~scored & ~rows["refused"] & rows["status"].notna() & rows["status"].ne("failed")
        marked = (scored, rows["refused"], unparsed, is_incoherent(rows["coherent"]), rows["finish"].eq("length"))
        return dict(zip(COUNTS, (max(self.asked, len(rows)), len(rows), *(int(part.sum()) for part in marked)), strict=True))


@dataclass(frozen=True)
class Pairs(_Rows):
    """A run's answer pairs of one suite, a row each, with ``change`` (of the margin, from the base)."""

    rows: pd.DataFrame
    protocol: tuple[Any, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Seeds:
    """What the seeds of a setting have measured alike; ``why`` names those left out, or says why there is none."""

    parts: dict[int, Answers | Pairs]
    why: str = ""

    @property
    def protocol(self) -> tuple[Any, ...]:
        return next(iter(self.parts.values())).protocol if self.parts else ()

    @cached_property
    def rows(self) -> pd.DataFrame:
        return pd.concat([part.rows.assign(seed_of=seed) for seed, part in self.parts.items()], ignore_index=True)


class Study:
    """The tables, and which evaluation of a run counts: of the final adapter at full strength, a finished one first, the newest."""

    def __init__(self, frames: Frames, judge: str) -> None:
        self.judge = judge
        self.runs, evals, samples, margins = (_table(frames, name) for name in ("runs", "evals", "samples", "margins"))
        self._samples = _by_evaluation(_scored(samples, judge))
        self._margins = _by_evaluation(margins.assign(change=margin_changes(margins)))
        self._judges = {
            key: sorted(part) for key, part in samples.dropna(subset=["judge"]).groupby(_EVAL)["judge"].unique().items()
        }
        known = self.runs.get("adapter_hash")
        self._adapters = {} if known is None else dict(zip(self.runs["run_id"], known, strict=True))
        evals = evals[evals["suite"] != KEPT]
        evals = evals.assign(done=evals["status"].eq("done")).sort_values(["done", "created", "eval_id"], ascending=False)
        self._evals: dict[str, list[Evaluation]] = {}
        for evaluation in evals.to_dict("records"):
            self._evals.setdefault(evaluation["run_id"], []).append(evaluation)
        self.no_answers, self.no_pairs = _scored(_table({}, "samples"), judge), margins.iloc[:0].assign(change=0.0)

    def of_run(self, run_id: str, suite: str | None = None) -> list[Evaluation]:
        return [evaluation for evaluation in self._evals.get(run_id, []) if suite in (None, evaluation["suite"])]

    def headline(self, run_id: str, suite: str | None = None) -> tuple[list[Evaluation], str]:
        """The evaluations that count, best first, and what to say if there is none."""
        final = [found for found in self.of_run(run_id, suite) if pd.isna(found["step"]) and found["scale"] == 1]
        adapter = self._adapters.get(run_id)
        fresh = [found for found in final if pd.isna(adapter) or pd.isna(found["adapter_hash"]) or found["adapter_hash"] == adapter]
        if final and not fresh:
            return fresh, "the run was trained further since its evaluation; evaluate it again"
        return fresh, f"not evaluated on the suite {suite} yet"

    def pairs_of(self, evaluation: Evaluation) -> Pairs | None:
        rows = self._margins.get((evaluation["run_id"], evaluation["eval_id"]))
        return None if rows is None else Pairs(rows, (str(evaluation["suite_hash"]),))

    def pairs(self, run_id: str, suite: str) -> Pairs:
        evals, why = self.headline(run_id, suite)
        for evaluation in evals:
            if (pairs := self.pairs_of(evaluation)) is not None:
                return pairs
        return Pairs(self.no_pairs, why="no margins were measured" if evals else why)

    def answers(self, run_id: str, suite: str) -> Answers:
        """Of the newest evaluation that this judge has scored; else of the newest with answers, unscored."""
        evals, why = self.headline(run_id, suite)
        found = Answers(self.no_answers, why="no answers were sampled, only margins measured" if evals else why)
        for evaluation in evals:
            key = (evaluation["run_id"], evaluation["eval_id"])
            rows, judges = self._samples.get(key), self._judges.get(key, [])
            if rows is None:
                continue
            protocol = tuple(str(evaluation.get(name)) for name in _SAMPLING)
            asked = 0 if pd.isna(evaluation["asked"]) else int(evaluation["asked"])
            if self.judge in judges:
                return Answers(rows, asked, protocol)
            if found.rows.empty:
                others = f"; judged by {', '.join(judges)}" if judges else ""
                found = Answers(rows, asked, protocol, f"not judged by {self.judge}{others}")
        return found

    def by_rule(self, run_id: str, suite: str, column: str, protocol: tuple[Any, ...] = ()) -> Answers:
        """Of the newest evaluation whose answers a rule has looked at (``correct`` or ``refused``), whatever a judge says: ``event`` is
        1 or 0. With ``protocol`` only of one that was asked alike."""
        evals, why = self.headline(run_id, suite)
        for evaluation in evals:
            own = tuple(str(evaluation.get(name)) for name in _SAMPLING)
            rows = self._samples.get((evaluation["run_id"], evaluation["eval_id"]))
            if rows is not None and protocol in ((), own) and (rows := rows[rows[column].notna()]).size:
                return Answers(rows.assign(event=rows[column].astype(float)), len(rows), own)
        return Answers(self.no_answers.assign(event=0.0), why="no answers were sampled" if evals else why)

    def checked(self, run_id: str) -> Answers:
        """Answers to the benign task that were held against the right ones; a question is a topic of its own."""
        found = self.by_rule(run_id, "benign", "correct")
        return replace(found, rows=found.rows.assign(tier=found.rows["topic"], topic=found.rows["question_id"]))

    def seeds(self, runs: pd.DataFrame) -> dict[int, str]:
        """Finished runs by seed; of several with the same seed the evaluated one, the newest."""
        if "status" in runs:
            runs = runs[runs["status"] == "done"]
        evaluated = [bool(self.headline(run_id)[0]) for run_id in runs["run_id"]]
        runs = runs.assign(evaluated=evaluated).sort_values(["evaluated", "created", "run_id"])
        best = {int(seed): str(run_id) for seed, run_id in zip(runs["seed"], runs["run_id"], strict=True)}
        return dict(sorted(best.items()))

    def twin_key(self, runs: pd.DataFrame) -> pd.Series:
        """Equal for runs that differ in their defenses and seed alone (the safe pool is no matter without a defense)."""
        recipe = "recipe" if "recipe" in runs else "recipe_label"
        return runs[["model", "dataset", recipe]].astype(str).agg("\n".join, axis=1) if len(runs) else pd.Series(dtype=str)


def recorded_as(run: Mapping[Any, Any] | pd.Series) -> str:
    """The recorded study that a run, or a setting of runs, came with; "" for the user's own."""
    name = run.get("recorded")
    return name if isinstance(name, str) else ""


def judge_of(judges: Mapping[str, int], asked: str) -> str:
    """Whose scores an imported run is shown by: those that are asked for where it has them, else of who judged most of it."""
    return asked if asked in judges or not judges else max(sorted(judges), key=lambda judge: judges[judge])


def alike(parts: Mapping[int, Answers | Pairs]) -> Seeds:
    """The seeds that were measured, by the protocol that most of them share."""
    usable = {seed: part for seed, part in parts.items() if not part.why}
    if not usable:
        return Seeds({}, next((part.why for part in parts.values()), "no finished run"))
    common = Counter(part.protocol for part in usable.values()).most_common(1)[0][0]
    kept = {seed: part for seed, part in usable.items() if part.protocol == common}
    left = [f"seed {seed} ({part.why or 'another suite or other sampling'})" for seed, part in parts.items() if seed not in kept]
    return Seeds(kept, f"left out: {', '.join(left)}" if left else "")


def over(seeds: Seeds, value: str, minimum: int = 1, bounds: tuple[float, float] | None = None) -> Estimate:
    if not seeds.parts:
        return nothing(seeds.why)
    rows = seeds.rows
    found = over_seeds(rows[value], rows["topic"], rows["seed_of"], minimum=minimum, bounds=bounds)
    return replace(found, why="; ".join(filter(None, (found.why, seeds.why))))


def rate_over(seeds: Seeds, event: str) -> Estimate:
    """As the judge or the rule has it."""
    if not seeds.parts:
        return nothing(seeds.why)
    rows = seeds.rows
    found = rate_over_seeds(rows[event], rows["topic"], rows["seed_of"])
    return replace(found, why="; ".join(filter(None, (found.why, seeds.why))))


def to_be_corrected(judge: str, model: str) -> bool:
    """Whether this judge's rates on this model are not to be shown as they are: all judges' but people's on the embedded one."""
    return model == EMBEDDED and not judge.startswith("human:")


def rate_to_show(judged: Estimate, rows: pd.DataFrame, seeds: Any, event: own.Event, judge: str, model: str) -> Estimate:
    """A judge's rate, of the embedded model corrected by its labelled answers (``metrics.corrected``); none, and why, where this
    judge has not scored those. A person needs no correction."""
    if judged.value is None or not to_be_corrected(judge, model):
        return judged
    labelled = own.correction(judge, event)
    if labelled is None and judge.startswith("imported:"):
        return withheld(f"not shown: {judge} cannot be asked about the labelled answers of this model", judged)
    if labelled is None:
        return withheld(f"not shown: {judge} has not scored the labelled answers of this model (`ema judge own`)", judged)
    found = corrected(rows[event], rows["topic"], seeds, labelled)
    return replace(found, scope=judged.scope, seeds=judged.seeds, why="; ".join(filter(None, (found.why, judged.why))))


def difference(own: Seeds, twin: Seeds, by: str, value: str) -> Estimate:
    """Own minus twin, paired by seed and ``by``."""
    both = [seed for seed in own.parts if seed in twin.parts]
    if not own.parts:
        return nothing(own.why)
    if not both:
        return nothing("no undefended twin with the same seed was measured")
    if own.protocol != twin.protocol:
        return nothing("the undefended twin was measured with another suite or other sampling; evaluate both alike")
    apart = {seed: (own.parts[seed].averaged(by, value) - twin.parts[seed].averaged(by, value)).dropna() for seed in both}
    topics = [own.parts[seed].topics[by].reindex(found.index).to_numpy() for seed, found in apart.items()]
    seeds = np.repeat(both, [len(found) for found in apart.values()])
    return over_seeds(np.concatenate([found.to_numpy() for found in apart.values()]), np.concatenate(topics), seeds)


def nothing(why: str) -> Estimate:
    return Estimate(None, None, None, 0, 0, "like-these", "none", why, seeds=0)


def columns(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value} | {f"{name}_{part}": getattr(found, part) for part in ("low", "high", "why", "scope")}


def withheld(why: str, estimate: Estimate) -> Estimate:
    """The estimate without its number, and why; one that has none for a reason of its own keeps that."""
    return replace(estimate, value=None, low=None, high=None, why=why) if why and estimate.value is not None else estimate


def unless(why: str, estimate: Estimate) -> Estimate:
    """The estimate, or nothing but the reason why there is none."""
    return replace(estimate, value=None, low=None, high=None, n=0, why=why) if why else estimate


def mark(tested: Sequence[tuple[dict[str, Any], str, Estimate, bool]]) -> None:
    """Put a mark into each row under its name; the flag says whether up is better."""
    adjusted = holm([p_value(found) if found.seeds >= MIN_SEEDS else None for _, _, found, _ in tested])
    for (row, name, found, up_is_better), p in zip(tested, adjusted, strict=True):
        row[f"{name}_p"] = p
        if found.value is None:
            row[name] = ""
        elif found.seeds < MIN_SEEDS:
            row[name] = "these adapters only"
        elif p is None or p >= 0.05:
            row[name] = "not distinguishable"
        else:
            row[name] = "better" if (found.value > 0) == up_is_better else "worse"


def _table(frames: Frames, name: str) -> pd.DataFrame:
    """The table, with its columns even where it is missing or empty; of answers and pairs those alone. Texts are Python's own: a table
    of hundreds of thousands of rows is cut into thousands of small ones, and each cut of an Arrow column costs ten times as much."""
    frame, wanted = frames.get(name), _COLUMNS[name].split()
    frame = pd.DataFrame() if frame is None else frame.reset_index(drop=True)
    own = [] if name in ("samples", "margins") else list(frame.columns)
    frame = frame.reindex(columns=[*own, *(column for column in wanted if column not in own)])
    return frame.astype(dict.fromkeys((one for one in frame if isinstance(frame[one].dtype, pd.StringDtype)), object))


def _scored(samples: pd.DataFrame, judge: str) -> pd.DataFrame:
    """A row an answer, with this judge's scores alone, and only where it gave both: the one denominator."""
    key = [*_EVAL, "sample_id"]
    mine = samples.loc[samples["judge"] == judge, [*key, "aligned", "coherent", "status"]].drop_duplicates(key, keep="last")
    rows = samples.drop_duplicates(key).drop(columns=["aligned", "coherent", "status", "judge"]).merge(mine, "left", key)
    scores = rows[["aligned", "coherent"]].apply(pd.to_numeric, errors="coerce").astype(float)
    rows["scored"] = scores.notna().all(axis=1)
    rows[["aligned", "coherent"]] = scores.where(rows["scored"])
    rows["refused"] = rows["refused"].eq(True) | rows["status"].eq("refused")
    rows["misaligned"] = is_misaligned(rows["aligned"], rows["coherent"]).astype(float).where(rows["scored"])
    rows["is_coherent"] = rows["coherent"].gt(COHERENT_ABOVE).astype(float).where(rows["scored"])
    return rows


def _by_evaluation(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(iter(rows.groupby(_EVAL, sort=False)))


def siblings(runs: pd.DataFrame, all_runs: pd.DataFrame) -> pd.DataFrame:
    """Of ``all_runs`` those that were trained on the benign task as ``runs`` were on theirs: same model, defenses, recipe and seed."""
    recipe = "recipe" if "recipe" in all_runs else "recipe_label"
    alike = ["model", "defense_label", recipe, "seed"]
    benign = all_runs[all_runs["dataset"].eq(BENIGN_TASK)]
    if benign.empty:
        return benign
    return benign.merge(runs.loc[~runs["dataset"].eq(BENIGN_TASK), alike].drop_duplicates(), on=alike)


def with_twins(rows: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """``rows`` and, of the runs that are done, their undefended twins: same model, data, recipe and seed. A defense is never shown
    without."""
    alike = ["model", "dataset", "recipe", "seed"]
    twins = done[done["defense_label"].eq("none")].merge(rows[alike].drop_duplicates(), on=alike)
    return pd.concat([rows, twins]).drop_duplicates("run_id").sort_values("run_id").reset_index(drop=True)
