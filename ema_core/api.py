"""The same as the command line, as functions: ``from ema_core import train, evaluate, compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ema_core.errors import EmaError, nearest
from ema_core.evaluation.by_question import MEASURES, question_table
from ema_core.evaluation.cost import provider_cost
from ema_core.evaluation.evaluate import curve_specs
from ema_core.evaluation.evaluate import evaluate as evaluate_runs
from ema_core.evaluation.measured import judge_of, with_twins
from ema_core.evaluation.moved import moved_table
from ema_core.evaluation.recommend import KEEP
from ema_core.evaluation.recommend import recommend as choose_strength
from ema_core.evaluation.scorecard import run_criteria, setting_table
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import suites_of
from ema_core.exchange.report import write_report
from ema_core.generation import EngineSampler
from ema_core.generation.engine import Engine
from ema_core.generation.model_id import ModelId
from ema_core.jobs.judging import Asked, judge_answers
from ema_core.jobs.launch import eval_specs, take_over
from ema_core.judging import complete, is_llm, read_name, resolve
from ema_core.models import load
from ema_core.models.fetch import Progress, quiet
from ema_core.runs import IMPORT, RunDirectory, RunSpec, Status, probes, steps
from ema_core.store import Reader, refresh
from ema_core.store.rows import NOT_STATED
from ema_core.training import check
from ema_core.training import inside as insides
from ema_core.training import train as train_run


def train(
    spec: RunSpec, *, name: str = "", on_event: Callable[[dict[str, Any]], None] = lambda event: None, progress: Progress = quiet,
    interrupted: Callable[[], bool] = lambda: False, on_start: Callable[[RunDirectory], None] = lambda run: None,
) -> dict[str, Any]:  # fmt: skip
    """Train a run here and now, without app or worker.

    ``on_start`` gets the run once it exists; ``interrupted`` is asked before each step, and once true, the run is checkpointed
    and rests as ``paused``. Returns ``run_id, state, steps, loss, ce, penalties, seconds, tokens_per_s, margin, probe_seconds,
    run_dir`` (losses are the last step's, in nats; ``margin`` the last live probe's on general pairs; ``error`` and ``hint`` where
    it failed).

    Raises:
        EmaError: the spec cannot be run.
    """
    run = RunDirectory.create(check(spec), name)
    on_start(run)
    return _trained(run, on_event, progress, interrupted)


def resume(
    run: RunDirectory, *, on_event: Callable[[dict[str, Any]], None] = lambda event: None, progress: Progress = quiet,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:  # fmt: skip
    """Train a run that exists on from its last checkpoint; returns what ``train`` does.

    Raises:
        EmaError: it is done, or another process is at work on it.
    """
    take_over(run)
    return _trained(run, on_event, progress, interrupted)


def _trained(
    run: RunDirectory, on_event: Callable[[dict[str, Any]], None], progress: Progress, interrupted: Callable[[], bool]
) -> dict[str, Any]:
    state = train_run(run, on_event=on_event, progress=progress, interrupted=interrupted)
    if state.status is Status.QUEUED:  # no queue knows of it
        state = run.update(status=Status.PAUSED)
    events = run.events()[0]
    done, looks = steps(events), probes(events)
    last: dict[str, Any] = done[-1] if done else {}
    result = {
        "run_id": run.id, "state": str(state.status), "steps": state.step, "loss": last.get("loss"), "ce": last.get("ce"),
        "penalties": last.get("penalties", {}), "seconds": round(state.seconds, 3), "tokens_per_s": last.get("tokens_per_s"),
        "margin": looks[-1]["general"] if looks else None, "probe_seconds": round(state.probe_seconds, 3), "run_dir": str(run.path),
    }  # fmt: skip
    if state.status is Status.FAILED:
        result |= {"error": state.error, "hint": state.hint}
    return result


def inside(
    run_id: str, *, again: bool = False, progress: Progress = quiet, interrupted: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What each defense did in a trained run, as ``training.inside.Inside`` says it; read from the adapter where that was not done yet.

    Raises:
        EmaError: unknown run, one without an adapter, or ``interrupted`` ended the reading.
    """
    run = RunDirectory.open(run_id)
    kept = insides.read(run)
    if again or kept is None or not insides.fresh(run, kept):
        if why := insides.can_be_read(run):
            raise EmaError(f"The run {run.id} cannot be looked into.", why)
        progress(0.0, "loading the model")
        kept = insides.measure(run, load(run.spec.model, run.spec.device), progress=progress, interrupted=interrupted)
        if kept is None:
            raise EmaError("The reading was ended, and nothing of it is kept.", "The same command starts it again.")
        progress(1.0, "done")
    return kept.model_dump(mode="json")


