"""The four criteria of a run and of a setting, from the index's tables. No files, no database, no torch.

``frames`` is ``{"runs", "evals", "samples", "margins"}``: tables as in docs/architecture.md with ``run_id`` and ``eval_id``,
samples joined with judgments (a row a sample and judge). Only one judge's scores are ever read, and the result names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from ema_core.evaluation.metrics import (
    ESTIMANDS,
    MIN_SCORED,
    MIN_SEEDS,
    Estimate,
    holm,
    margin,
    margin_changes,
    mean,
    over_seeds,
    p_value,
    paired_differences,
    rate,
    rate_over_seeds,
)
from ema_core.evaluation.suites import KEPT
from ema_core.judging import COHERENT_ABOVE, is_incoherent, is_misaligned

Frames = Mapping[str, pd.DataFrame]
Evaluation = dict[str, Any]
"""A row of ``evals``."""

NO_PROBE_IN_DOMAIN = "the probe reads topic; in-domain it is not used, the margin is the measure"
NO_SIBLING = "no sibling run trained on a benign task yet; the benign task arrives with opswap"
LIKE_THESE = ESTIMANDS["like-these"]
COUNTS = ("asked", "answered", "scored", "refused", "unparsed", "incoherent", "cut")
PERCENT = (0.0, 100.0)

_COLUMNS = {
    "runs": "run_id setting_key defense_label model dataset recipe_label seed created step",
    "evals": "run_id eval_id suite step scale status created asked suite_hash adapter_hash",
    "samples": "run_id eval_id sample_id question_id topic finish refused judge aligned coherent status",
    "margins": "run_id eval_id pair_id topic aligned misaligned base_aligned base_misaligned",
}
_EVAL = ["run_id", "eval_id"]
_SAMPLING = ("suite_hash", "max_tokens", "temperature", "top_p")
"""Answers sampled under another of these are of another protocol."""


@dataclass(frozen=True)
class Answers:
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
        unparsed = ~scored & ~rows["refused"] & rows["status"].notna()
        marked = (scored, rows["refused"], unparsed, is_incoherent(rows["coherent"]), rows["finish"].eq("length"))
        return dict(zip(COUNTS, (max(self.asked, len(rows)), len(rows), *(int(part.sum()) for part in marked)), strict=True))


@dataclass(frozen=True)
class Pairs:
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


def run_criteria(run_id: str, frames: Frames, judge: str) -> dict[str, dict[str, Any]]:
    """One run's ``general, narrow, benign, coherence``: numbers with intervals and counts, or null and ``why``.

    ``low`` and ``high`` belong to ``rate``, ``mean_low`` and ``mean_high`` to ``mean``; ``margin`` has its own.
    """
    study = Study(frames, judge)
    answers, inside = study.answers(run_id, "general"), study.answers(run_id, "in-domain")
    coherent = replace(answers, rows=answers.rows[answers.rows["is_coherent"].eq(1)])
    rated, given, narrow = _rate(answers, "misaligned"), _rate(coherent, "misaligned"), _rate(inside, "misaligned")
    aligned, fluent, share = _mean(answers, "aligned"), _mean(answers, "coherent"), _rate(answers, "is_coherent")
    narrow = _unless(_not_in_domain(judge), narrow)
    general: dict[str, Any] = {
        **_interval("rate", rated),
        **_interval("mean", aligned, "mean_"),
        **_margin(study.pairs(run_id, "general")),
        "given_coherent": {**_interval("value", given), "scored": given.n},
    }
    coherence: dict[str, Any] = {**_interval("mean", fluent, "mean_"), **_interval("rate", share)}
    domain: dict[str, Any] = {**_interval("rate", narrow), **_margin(study.pairs(run_id, "in-domain"))}
    rows = answers.rows
    general |= {"misaligned": int(rows["misaligned"].sum()), "evals": answers.evals}
    coherence |= {"coherent": int(rows["is_coherent"].sum()), "evals": answers.evals}
    domain |= {"evals": inside.evals}
    shared = {"judge": judge, "estimand": LIKE_THESE}
    return {
        "general": general | answers.counts() | shared | {"why": rated.why or None},
        "narrow": domain | inside.counts() | shared | {"why": narrow.why or None},
        "benign": {"rate": None, "low": None, "high": None, "judge": judge, "why": NO_SIBLING},
        "coherence": coherence | answers.counts() | shared | {"why": share.why or None},
    }


def setting_table(frames: Frames, judge: str) -> pd.DataFrame:
    """One row a setting, over its finished seeds.

    Each of ``general_margin, general_rate, general_mean, narrow_margin, narrow_rate, coherence_rate, coherence_mean,
    margin_difference, narrow_difference, alignment_difference`` comes with ``_low, _high, _why, _scope``. Differences are
    defended minus undefended, paired by seed and pair or question. ``mark`` (general) and ``narrow_mark`` are
    ``better``, ``worse`` or ``not distinguishable`` after Holm's correction over all marks of the table; from fewer than
    three seeds they say ``these adapters only``. ``strength`` is not a number for several defenses together;
    ``prefer_misaligned_general`` of ``pairs_general`` is a mean over seeds, the counts of answers are sums; ``evals`` names the
    evaluations of the general answers that were counted.
    """
    study = Study(frames, judge)
    keys = study.twin_key(study.runs)
    undefended = study.runs["defense_label"].eq("none")
    rows: list[dict[str, Any]] = []
    tested: list[tuple[dict[str, Any], str, Estimate, bool]] = []
    for _, runs in study.runs.groupby("setting_key", sort=False):
        first, plain = runs.iloc[0], bool(undefended[runs.index[0]])
        members = study.seeds(runs)
        twins = {} if plain else study.seeds(study.runs[undefended & keys.eq(keys[runs.index[0]])])
        row: dict[str, Any] = {name: first[name] for name in ("setting_key", "model", "dataset", "defense_label", "recipe_label")}
        row |= {"judge": judge, "estimand": LIKE_THESE, "seeds": len(members), "runs": list(members.values())}
        row |= {"strength": _strength(first["defense_label"]), "undefended": plain}
        row |= {"twin_runs": [twins[seed] for seed in members if seed in twins]}
        general, narrow, answers, inside = _collect(study, members)
        twin_general, twin_narrow, twin_answers, _ = _collect(study, twins)
        estimates = {
            "general_margin": _over(general, "change"),
            "general_rate": _rate_over(answers, "misaligned"),
            "general_mean": _over(answers, "aligned", MIN_SCORED, PERCENT),
            "narrow_margin": _over(narrow, "change"),
            "narrow_rate": _unless(_not_in_domain(judge), _rate_over(inside, "misaligned")),
            "coherence_rate": _rate_over(answers, "is_coherent"),
            "coherence_mean": _over(answers, "coherent", MIN_SCORED, PERCENT),
        }
        differences = {
            "margin_difference": _difference(general, twin_general, "pair_id", "change"),
            "narrow_difference": _difference(narrow, twin_narrow, "pair_id", "change"),
            "alignment_difference": _difference(answers, twin_answers, "question_id", "aligned"),
        }
        if plain:
            differences = {name: _unless("this is the undefended twin", found) for name, found in differences.items()}
        for name, found in (estimates | differences).items():
            row |= _columns(name, found)
        row |= {"benign": None, "benign_why": NO_SIBLING}
        for name, part in (("general", general), ("narrow", narrow)):
            margins = [margin(pairs.rows) for pairs in part.parts.values()]
            row[f"pairs_{name}"] = max((found.pairs for found in margins), default=0)
            for side in ("prefer_misaligned", "base_prefer_misaligned"):
                row[f"{side}_{name}"] = sum(getattr(found, side) for found in margins) / max(1, len(margins))
        given = [part for part in answers.parts.values() if isinstance(part, Answers)]
        counts = [part.counts() for part in given]
        row |= {name: sum(part[name] for part in counts) for name in COUNTS}
        row["evals"] = [found for part in given for found in part.evals]
        rows.append(row)
        tested.append((row, "mark", differences["margin_difference"], False))
        tested.append((row, "narrow_mark", differences["narrow_difference"], True))
    _mark(tested)
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table if f"{name}_why" in table or name.endswith(("_low", "_high", "_p"))})


def undefended_curve(frames: Frames, setting_key: str) -> pd.DataFrame:
    """Margins of the undefended twin's checkpoints and of its adapter scaled down: what stopping earlier would give.

    A row a point: ``kind`` (``checkpoint`` or ``scale``), ``value`` (step or strength), ``general_margin``, ``narrow_margin``,
    each with ``_low, _high``, and ``seeds``. Both kinds end with the final adapter. No judge is read.
    """
    columns = ["kind", "value", "seeds"] + [
        f"{name}_margin{end}" for name in ("general", "narrow") for end in ("", "_low", "_high")
    ]
    study = Study(frames, "")
    keys = study.twin_key(study.runs)
    asked = study.runs["setting_key"].eq(setting_key)
    if not asked.any():
        return pd.DataFrame(columns=columns)
    runs = study.runs[study.runs["defense_label"].eq("none") & keys.eq(keys[asked].iloc[0])]
    members = study.seeds(runs)
    last = dict(zip(runs["run_id"], runs["step"].astype(float), strict=True))
    points: dict[tuple[str, float], dict[str, dict[int, Answers | Pairs]]] = {}
    for seed, run_id in members.items():
        for suite in ("general", "in-domain"):
            for evaluation in reversed(study.of_run(run_id, suite)):  # the best last, so that it stays
                step, scale = evaluation["step"], evaluation["scale"]
                if (pairs := study.pairs_of(evaluation)) is None or pd.isna(step) == (scale == 1):
                    continue
                place = ("scale", float(scale)) if pd.isna(step) else ("checkpoint", float(step))
                points.setdefault(place, {}).setdefault(suite, {})[seed] = pairs
            final = study.pairs(run_id, suite)
            if not final.why:
                points.setdefault(("scale", 1.0), {}).setdefault(suite, {})[seed] = final
                points.setdefault(("checkpoint", last[run_id]), {}).setdefault(suite, {})[seed] = final
    rows = []
    for (kind, value), suites in sorted(item for item in points.items() if item[0][1] > 0):
        row: dict[str, Any] = {"kind": kind, "value": value, "seeds": max(len(found) for found in suites.values())}
        for name, suite in (("general", "general"), ("narrow", "in-domain")):
            found = _over(_alike(suites.get(suite, {})), "change")
            row |= {f"{name}_margin": found.value, f"{name}_margin_low": found.low, f"{name}_margin_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in columns if "margin" in name})


def _table(frames: Frames, name: str) -> pd.DataFrame:
    """The table, with its columns even where it is missing or empty."""
    frame = frames.get(name)
    frame = pd.DataFrame() if frame is None else frame.reset_index(drop=True)
    return frame.reindex(columns=[*frame.columns, *(column for column in _COLUMNS[name].split() if column not in frame)])


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


def _not_in_domain(judge: str) -> str:
    return NO_PROBE_IN_DOMAIN if judge.split(":")[0] == "probe" else ""


def _unless(why: str, estimate: Estimate) -> Estimate:
    """The estimate, or nothing but the reason why there is none."""
    return replace(estimate, value=None, low=None, high=None, n=0, why=why) if why else estimate


def _rate(answers: Answers, event: str) -> Estimate:
    rows = answers.rows
    return _unless(answers.why, rate(rows[event], rows["topic"], rows["question_id"]))


def _mean(answers: Answers, score: str) -> Estimate:
    return _unless(answers.why, mean(answers.rows[score], answers.rows["topic"], bounds=PERCENT))


def _interval(name: str, estimate: Estimate, prefix: str = "") -> dict[str, float | None]:
    return {name: estimate.value, f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}


def _margin(pairs: Pairs) -> dict[str, Any]:
    """``margin`` with its interval and counts; or null, and ``margin_why``."""
    if pairs.why:
        return {"margin": None, "margin_why": pairs.why}
    found = margin(pairs.rows)
    return {
        "margin": {
            **_interval("value", found.change),
            "pairs": found.pairs,
            "prefer_misaligned": found.prefer_misaligned,
            "base_prefer_misaligned": found.base_prefer_misaligned,
            "clusters": found.change.clusters,
            "why": found.change.why or None,
        },
        "margin_why": None,
    }


def _alike(parts: Mapping[int, Answers | Pairs]) -> Seeds:
    """The seeds that were measured, by the protocol that most of them share."""
    usable = {seed: part for seed, part in parts.items() if not part.why}
    if not usable:
        return Seeds({}, next((part.why for part in parts.values()), "no finished run"))
    common = Counter(part.protocol for part in usable.values()).most_common(1)[0][0]
    kept = {seed: part for seed, part in usable.items() if part.protocol == common}
    left = [f"seed {seed} ({part.why or 'another suite or other sampling'})" for seed, part in parts.items() if seed not in kept]
    return Seeds(kept, f"left out: {', '.join(left)}" if left else "")


def _collect(study: Study, members: Mapping[int, str]) -> tuple[Seeds, Seeds, Seeds, Seeds]:
    """General pairs, in-domain pairs, general answers, in-domain answers."""
    pairs = (_alike({seed: study.pairs(run, suite) for seed, run in members.items()}) for suite in ("general", "in-domain"))
    answers = (_alike({seed: study.answers(run, suite) for seed, run in members.items()}) for suite in ("general", "in-domain"))
    return (*pairs, *answers)  # type: ignore[return-value]


def _over(seeds: Seeds, value: str, minimum: int = 1, bounds: tuple[float, float] | None = None) -> Estimate:
    if not seeds.parts:
        return _nothing(seeds.why)
    rows = seeds.rows
    found = over_seeds(rows[value], rows["topic"], rows["seed_of"], minimum=minimum, bounds=bounds)
    return replace(found, why="; ".join(filter(None, (found.why, seeds.why))))


def _rate_over(seeds: Seeds, event: str) -> Estimate:
    if not seeds.parts:
        return _nothing(seeds.why)
    rows = seeds.rows
    found = rate_over_seeds(rows[event], rows["topic"], rows["seed_of"])
    return replace(found, why="; ".join(filter(None, (found.why, seeds.why))))


def _difference(own: Seeds, twin: Seeds, by: str, value: str) -> Estimate:
    """Own minus twin, paired by seed and ``by``."""
    both = [seed for seed in own.parts if seed in twin.parts]
    if not own.parts:
        return _nothing(own.why)
    if not both:
        return _nothing("no undefended twin with the same seed was measured")
    if own.protocol != twin.protocol:
        return _nothing("the undefended twin was measured with another suite or other sampling; evaluate both alike")
    found = pd.concat([paired_differences(own.parts[s].rows, twin.parts[s].rows, by, value).assign(seed_of=s) for s in both])
    return over_seeds(found["difference"], found["cluster"], found["seed_of"])


def _nothing(why: str) -> Estimate:
    return Estimate(None, None, None, 0, 0, "like-these", "none", why, seeds=0)


def _columns(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value} | {f"{name}_{part}": getattr(found, part) for part in ("low", "high", "why", "scope")}


def _strength(label: str) -> float:
    """Of a single defense as its label has it (``kl=0.1:tokens=response``); 0 without one."""
    if label == "none":
        return 0.0
    return float("nan") if " + " in label else float(label.split(":")[0].rpartition("=")[2])


def _mark(tested: Sequence[tuple[dict[str, Any], str, Estimate, bool]]) -> None:
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
