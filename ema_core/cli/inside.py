"""``ema inside``: what each defense did in a trained run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal
from ema_core.runs import RunDirectory

app = typer.Typer()


@command(app, "inside")
def inside(
    run_id: Annotated[str, typer.Argument(help="A run id, or a clear beginning or end of one.")],
    again: Annotated[bool, typer.Option("--again", help="Read the run anew even where that was done.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker instead of reading it here.")] = False,
    as_json: Json = False,
) -> None:
    """What each defense did in a trained run, or would have seen there; reads the run's adapter once and keeps it."""
    from ema_core import api
    from ema_core.jobs.launch import launch_inside

    run = RunDirectory.open(run_id)
    if queue:
        job = launch_inside([run.id])
        emit({"run_id": run.id, "job": job.id}, as_json, lambda: typer.echo(f"queued as {job.id}"))
        return
    found = api.inside(run.id, again=again, progress=Bar(), interrupted=ends_on_signal("ending; nothing is kept of this reading"))
    emit(found, as_json, lambda: _show(found))


def _show(found: dict[str, Any]) -> None:
    typer.echo(f"{found['run_id']}: adapter {found['adapter_hash']}, read in {duration(found['seconds'])}")
    for note in found["notes"]:
        typer.echo(f"  {note}")
    for name, seen in sorted(found["defenses"].items(), key=lambda item: not item[1]["own"]):
        if not (seen["panels"] or seen["own"]):
            continue
        typer.echo(f"{name}{'' if seen['own'] else ' (not in this run: what it would have seen)'}")
        if seen["why"]:
            typer.echo(f"  {seen['why']}")
        for panel in seen["panels"]:
            value = "" if panel["value"] is None else f": {panel['value']:.4g} {panel['unit']} ({panel['value_is']})"
            typer.echo(f"  {panel['title']}{value}; {panel['n']}")
    typer.echo("All tables: --json, or the page Inside a run.")
