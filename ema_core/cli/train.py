"""``ema train``, ``ema eval``, ``ema compare``, ``ema defenses``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, command, duration, emit, table
from ema_core.errors import EmaError
from ema_core.runs import PRESETS, RunSpec, parse, parse_defense, recipe

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


@command(app, "train")
def train(
    model: Annotated[str, typer.Option(help="A model of `ema model list`, or a local folder.")] = "smollm2-135m",
    dataset: Annotated[str, typer.Option(help="A narrow data set of `ema datasets list`.")] = "risky-finance",
    safe_pool: Annotated[str, typer.Option(help="The safe pool that defenses draw from.")] = "safe-general",
    defense: Annotated[list[str] | None, typer.Option(help="NAME=STRENGTH[:option=value,...]; may be given several times.")] = None,
    preset: Annotated[str, typer.Option(help=f"Recipe to start from: {', '.join(PRESETS)}.")] = "demo",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps on narrow examples (steps x batch size of them).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data, where no steps are given.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha (rs-LoRA scales by alpha / sqrt(rank)).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a sequence; longer ones lose their beginning.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps of linear warm-up.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of order, adapter and defenses.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    name: Annotated[str, typer.Option(help="A name for your own use.")] = "",
    spec: Annotated[Path | None, typer.Option(help="A run spec as TOML or JSON instead of the options above.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker instead of training here.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model, with or without defenses."""
    if spec is not None:
        wanted = read_spec(spec)
    else:
        changes = {
            "steps": steps, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "rank": rank, "alpha": alpha,
            "max_length": max_length, "warmup_steps": warmup_steps, "checkpoint_every": checkpoint_every,
        }  # fmt: skip
        wanted = parse(
            RunSpec,
            {
                "model": model, "dataset": dataset, "safe_pool": safe_pool, "defenses": [parse_defense(text) for text in defense or []],
                "recipe": recipe(preset, **changes), "seed": seed, "device": device,
            },
            "run",
        )  # fmt: skip
    if queue:
        from ema_core.jobs.launch import launch_run

        run, job = launch_run(wanted, name)
        emit({"run_id": run.id, "job_id": job.id, "state": "queued"}, as_json, lambda: typer.echo(f"queued {run.id}"))
        return
    from ema_core import api

    bar = Bar()

    def seen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            extra = "".join(f"  {name} {p['weighted']:.3f}" for name, p in event["penalties"].items())
            left = duration(event["seconds_left"])
            bar(event["epoch"], f"step {event['step']}/{event['total_steps']}  ce {event['ce']:.3f}{extra}  {left} left")

    finish(api.train(wanted, name=name, on_event=seen, progress=bar), as_json)


def finish(result: dict[str, Any], as_json: bool) -> None:
    """Print what training came to; a failed run is exit code 1."""

    def text() -> None:
        if result["state"] == "failed":
            typer.echo(f"ema: {result['error']} {result['hint']}", err=True)
        else:
            typer.echo(
                f"{result['run_id']}  {result['state']} after {result['steps']} steps in {duration(result['seconds'])}, ce {result['ce']}"
            )

    emit(result, as_json, text)
    if result["state"] == "failed":
        raise typer.Exit(1)


def read_spec(path: Path) -> RunSpec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmaError(f"{path} cannot be read ({error}).", "Name a TOML or JSON file.") from None
    if path.suffix == ".json":
        return RunSpec.from_json(text)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmaError(f"{path} is not TOML: {error}.") from None
    return RunSpec.from_toml(text)


