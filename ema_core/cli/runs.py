"""``ema runs list|show|diff|best|rename|tag|note|pause|stop|resume|delete``."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, duration, emit, ends_on_signal, fail, table
from ema_core.jobs import launch
from ema_core.runs import RunDirectory, differences, probes, read_label, run_ids, steps, write_label
from ema_core.store.rows import NOT_STATED
from ema_core.training.best import best_state

app = typer.Typer(no_args_is_help=True, help="List, show, name, compare, pause, stop, resume and delete runs.")
RunId = Annotated[str, typer.Argument(help="A run id, or a clear beginning or end of one.")]


def summary(run: RunDirectory) -> dict[str, Any]:
    spec, state, label = run.spec, run.state(), read_label(run)
    defense = NOT_STATED if "imported" in state.found else spec.defense_label
    return {
        "run_id": run.id, "state": str(state.status), "model": spec.model, "dataset": spec.dataset, "defense": defense,
        "seed": spec.seed, "recorded": state.recorded, "step": state.step, "total_steps": state.total_steps, "seconds": round(state.seconds, 1), "name": label.name,
        "tags": list(label.tags), "note": label.note, "error": state.error, "hint": state.hint,
    }  # fmt: skip


@command(app, "list")
def list_runs(
    tag: Annotated[list[str] | None, typer.Option(help="Only runs with this tag; may be given several times.")] = None,
    as_json: Json = False,
) -> None:
    """All runs, oldest first."""
    rows, damaged = [], []
    from ema_core.errors import EmaError

    for run_id in run_ids():
        try:
            row = summary(RunDirectory.open(run_id))
            if {one.casefold() for one in tag or ()} <= {one.casefold() for one in row["tags"]}:
                rows.append(row)
        except EmaError as error:
            damaged.append({"run_id": run_id, "why": error.message})

    def text() -> None:
        if not rows and tag:
            typer.echo("No run has this tag; `ema runs tag RUN TAG` gives one.")
        elif not rows:
            typer.echo("No runs yet. `ema train` starts one; `ema app` opens the dashboard.")
        else:
            table(
                rows,
                [
                    "run_id",
                    "state",
                    "defense",
                    "step",
                    "total_steps",
                    "name",
                    *(["recorded"] if any(row["recorded"] for row in rows) else []),
                ],
            )
        for row in damaged:
            typer.echo(f"damaged: {row['run_id']}: {row['why']}", err=True)

    emit({"runs": rows, "damaged": damaged}, as_json, text)


@command(app, "show")
def show(
    run_id: RunId,
    toml: Annotated[bool, typer.Option("--toml", help="The spec alone, as `ema train --spec` reads it.")] = False,
    as_json: Json = False,
) -> None:
    """One run: spec, state, last losses, evaluations."""
    run = RunDirectory.open(run_id)
    if toml:
        typer.echo(run.spec.to_toml())
        return
    events = run.events()[0]
    done = steps(events)
    value = {
        **summary(run), "spec": run.spec.model_dump(mode="json"), "found": run.state().found, "peak_memory": run.state().peak_memory or None, "estimated": run.state().estimated, "notes": run.state().notes, "last": done[-1] if done else None, "probes": probes(events),
        "checkpoints": run.checkpoint_steps(), "evals": sorted(p.name for p in run.evals.glob("*")), "run_dir": str(run.path),
    }  # fmt: skip

    def text() -> None:
        typer.echo(f"{run.id}  {value['state']}  step {value['step']} of {value['total_steps']}  {duration(value['seconds'])}")
        if value["peak_memory"]:
            said = value["estimated"]
            before = f" (estimated: {said['memory'] / 1e9:.1f} GB, {duration(said['seconds'])})" if said else ""
            typer.echo(f"  {value['peak_memory'] / 1e9:.1f} GB of memory at most{before}")
        if value["recorded"]:
            typer.echo(f"  recorded elsewhere: study {value['recorded']} (ema recorded list)")
        if value["error"]:
            typer.echo(f"  {value['error']} {value['hint']}")
        for note in value["notes"]:
            typer.echo(f"  {note}")
        _label_lines(value)
        typer.echo(f"checkpoints: {value['checkpoints']}\nevaluations: {value['evals']}\nfolder: {value['run_dir']}\n")
        typer.echo(run.spec.to_toml())

    emit(value, as_json, text)


def _label_lines(row: dict[str, Any]) -> None:
    for word in ("name", "tags", "note"):
        if said := ", ".join(row["tags"]) if word == "tags" else row[word]:
            typer.echo(f"  {word}: {said}")


def _labelled(run: RunDirectory, as_json: bool) -> None:
    label = read_label(run)
    value = {"run_id": run.id, "name": label.name, "tags": list(label.tags), "note": label.note}

    def text() -> None:
        typer.echo(run.id)
        _label_lines(value)

    emit(value, as_json, text)


@command(app, "rename")
def rename(
    run_id: RunId, name: Annotated[str, typer.Argument(help="The new name; empty takes it away.")], as_json: Json = False
) -> None:
    """Give a run another name; its id and its numbers stay."""
    run = RunDirectory.open(run_id)
    write_label(run, name=name)
    _labelled(run, as_json)


@command(app, "tag")
def tag(
    run_id: RunId,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to take away; may be given several times.")] = None,
    as_json: Json = False,
) -> None:
    """Add tags to a run, or take them away; without any, show what it has."""
    run = RunDirectory.open(run_id)
    if tags or remove:
        away = {one.casefold() for one in remove or ()}
        write_label(run, tags=[*(one for one in read_label(run).tags if one.casefold() not in away), *(tags or ())])
    _labelled(run, as_json)


@command(app, "note")
def note(
    run_id: RunId,
    text: Annotated[str | None, typer.Argument(help="The new note; empty takes it away. Without it, the note is shown.")] = None,
    as_json: Json = False,
) -> None:
    """Write a free note on a run, in the place of the one it has."""
    run = RunDirectory.open(run_id)
    if text is not None:
        write_label(run, note=text)
    _labelled(run, as_json)


@command(app, "diff")
def diff(
    old: Annotated[str, typer.Argument(help="The run that is compared with.")],
    new: Annotated[str, typer.Argument(help="The run whose changes are shown.")],
    as_json: Json = False,
) -> None:
    """What changes from one run's settings to another's."""
    one, other = RunDirectory.open(old), RunDirectory.open(new)
    rows = [{"field": change.field, "old": change.old, "new": change.new} for change in differences(one.spec, other.spec)]
    value = {"old": one.id, "new": other.id, "changes": rows}
    emit(
        value, as_json, lambda: table(rows, ["field", "old", "new"]) if rows else typer.echo("Nothing: the same settings and seed.")
    )


@command(app, "best")
def best(
    run_id: RunId,
    margin: Annotated[float | None, typer.Option(help="General margin to stay under; else the run's own rule, else none.")] = None,
    as_json: Json = False,
) -> None:
    """Which state of a run learned the narrow task most while the general margin stayed under a limit, by its live probes."""
    run = RunDirectory.open(run_id)
    found = best_state(run, margin)
    value = {"run_id": run.id, **asdict(found), "model": found.model(run.id)}
    emit(value, as_json, lambda: typer.echo(found.words))


def _ask(run_id: str, what: str, wait: float, as_json: bool) -> None:
    run = RunDirectory.open(run_id)
    launch.request(run, what)
    until = time.monotonic() + wait
    while run.state().status.active and time.monotonic() < until:
        time.sleep(0.2)
    state = run.state()
    emit(
        {"run_id": run.id, "state": str(state.status), "step": state.step}, as_json, lambda: typer.echo(f"{run.id}  {state.status}")
    )
    if state.status.active:
        typer.echo(f"ema: asked for; the run has not come to it within {wait:g} s.", err=True)
        raise typer.Exit(1)


Wait = Annotated[float, typer.Option(help="Seconds to wait until it has happened.")]


@command(app, "pause")
def pause(run_id: RunId, wait: Wait = 60, as_json: Json = False) -> None:
    """Checkpoint a run and let it rest."""
    _ask(run_id, "pause", wait, as_json)


@command(app, "stop")
def stop(run_id: RunId, wait: Wait = 60, as_json: Json = False) -> None:
    """End a run where it is; its adapter is kept and can be evaluated."""
    _ask(run_id, "stop", wait, as_json)


@command(app, "resume")
def resume(
    run_id: RunId,
    here: Annotated[bool, typer.Option("--here", help="Train it in this process instead of queueing it.")] = False,
    as_json: Json = False,
) -> None:
    """Go on from the last checkpoint."""
    run = RunDirectory.open(run_id)
    if here:
        from ema_core import api
        from ema_core.cli.output import Bar
        from ema_core.cli.train import finish, step_line

        bar = Bar()
        finish(api.resume(run, on_event=step_line(bar), progress=bar, interrupted=ends_on_signal()), as_json)
        return
    job = launch.resume(run)
    from ema_core.jobs.status import worker_status

    note = "" if worker_status().alive else " (no worker is running: start `ema app` or `ema worker`)"
    emit({"run_id": run.id, "state": "queued", "job_id": job.id}, as_json, lambda: typer.echo(f"{run.id}  queued{note}"))


@command(app, "delete")
def delete(
    run_id: RunId, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, as_json: Json = False
) -> None:
    """Delete a run with its adapter and evaluations."""
    run = RunDirectory.open(run_id)
    if not yes and (as_json or not sys.stdin.isatty()):
        fail("Nothing was deleted: nobody can be asked here. Add --yes.")
    if not yes and not typer.confirm(f"Delete {run.id} and everything in it?", err=True):
        fail("Nothing was deleted.")
    launch.delete(run)
    emit({"run_id": run.id, "deleted": True}, as_json, lambda: typer.echo(f"deleted {run.id}"))
