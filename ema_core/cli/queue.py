"""``ema queue list|move|cancel|undo``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, duration, emit, table
from ema_core.errors import EmaError
from ema_core.jobs import cancelled, launch, queue
from ema_core.jobs.forecast import forecast
from ema_core.jobs.status import worker_status
from ema_core.runs import RunDirectory

app = typer.Typer(no_args_is_help=True, help="The queue: what runs and waits, in which order, for how long.")
JobId = Annotated[str, typer.Argument(help="A job's or a run's id, or a clear beginning or end of one.")]


@command(app, "list")
def list_jobs(as_json: Json = False) -> None:
    """What is at work and what waits, in order, with estimates of when each begins and how long it takes."""
    jobs = [job for job in queue.jobs() if job.status in ("queued", "running")]
    seen = forecast(jobs)
    rows = [_row(place, job, seen.turns[job.id].starts, seen.turns[job.id].takes) for place, job in enumerate(jobs, 1)]

    def text() -> None:
        if not rows:
            typer.echo("The queue is empty.")
            return
        words = ("starts_in_s", "takes_s")
        table([{**row, **{name: _words(row[name]) for name in words}} for row in rows], ["place", "job_id", "status", *words])
        more = f", {seen.unknown} without an estimate" if seen.unknown else ""
        typer.echo(f"{seen.waiting} waiting; about {duration(seen.seconds)} in all{more}.")
        if not worker_status().alive:
            typer.echo("No worker is running: start `ema app` or `ema worker`.", err=True)

    emit({"jobs": rows, "seconds": round(seen.seconds, 1), "unknown": seen.unknown}, as_json, text)


def _row(place: int, job: queue.Job, starts: float | None, takes: float | None) -> dict[str, Any]:
    return {
        "place": place, "job_id": job.id, "kind": job.kind, "status": job.status, "runs": job.runs, "activity": job.activity,
        "starts_in_s": None if starts is None else round(starts, 1), "takes_s": None if takes is None else round(takes, 1),
    }  # fmt: skip


def _words(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


@command(app, "move")
def move(
    job: JobId, where: Annotated[str, typer.Argument(help="up, down, first or last, among those that wait.")], as_json: Json = False
) -> None:
    """Give a waiting job another place."""
    if where not in ("up", "down", "first", "last"):
        raise EmaError(f'"{where}" is no place.', "Say up, down, first or last.")
    moved = queue.move(find(job).id, where)  # type: ignore[arg-type]
    place = [one.id for one in queue.jobs() if one.status == "queued"].index(moved.id) + 1
    emit({"job_id": moved.id, "place": place}, as_json, lambda: typer.echo(f"{moved.id}  place {place} among those that wait"))


@command(app, "cancel")
def cancel(
    job: Annotated[str | None, typer.Argument(help="A job's or a run's id, or a clear beginning or end of one.")] = None,
    all_waiting: Annotated[bool, typer.Option("--all", help="Everything that waits; what runs goes on.")] = False,
    as_json: Json = False,
) -> None:
    """Take a job out of the queue, or all that wait; a job at work is asked to end. `ema queue undo` puts waiting ones back."""
    if (job is None) != all_waiting:
        raise EmaError("Say which job, or --all.", "`ema queue list` shows them.")
    if all_waiting:
        gone = cancelled.cancel_all()
    else:
        one = find(job or "")
        if one.status == "running":
            end(one)
            emit({"cancelled": [], "ending": one.id}, as_json, lambda: typer.echo(f"{one.id}  asked to end"))
            return
        gone = cancelled.cancel([one.id])
    ids = [one.id for one in gone]
    emit({"cancelled": ids}, as_json, lambda: typer.echo("\n".join(f"{name}  cancelled" for name in ids) or "Nothing waits."))


def end(job: queue.Job) -> None:
    """A run in training is stopped, and keeps its adapter; anything else is asked to end."""
    if job.kind == "train":
        launch.request(RunDirectory.open(job.runs[0]), "stop")
    else:
        queue.cancel(job.id)


@command(app, "undo")
def undo(as_json: Json = False) -> None:
    """Put back what the last cancel took out, each job at its old place."""
    back = [job.id for job in cancelled.undo()]
    emit({"queued": back}, as_json, lambda: typer.echo("\n".join(f"{name}  queued" for name in back)))


def find(text: str) -> queue.Job:
    """An open job by its id, or by that of its one run.

    Raises:
        EmaError: none, or several.
    """
    opened = [job for job in queue.jobs() if job.status in ("queued", "running")]
    names = {job.id: [job.id, *(job.runs if job.kind == "train" else [])] for job in opened}
    fitting = [
        job for job in opened if job.id == text or any(name.startswith(text) or name.endswith(text) for name in names[job.id])
    ]
    exact = [job for job in fitting if text in names[job.id]] or fitting
    if len(exact) != 1:
        what = f"fits {len(exact)} jobs" if exact else "is no job that waits or runs"
        raise EmaError(f'"{text}" {what}.', "`ema queue list` shows them.")
    return exact[0]