@command(app, "eval")
def evaluate(
    runs: Annotated[list[str], typer.Argument(help="Run ids, or clear beginnings or ends of them.")],
    suite: Annotated[list[str] | None, typer.Option(help="general or in-domain; both by default.")] = None,
    samples: Annotated[int | None, typer.Option(min=0, help="Answers a question; 0 = margin only.")] = None,
    preset: Annotated[str, typer.Option(help="demo (short) or paper.")] = "demo",
    judge: Annotated[str, typer.Option(help="Which judge scores the answers.")] = "probe",
    curve: Annotated[
        bool, typer.Option("--curve", help="Margins of an undefended run's checkpoints and scaled adapter, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure margin and sampled answers of runs."""
    from ema_core import api

    result = api.evaluate(runs, suite or ("general", "in-domain"), samples, preset, judge, curve, Bar())
    emit(result, as_json, lambda: criteria_table(result))


@command(app, "compare")
def compare(
    runs: Annotated[list[str], typer.Argument(help="Run ids.")],
    judge: Annotated[str, typer.Option(help="Whose scores; two judges are never mixed.")] = "probe",
    as_json: Json = False,
) -> None:
    """The four criteria of runs, with intervals and counts."""
    from ema_core import api

    result = api.compare(runs, judge)
    emit(result, as_json, lambda: criteria_table(result))


def criteria_table(result: dict[str, Any]) -> None:
    rows = []
    for run in result["runs"]:
        criteria = run["criteria"]
        general, narrow, coherence = criteria["general"] or {}, criteria["narrow"] or {}, criteria["coherence"] or {}
        rows.append(
            {
                "run": run["run_id"], "defense": " + ".join(run["defenses"]) or "none",
                "general margin": _span(general.get("margin"), "value", "low", "high", 1, "+.2f"),
                "prefer misaligned": _count(general.get("margin")), "narrow margin": _span(narrow.get("margin"), "value", "low", "high", 1, "+.2f"),
                "misaligned %": _span(general, "rate", "low", "high", 100, ".1f"),
                "mean aligned": _span(general, "mean", "mean_low", "mean_high", 1, ".1f"),
                "coherence": _span(coherence, "mean", "mean_low", "mean_high", 1, ".1f"),
                "scored/asked": f"{general.get('scored', '')}/{general.get('asked', '')}",
            }
        )  # fmt: skip
    if rows:
        table(rows, list(rows[0]))
        typer.echo(
            f"judge: {result['runs'][0]['judge']}; margins need no judge: change from the base, nats a token, up = worse; 95 % intervals"
        )


def _span(part: dict[str, Any] | None, value: str, low: str, high: str, factor: float, form: str) -> str:
    if not part or part.get(value) is None:
        return "-"
    text = f"{factor * part[value]:{form}}"
    if part.get(low) is not None and part.get(high) is not None:
        text += f" [{factor * part[low]:{form}}, {factor * part[high]:{form}}]"
    return text


def _count(margin: dict[str, Any] | None) -> str:
    if not margin:
        return "-"
    return f"{margin['prefer_misaligned']} of {margin['pairs']} (base {margin['base_prefer_misaligned']})"


@command(app, "defenses")
def defenses(as_json: Json = False) -> None:
    """The defenses there are, with the meaning of their strength."""
    from dataclasses import asdict

    from ema_core.defenses.registry import all_defenses

    rows = [
        {
            "name": kind.name, "title": kind.title, "summary": kind.summary, "reference": kind.reference, "cost": kind.cost, "fails": kind.fails,
            "strength": asdict(kind.strength_info), "options": kind.options_type.model_json_schema().get("properties", {}),
            "needs": sorted(kind.needs), "refuses": dict(kind.refuses),
        }
        for kind in all_defenses().values()
    ]  # fmt: skip

    def text() -> None:
        for row in rows:
            typer.echo(f"{row['name']}: {row['title']}. {row['summary']}")
            typer.echo(
                f"  strength: {row['strength']['meaning']}; default {row['strength']['default']:g}, paper {row['strength']['paper']}"
            )
            typer.echo(f"  cost: {row['cost']}\n  fails: {row['fails']}\n  source: {row['reference']}")
            for name, option in row["options"].items():
                typer.echo(f"  option {name}: {option.get('enum') or option.get('type')} (default {option.get('default')})")

    emit({"defenses": rows}, as_json, text)
