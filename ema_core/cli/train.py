"""``ema train``, ``ema defenses``."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal
from ema_core.errors import EmaError
from ema_core.runs import PRESETS, RunDirectory, RunSpec, parse, parse_defense, parse_probes, recipe

app = typer.Typer()


@command(app, "train")
def train(
    context: typer.Context,
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
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="The gradient is clipped to this norm.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    probes: Annotated[
        str, typer.Option(help="When to look at the margin while it trains: auto, none, or steps (10,20,30).")
    ] = "auto",
    stop_margin: Annotated[
        float | None, typer.Option(help="End the run once the general margin (change from the base) is above this.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of order, adapter and defenses.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    gradient_checkpointing: Annotated[
        str, typer.Option(help="auto, on or off: compute activations twice, in less memory; auto where they would not fit.")
    ] = "auto",
    name: Annotated[str, typer.Option(help="A name for your own use.")] = "",
    spec: Annotated[Path | None, typer.Option(help="A run spec as TOML or JSON instead of the options above.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker instead of training here.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model, with or without defenses."""
    if spec is not None:
        own = ("spec", "name", "queue", "as_json")
        given = [key for key in context.params if key not in own and _typed(context, key)]
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            raise EmaError(f"--spec says all of a run, so {flag} cannot stand beside it.", f"Change the spec, or leave out {flag}.")
        wanted = read_spec(spec)
    else:
        changes = {
            "steps": steps, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "rank": rank, "alpha": alpha,
            "max_length": max_length, "warmup_steps": warmup_steps, "weight_decay": weight_decay, "clip_norm": clip_norm,
            "checkpoint_every": checkpoint_every,
        }  # fmt: skip
        wanted = parse(
            RunSpec,
            {
                "model": model, "dataset": dataset, "safe_pool": safe_pool, "defenses": [parse_defense(text) for text in defense or []],
                "recipe": recipe(preset, **changes), "probes": parse_probes(probes, stop_margin), "seed": seed, "device": device,
                "gradient_checkpointing": gradient_checkpointing,
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
    result = api.train(
        wanted, name=name, on_event=step_line(bar), progress=bar, interrupted=ends_on_signal(),
        on_start=lambda run: typer.echo(run.id, err=True),
    )  # fmt: skip
    finish(result, as_json)


def _typed(context: typer.Context, key: str) -> bool:
    source = context.get_parameter_source(key)
    return source is not None and source.name == "COMMANDLINE"


def step_line(bar: Bar) -> Callable[[dict[str, Any]], None]:
    """Shows a run's step events on ``bar``."""

    margin = ""

    def seen(event: dict[str, Any]) -> None:
        nonlocal margin
        if event["kind"] == "probe" and event["general"] is not None:
            margin = f"  margin {event['general']:+.2f}"
        if event["kind"] == "step":
            extra = "".join(f"  {name} {p['weighted']:.3f}" for name, p in event["penalties"].items())
            left = duration(event["seconds_left"])
            bar(event["epoch"], f"step {event['step']}/{event['total_steps']}  ce {event['ce']:.3f}{extra}{margin}  {left} left")

    return seen


def finish(result: dict[str, Any], as_json: bool) -> None:
    """Print what training came to; a failed run is exit code 1, an interrupted one 130."""
    for note in RunDirectory.open(result["run_id"]).state().notes:
        typer.echo(f"ema: {note}", err=True)

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
    if result["state"] == "paused":
        typer.echo(f"ema: paused at step {result['steps']}; go on with: ema runs resume {result['run_id']} --here", err=True)
        raise typer.Exit(130)


def read_spec(path: Path) -> RunSpec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmaError(f"{path} cannot be read ({error}).", "Name a TOML or JSON file.") from None
    if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        return RunSpec.from_json(text)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmaError(f"{path} is not TOML: {error}.") from None
    return RunSpec.from_toml(text)


@command(app, "defenses")
def defenses(as_json: Json = False) -> None:
    """The defenses there are, with the meaning of their strength."""
    from dataclasses import asdict

    from ema_core.defenses.registry import all_defenses

    rows = [
        {
            "name": kind.name, "title": kind.title, "summary": kind.summary, "reference": kind.reference, "cost": asdict(kind.cost), "fails": kind.fails,
            "strength": asdict(kind.strength_info), "options": kind.options_type.model_json_schema().get("properties", {}),
            "needs": sorted(kind.needs), "refuses": dict(kind.refuses),
        }
        for kind in all_defenses().values()
    ]  # fmt: skip

    def text() -> None:
        for row in rows:
            typer.echo(f"{row['name']}: {row['title']}. {row['summary']}")
            typer.echo(
                f"  strength: {row['strength']['meaning']}; default {row['strength']['default']:g}"
                + (f", paper {row['strength']['paper']:g}" if row["strength"]["paper"] is not None else "")
            )
            for what, words in row["cost"].items():
                typer.echo(f"  {what}: {words}")
            typer.echo(f"  fails: {row['fails']}\n  source: {row['reference']}")
            for name, option in row["options"].items():
                words = f". {option['description']}" if "description" in option else ""
                typer.echo(f"  option {name}: {option.get('enum') or option.get('type')} (default {option.get('default')}){words}")

    emit({"defenses": rows}, as_json, text)