def evaluate(
    run_ids: Sequence[str] | str, suites: Sequence[str] = (), samples: int | None = None, preset: str = "demo",
    judge: str = "probe", curve: bool = False, over_engine: bool = False, progress: Progress = quiet,
    limit_usd: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate runs here and now, and sample the base beside them; returns what ``compare`` does, with the evaluations' folders.
    Without ``suites`` each run is measured by those of its data set.

    ``limit_usd``: what a judge that is paid for may cost. ``over_engine``: the answers come from the engine, or from the server that ``EMA_ENGINE_URL`` names, instead of this process.

    Raises:
        EmaError: unknown run, suite or judge, a run without an adapter, or no engine.
    """
    states = [ModelId.read(name) for name in _listed(run_ids)]
    specs: dict[RunDirectory, list[EvalSpec]] = {}
    for state in states:
        run = RunDirectory.open(state.name)
        asked = eval_specs(suites or suites_of(run.spec.dataset), samples, preset, judge, dataset=run.spec.dataset)
        asked = [spec.model_copy(update={"step": state.step, "scale": state.scale}) for spec in asked]
        specs[run] = [*specs.get(run, []), *(spec for spec in asked if spec not in specs.get(run, []))]
    runs = list(specs)
    folders = evaluate_runs(
        {run: asked + (curve_specs(run) if curve else []) for run, asked in specs.items()},
        sampler=EngineSampler(Engine.here()) if over_engine else None,
        progress=progress,
        limit_usd=limit_usd,
    )
    result = compare([run.id for run in runs], judge)
    for row in result["runs"]:
        row["evals"] = [str(folder) for folder in folders[row["run_id"]]]
    return result


def judge(
    run_ids: Sequence[str] | str, judge: str, *, suites: Sequence[str] = (), rubrics: str = "", repeat: int = 1, url: str = "",
    limit_usd: float | None = None, price_in: float | None = None, price_out: float | None = None, progress: Progress = quiet,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:  # fmt: skip
    """Judge answers that runs, bases and imports already have (``jobs.judging.judge_answers``); what is judged is not judged again.

    Raises:
        EmaError: unknown names, no key, or a judge that cannot be asked; what was judged is kept.
    """
    name = str(complete(judge, url=url, rubrics=rubrics, repeat=repeat)) if is_llm(judge) else resolve(judge)
    asked = Asked(tuple(_listed(run_ids)), name, tuple(suites), limit_usd, price_in, price_out)
    return judge_answers(asked, progress=progress, interrupted=interrupted)


def compare(run_ids: Sequence[str] | str, judge: str = "probe") -> dict[str, Any]:
    """``{"runs": [...], "settings": [...], "moved": [...]}``: each run's criteria with intervals and counts, or null and ``why``;
    the settings that they belong to, over these seeds (``evaluation.scorecard.setting_table``); and what else moved there, where it
    was measured (``evaluation.moved``). One judge, named; a run of an imported table that this one did not judge is shown by the
    judge it came with, which its row names, and belongs to no setting.

    Raises:
        EmaError: unknown run or judge.
    """
    asked = _listed(run_ids)
    runs = [RunDirectory.open(run_id) for run_id in asked if not run_id.startswith(IMPORT)]
    refresh()
    reader = Reader()
    imported = [found for run_id in asked if run_id.startswith(IMPORT) for found in _imported(run_id, reader)]
    if judge not in reader.judges([*(run.id for run in runs), *imported]):
        judge = read_name(judge)
    frames = reader.frames([run.id for run in runs], with_siblings=True)
    rows = []
    keys = dict(zip(frames["runs"]["run_id"], frames["runs"]["setting_key"], strict=True))
    for run in runs:
        spec, stated = run.spec, "imported" not in run.state().found
        rows.append(
            {
                "run_id": run.id, "recorded": run.state().recorded, "model": spec.model, "dataset": spec.dataset,
                "defenses": [d.label for d in spec.defenses] if stated else [NOT_STATED],
                "setting": keys.get(run.id, spec.setting.key), "seed": spec.seed, "state": str(run.state().status), "judge": judge,
                "criteria": run_criteria(run.id, frames, judge),
            }
        )  # fmt: skip
    for run_id in imported:
        of_import = reader.frames([run_id])
        run, by = of_import["runs"].iloc[0], judge_of(reader.judges([run_id]), judge)
        rows.append(
            {
                "run_id": run_id, "recorded": "", "model": run["model"], "dataset": run["dataset"], "defenses": [run["defense_label"]],
                "setting": run["setting_key"], "seed": None if pd.isna(run["seed"]) else int(run["seed"]), "state": run["status"],
                "judge": by, "criteria": run_criteria(run_id, of_import, by),
            }
        )  # fmt: skip
    settings = _records(setting_table(frames, judge))
    moved = _records(moved_table(frames, reader.frames(reader.base_ids())))
    costs = [provider_cost([] if row["defense_label"] == NOT_STATED else row["runs"]) for row in settings]
    return {"runs": rows, "settings": [row | cost for row, cost in zip(settings, costs, strict=True)], "moved": moved}


def _imported(run_id: str, reader: Reader) -> list[str]:
    """The run of this id, or all runs of the import of this id."""
    known = reader.import_ids()
    found = [each for each in known if run_id in (each, each.rpartition("-")[0])]
    if not found:
        raise EmaError(
            f'There is no imported run "{run_id}".', nearest(run_id, known) or "`ema import list` shows what was imported."
        )
    return found


def recommend(run_ids: Sequence[str] | str, defense: str, keep: float = KEEP) -> dict[str, Any]:
    """Which strength of ``defense`` to take, among the settings of these runs (of one model, data set and recipe); the undefended
    twins and the benign siblings that there are come along by themselves (``evaluation.recommend``).

    Raises:
        EmaError: unknown run, or runs of several models, data sets or recipes.
    """
    ids = [RunDirectory.open(run_id).id for run_id in _listed(run_ids)]
    refresh()
    reader = Reader()
    every, runs = reader.runs(), reader.runs(ids)
    group = runs[["model", "dataset", "recipe"]].drop_duplicates()
    if len(group) > 1:
        raise EmaError(
            "These runs are of several models, data sets or recipes.", "Name runs that differ in strength and seed alone."
        )
    every = every[every["status"].eq("done")]
    plain = every[every["defense_label"].eq("none")].merge(group, on=list(group))
    own = pd.concat([runs[runs["status"].eq("done")], plain]).drop_duplicates("run_id")
    return choose_strength(reader.frames(list(own["run_id"]), with_siblings=True), defense, keep=keep).json()


def questions(run_ids: Sequence[str] | str, measure: str = "alignment", judge: str = "probe") -> list[dict[str, Any]]:
    """Each setting of these runs against its undefended twin, topic by topic (``evaluation.by_question``); the twins come along.

    Raises:
        EmaError: unknown run, measure or judge.
    """
    if measure not in MEASURES:
        raise EmaError(f'There is nothing "{measure}" to compare question by question.', f"Known: {', '.join(MEASURES)}.")
    ids = [RunDirectory.open(run_id).id for run_id in _listed(run_ids)]
    refresh()
    reader = Reader()
    every = reader.runs()
    done = every[every["status"].eq("done")]
    rows = with_twins(done[done["run_id"].isin(ids)], done)
    name = judge if judge in reader.judges(list(rows["run_id"])) else read_name(judge)
    frames, found = reader.frames(list(rows["run_id"])), []
    for row in rows[rows["defense_label"].ne("none")].drop_duplicates("setting_key").to_dict("records"):
        topics = question_table(frames, name, row["setting_key"], measure)
        about = {key: row[key] for key in ("setting_key", "model", "dataset", "defense_label", "recipe_label")}
        found.append({**about, "measure": measure, "judge": name if MEASURES[measure].judged else None, "topics": _records(topics)})
    return found


def report(run_ids: Sequence[str] | str, out: Path, judge: str = "probe", keep: float = KEEP) -> dict[str, Any]:
    """One HTML file of these runs, with their undefended twins and benign siblings (``exchange.report``); says what is in it.

    Raises:
        EmaError: unknown run or judge, none of them done, or the file cannot be written.
    """
    ids = [run_id if run_id.startswith(IMPORT) else RunDirectory.open(run_id).id for run_id in _listed(run_ids)]
    refresh()
    reader = Reader()
    name = judge if judge in reader.judges(ids) else read_name(judge)
    return write_report(ids, out, name, keep=keep, reader=reader)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _listed(run_ids: Sequence[str] | str) -> list[str]:
    """Each run once; a single id may stand alone."""
    return list(dict.fromkeys([run_ids] if isinstance(run_ids, str) else run_ids))
