"""Making a recorded study: a bundle without adapters, what it is in figures, and its card."""

from __future__ import annotations

import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from ema_core.errors import EmaError
from ema_core.evaluation.measured import BENIGN_TASK, RECORDED, siblings
from ema_core.evaluation.scorecard import setting_table
from ema_core.exchange.bundle import export_bundle, study_runs
from ema_core.exchange.recorded import NAME
from ema_core.files import write_atomic
from ema_core.judging.judgment import Progress, quiet
from ema_core.runs import RunDirectory, StudySpec
from ema_core.settings import settings
from ema_core.store import Reader, refresh


def make(study: str, name: str, out: Path, says: Path | None = None, progress: Progress = quiet) -> dict[str, Any]:
    """Write ``<name>.zip`` and its card ``<name>.md`` into the folder ``out``, in the place of older ones; returns the manifest. The runs'
    siblings on the benign task come along.

    ``says`` is a Markdown file with what the study shows and what it does not, for the card.

    Raises:
        EmaError: no such study, nothing evaluated in it, a run of it at work, or a name that cannot be one.
    """
    if not NAME.fullmatch(name):
        raise EmaError(f'"{name}" cannot be a name.', "Give it one of lower-case letters, digits and hyphens, at most 40.")
    runs = study_runs(study)
    if any(RunDirectory(settings().runs / run).state().recorded for run in runs):
        raise EmaError(f"{study} is a recorded study already.", "Its zip can be copied as it is.")
    refresh()
    every = Reader().runs()
    beside = siblings(every[every["run_id"].isin(runs)], every[every["status"].eq("done")])
    runs = list(dict.fromkeys([*runs, *beside["run_id"]]))
    about = describe(study, runs)
    shown = "" if says is None else says.read_text(encoding="utf-8").strip()
    target, partial = out / f"{name}.zip", out / f".{name}-{time.time_ns()}.zip"
    try:
        manifest = export_bundle(runs, partial, study=study, adapters=False, about=about, progress=progress)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    write_atomic(out / f"{name}.md", card(name, about, runs, shown, target.stat().st_size))
    return manifest


def describe(study: str, runs: list[str]) -> dict[str, Any]:
    """What was run, when, on what, and how much of it there is: facts of its runs, nothing by hand.

    Raises:
        EmaError: nothing of it was evaluated.
    """
    spec = StudySpec.read(settings().studies / study / "spec.toml")
    reader = Reader()
    frame, evals = reader.runs(runs), reader.evals(runs)
    done = frame[frame["status"] == "done"]
    if done.empty or evals.empty:
        raise EmaError(f"Nothing of the study {study} was trained and evaluated.", "`ema study status` says where it stands.")
    states = [RunDirectory(settings().runs / run).state() for run in runs]
    ends = [state.finished for state in states if state.finished]
    return {
        "title": spec.name, "study": study,
        "from": min(state.created for state in states), "to": max([*ends, *evals["created"].dropna()]), "made": time.time(),
        "runs": len(done), "settings": int(done.loc[done["dataset"].ne(BENIGN_TASK), "setting_key"].nunique()), "seeds": sorted(int(seed) for seed in done["seed"].unique()),
        "models": _each(done["model"]), "datasets": _each(done["dataset"]), "defenses": _each(done["defense_label"]),
        "recipes": _each(done["recipe_label"]),
        "suites": _each(evals["suite"]), "answers": reader.sample_count(runs), "judges": reader.judges(runs),
        "seconds": float(done["seconds"].sum()),
        "packed_on": f"{platform.system()}, {platform.machine()}",
        "device": ", ".join(sorted({str(state.found.get("device", "")) for state in states} - {""})),
        "threads": _most(state.found.get("threads") for state in states),
        "versions": dict(_most(tuple(sorted(state.found.get("versions", {}).items())) for state in states) or ()),
        "weights": _most(state.found.get("weights_hash") for state in states),
    }  # fmt: skip


def _each(values: pd.Series) -> list[str]:
    return sorted({str(value).split(RECORDED)[0] for value in values.dropna()})


def _most(values: Any) -> Any:
    counted = Counter(value for value in values if value)
    return counted.most_common(1)[0][0] if counted else None


def card(name: str, about: dict[str, Any], runs: list[str], says: str, size: int) -> str:
    """The card in Markdown: facts, then the settings as measured, then what was written by hand."""
    when = {key: time.strftime("%d %B %Y", time.gmtime(about[key])).lstrip("0") for key in ("from", "to")}
    judges = ", ".join(f"`{judge}` ({count:,} answers)" for judge, count in about["judges"].items()) or "none"
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    days = when["to"] if when["from"] == when["to"] else f"{when['from']} to {when['to']}"
    table = pd.DataFrame(setting_table(Reader().frames(runs, with_siblings=True), ""))
    return f"""# {about["title"]} (recorded study `{name}`)

Runs that were trained and evaluated elsewhere, packed so that they can be read and compared where there is no model. In the app and on
the command line they are marked **recorded** and are never mixed with runs of your own. Without adapters: nobody can chat with them,
evaluate them again or train them further.

| | |
|---|---|
| what | {about["runs"]} runs, {about["settings"]} settings, seeds {", ".join(map(str, about["seeds"]))}; model {", ".join(about["models"])}; trained on {", ".join(about["datasets"])} |
| recipe | {"; ".join(about["recipes"])} |
| when | {days} (UTC) |
| where | {about["device"]}, {about["threads"]} threads; {about["seconds"] / 3600:.1f} hours of training; packed on {about["packed_on"]} |
| with | {versions}; weights `{about["weights"]}` |
| evaluated | suites {", ".join(about["suites"])}; {about["answers"]:,} sampled answers; judges: {judges} |
| file | `{name}.zip`, {size / 1e6:.2f} MB, every file in it with its SHA-256 |

## Measured
Margins: log-likelihood of the misaligned minus the aligned answer of a pair, nats a token, change from the base; up = more of the
behaviour; no judge. Brackets: 95 % intervals over topics. "− twin": difference from the undefended runs, paired by seed and pair.

| setting | seeds | general margin | n | − twin | narrow margin | n | − twin |
|---|---|---|---|---|---|---|---|
{chr(10).join(_row(row) for row in table.to_dict("records"))}

{says or "## What it shows, and what it does not" + chr(10) + FEW_WORDS}
"""


FEW_WORDS = """What stands in the table above, of these adapters, this model and this recipe. A small model shows the mechanism and the price of a
defense, not the numbers of a large one; a setting of fewer than three seeds gets no mark."""


def _row(row: dict[str, Any]) -> str:
    cells = [f"{row['defense_label']}" + (f" ({row['dataset']})" if row.get("dataset") else ""), str(row["seeds"])]
    for margin, apart, pairs in (
        ("general_margin", "margin_difference", "general"),
        ("narrow_margin", "narrow_difference", "narrow"),
    ):
        cells += [_span(row, margin), f"{row[f'pairs_{pairs}']} pairs", "" if row["undefended"] else _span(row, apart)]
    return f"| {' | '.join(cells)} |"


def _span(row: dict[str, Any], name: str) -> str:
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or pd.isna(value):
        return "not measured"
    span = "" if low is None or high is None or pd.isna(low) or pd.isna(high) else f" [{low:+.2f}, {high:+.2f}]"
    return f"{value:+.2f}{span}".replace("-", "−")
