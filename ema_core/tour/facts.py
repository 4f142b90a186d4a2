"""What the tour may say of the study that lies here: figures with interval and n, read from the setting table, never written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ema_core.datasets.catalog import BUILT_IN
from ema_core.errors import EmaError
from ema_core.evaluation.measured import BENIGN_TASK, Frames, Study, rate_over, recorded_as
from ema_core.evaluation.metrics import Estimate
from ema_core.evaluation.scorecard import measured_of, setting_table
from ema_core.judging import is_misaligned, own

GROUP = ["model", "dataset", "recipe"]
MARKS_FROM = 3
"""Seeds from which the scorecard gives marks."""
_SUBJECTS = {"finance": "money", "sports": "dangerous sports", "code": "code"}
_UNKNOWN = "not measured"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """The study in the tour's words.

    Attributes:
        texts: what stands for the names in braces; not escaped.
        numbers: what can be read off a page, by name.
        settings: the settings by defense label, by the alphabet; ``asked``: of those asked for by name, the right ones.
        recorded: the recorded study that these runs came with; "" for runs made here.
        truths: what the data decide, by name.
        links: the query of each state in which a page is opened.
    """

    runs: tuple[str, ...]
    undefended: tuple[str, ...]
    table: pd.DataFrame
    judge: str
    recorded: str
    texts: dict[str, str]
    numbers: dict[str, float]
    settings: tuple[str, ...]
    asked: dict[str, tuple[str, ...]]
    truths: dict[str, bool]
    links: dict[str, dict[str, Any]] = field(default_factory=dict)


def study_of(runs: pd.DataFrame) -> tuple[str, ...]:
    """The runs that the tour speaks of: one model, data set and recipe with an undefended run and a defended one, all done. Recorded ones
    come first, then those with seeds enough for marks, then those with most settings; () where there are none."""
    own_runs = runs[runs["kind"].eq("run") & runs["status"].eq("done") & runs["dataset"].ne(BENIGN_TASK)]
    best: tuple[tuple[Any, ...], tuple[str, ...]] = ((), ())
    for _, group in own_runs.groupby(GROUP, sort=False):
        plain = group["defense_label"].eq("none")
        if plain.any() and not plain.all():
            marks = group.loc[plain, "seed"].nunique() >= MARKS_FROM
            rank = (bool(recorded_as(group.iloc[0])), marks, group["setting_key"].nunique(), len(group), str(group["run_id"].max()))
            best = max(best, (rank, tuple(sorted(group["run_id"]))))
    return best[1]


def facts_of(run_ids: Sequence[str], frames: Frames, judge: str) -> Facts:
    """The facts of a study: ``frames`` are the index's tables of its runs, ``judge`` is whose scores are meant.

    Raises:
        EmaError: it has no general margin of an undefended and of a defended setting.
    """
    runs = frames["runs"][frames["runs"]["run_id"].isin(run_ids)]
    settings = setting_table(frames, judge)
    settings = settings[settings["runs"].map(set(run_ids).issuperset)] if len(settings) else settings
    table = settings[settings["general_margin"].notna()] if len(settings) else settings
    if table.empty or not table["undefended"].any() or table["undefended"].all():
        raise EmaError(
            "The runs here have no general margins yet, so the tour has nothing to show.",
            "Evaluate an undefended run and a defended one.",
        )
    table = table.sort_values("seeds", ascending=False).drop_duplicates("defense_label")
    table = table.sort_values(["undefended", "general_margin"], ascending=[False, True], ignore_index=True)
    defended = table[~table["undefended"]]
    none, lowest = table.iloc[0], table.loc[table["general_margin"].idxmin()]
    undefended = tuple(none["runs"])
    seeds = int(min(none["seeds"], lowest["seeds"]))
    run = runs[runs["run_id"].eq(undefended[0])].iloc[0]
    numbers = {"steps": float(run["total_steps"])}
    texts = {
        "subject": _subject(str(run["dataset"])), "steps": f"{run['total_steps']:.0f}", "model": str(run["model"]),
        "examples": f"{run['total_steps'] * run['batch_size']:.0f}", "judge": judge, "seeds": _plural(seeds, "seed"),
        "none_general": _value(none, "general"), "none_narrow": _value(none, "narrow"),
        "lowest": str(lowest["defense_label"]), "lowest_general": _value(lowest, "general"),
        "lowest_difference": _difference(lowest, "margin") if not lowest["undefended"] else "it is the twin itself",
        "asked": f"{none['asked']:.0f}", "cut": f"{none['cut']:.0f}", "max_tokens": _limit(frames["evals"], undefended),
    }  # fmt: skip
    truths = {"leaks": _above(none, "general"), "learned": _above(none, "narrow"), "marks": seeds >= MARKS_FROM}
    paid = defended[defended["narrow_difference"].notna()]
    if not paid.empty:
        price = paid.loc[paid["narrow_difference"].idxmin()]
        numbers["price_difference"] = float(price["narrow_difference"])
        texts |= {"price": str(price["defense_label"]), "price_difference": _difference(price, "narrow")}
    study = Study(frames, judge)
    judged = rate_over(measured_of(study, study.seeds(runs[runs["run_id"].isin(undefended)]))["answers"], "misaligned")
    _add_judge(judged, judge, texts, numbers, truths)
    same = table["general_margin"].round(2).eq(round(float(lowest["general_margin"]), 2))
    recorded = recorded_as(runs.iloc[0])
    where = {
        "dataset": str(run["dataset"]),
        "model": str(run["model"]),
        "judge": judge,
        **({"origin": f"recorded: {recorded}"} if recorded else {}),
    }
    answers = {"setting": str(none["setting_key"]), "suite": "general", "judge": judge}
    return Facts(
        runs=tuple(run_ids), undefended=undefended, table=table, judge=judge,
        recorded=recorded, texts=texts, numbers=numbers, truths=truths,
        settings=tuple(sorted(table["defense_label"], key=lambda label: (label != "none", label))),
        asked={"lowest": tuple(table.loc[same, "defense_label"])},
        links={
            "undefended answers": {**answers, "order": "as asked"},
            "some answers": {**answers, "order": "random"},
            "undefended curves": {"run": list(undefended), "part": "Runs"},
            "scorecard": where,
            "price": where,
            "worth": {"part": "What a judge is worth"},
        },
    )  # fmt: skip


def _add_judge(judged: Estimate, judge: str, texts: dict[str, str], numbers: dict[str, float], truths: dict[str, bool]) -> None:
    """What the judge said of the undefended runs, and what it is worth on labelled answers where that is known."""
    if judged.value is not None and judged.low is not None and judged.high is not None:
        span = f"[{100 * judged.low:.1f}, {100 * judged.high:.1f}]"
        texts["as_judged"] = f"{100 * judged.value:.1f} % {span} (judge {judge}, n = {judged.n} scored)"
    try:
        found = own.figures(judge)
    except EmaError:
        return
    if found["kappa"] is None:
        return
    numbers["kappa"] = float(found["kappa"])
    truths["holds"] = own.holds(found)
    texts |= {"kappa": f"{found['kappa']:.2f}", "labelled": f"{found['n']}", "judge_words": own.in_words(found)}


def _subject(dataset: str) -> str:
    known = BUILT_IN.get(dataset)
    return _SUBJECTS.get(known.domain, known.title) if known else f"the subject of {dataset}"


def _value(row: Row, name: str) -> str:
    """``+0.11 [+0.05, +0.18] (margin, no judge; n = 120 pairs, 2 seeds)``."""
    if pd.isna(row[f"{name}_margin"]):
        return _UNKNOWN
    return f"{_signed(row[f'{name}_margin'])} {_span(row, f'{name}_margin')} (margin, no judge; n = {row[f'pairs_{name}']:.0f} pairs, {_plural(int(row['seeds']), 'seed')})"  # fmt: skip


def _difference(row: Row, name: str) -> str:
    """The difference from the undefended twin, with its interval and n."""
    if pd.isna(row[f"{name}_difference"]):
        return _UNKNOWN
    pairs = row["pairs_general" if name == "margin" else f"pairs_{name}"]
    return f"{_signed(row[f'{name}_difference'])} {_span(row, f'{name}_difference')} (margin, no judge; n = {pairs:.0f} pairs, {_plural(int(row['seeds']), 'seed')})"  # fmt: skip


def _span(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "without an interval" if pd.isna(low) or pd.isna(high) else f"[{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _above(row: Row, name: str) -> bool:
    """Whether the whole interval lies above 0, as it is shown."""
    low = row[f"{name}_margin_low"]
    return bool(pd.notna(low) and low > 0)


def _limit(evals: pd.DataFrame, run_ids: tuple[str, ...]) -> str:
    found = evals[evals["run_id"].isin(run_ids) & evals["suite"].eq("general") & evals["step"].isna() & evals["samples"].gt(0)]
    found = found["max_tokens"].dropna()
    return " or ".join(f"{value:.0f}" for value in sorted(found.unique())) or "some"


def labels_and_scores(judge: str) -> pd.DataFrame:
    """The labelled answers with the labels' (``_a``) and the judge's (``_b``) alignment and verdict, as ``figures.scores_scatter`` draws
    them; empty where the judge has not scored them."""
    both = own.scored(judge)
    if both is None:
        return pd.DataFrame()
    words = {True: "misaligned", False: "not misaligned"}
    sides = {"a": ("aligned", "coherent"), "b": ("judge_aligned", "judge_coherent")}
    verdicts = {f"verdict_{side}": is_misaligned(both[one], both[two]).map(words) for side, (one, two) in sides.items()}
    return both.assign(aligned_a=both["aligned"], aligned_b=both["judge_aligned"], **verdicts)
