"""``ema study run|status|list|cancel`` and ``ema setting complete|recommend``."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, duration, emit, table
from ema_core.errors import EmaError
from ema_core.jobs import studies
from ema_core.jobs.status import worker_status
from ema_core.jobs.study_status import StudyStatus, narrow_runs, status
from ema_core.processes import die_with_parent
from ema_core.runs import StudySpec
from ema_core.settings import settings, writable

app = typer.Typer(no_args_is_help=True, help="Studies: many runs from one file, gone on with after any stop.")
setting_app = typer.Typer(no_args_is_help=True, help="Settings: what is compared over its seeds.")
Which = Annotated[str, typer.Argument(help="A study's id, a clear beginning of one, or its TOML file.")]
POLL_SECONDS = 1.0
WAIT_FOR_WORKER = 20
"""Seconds that a worker, which has ended while it was followed, gets to come back (`ema app` restarts its own)."""


@command(app, "run")
def run(
    file: Annotated[Path, typer.Argument(help="The study as TOML; docs/studies/ has one.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about a large number of runs.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker, and do not wait.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed and stopped runs again.")] = False,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out cells that cannot be run.")] = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate what a study asks for; what is there is not done again. Starting it again goes on with it."""
    spec = StudySpec.read(file)
    study_id = studies.start(spec, confirmed=yes, retry=retry, skip_invalid=skip_invalid)
    typer.echo(study_id, err=True)
    if queue:
        show(status(study_id), as_json)
        return
    with ending() as asked:
        follow(study_id, asked)
    now = status(study_id)
    finish(now, as_json)
    if asked.is_set():
        typer.echo(f"ema: ended early; go on with: ema study run {file}", err=True)
        raise typer.Exit(130)
    if not now.complete:
        raise typer.Exit(1)


@contextlib.contextmanager
def ending() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM; a second one ends the process at once."""
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        typer.echo("\nema: ending; what runs writes a checkpoint first (once more: at once)", err=True)
        asked.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)
    yield asked


def follow(study_id: str, asked: threading.Event) -> None:
    """Show the progress until nothing of it is at work or in the queue. Where no worker lives, one of our own works the queue."""
    bar, own, seen = Bar(), None, 0.0
    try:
        while (now := status(study_id)).going and not asked.is_set():
            bar(min(0.999, now.share), line(now))
            if worker_status().alive:
                seen = time.monotonic()
            elif own is None and time.monotonic() - seen > (WAIT_FOR_WORKER if seen else 0):
                own = start_worker()
            if own is not None and own.poll() is not None:
                if own.returncode and worker_status().alive:
                    own = None  # another one was faster
                    continue
                if own.returncode:
                    raise EmaError(
                        f"The worker ended with exit code {own.returncode}.", f"Its log is {settings().logs / 'worker.log'}."
                    )
                return  # the queue is empty, or waits for what somebody paused
            asked.wait(POLL_SECONDS)
        bar(1.0 if now.complete else min(0.999, now.share), line(now))
    finally:
        if own is not None and own.poll() is None:
            own.terminate()
            own.wait()


def start_worker() -> subprocess.Popen[bytes]:
    """A worker that ends when the queue is empty, or with us. In a session of its own, so that Ctrl-C reaches it through us."""
    with open(writable(settings().logs) / "worker.log", "ab") as log:
        words = [sys.executable, "-m", "ema_core.cli.main", "worker", "--once"]
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent
        )


def line(now: StudyStatus) -> str:
    """One line: counts, time left, what is at work."""
    trained = sum(cell.trained for cell in now.cells)
    parts = [f"{trained} of {now.total} trained", f"{now.count('done')} done"]
    parts += [f"{now.count('failed')} failed"] if now.count("failed") else []
    parts += [f"{now.left} left", f"about {duration(now.seconds_left)}"] if now.left else []
    at_work = [cell for cell in now.cells if cell.state == "running"]
    parts += [f"{at_work[0].defense} s{at_work[0].seed}: {at_work[0].doing}"] if len(at_work) == 1 else []
    parts += [f"{len(at_work)} are being evaluated"] if len(at_work) > 1 else []
    return ", ".join(parts)


def show(now: StudyStatus, as_json: bool) -> None:
    """Every cell, and the counts."""

    def text() -> None:
        table(
            [vars(cell) | {"#": cell.number} for cell in now.cells],
            ["#", "state", "task", "dataset", "defense", "seed", "run", "doing"],
        )
        reasons(now)
        typer.echo(line(now))

    emit(now.json(), as_json, text)


def reasons(now: StudyStatus) -> None:
    for cell in now.cells:
        if cell.reason:
            typer.echo(f"  {cell.number} ({cell.defense}, seed {cell.seed}) {cell.state}: {cell.reason}")


def finish(now: StudyStatus, as_json: bool) -> None:
    """The comparison of what there is, after the last of it."""
    from ema_core import api
    from ema_core.cli.compare import criteria_table

    runs = narrow_runs(now)
    compared: dict[str, Any] = api.compare(runs) if runs else {"runs": [], "settings": []}

    def text() -> None:
        reasons(now)
        criteria_table(compared)
        typer.echo(f"{now.id}: {line(now)}")

    emit({"study": now.json(), **compared}, as_json, text)


@command(app, "status")
def show_status(
    which: Annotated[str | None, typer.Argument(help="Id or TOML file; the newest by default.")] = None, as_json: Json = False
) -> None:
    """Done, failed, running, waiting, and the time left."""
    known = studies.study_ids()
    if which is None and not known:
        raise EmaError("No study was started yet.", "`ema study run FILE.toml` starts one.")
    show(status(find(which) if which else known[-1]), as_json)


def find(which: str) -> str:
    path = Path(which)
    if path.suffix.lower() != ".toml":
        return studies.find(which)
    spec = StudySpec.read(path)
    if spec.id not in studies.study_ids():
        raise EmaError(f"The study in {path} was not started yet.", f"`ema study run {path}` starts it.")
    return spec.id


@command(app, "list")
def list_studies(as_json: Json = False) -> None:
    """Every study with its counts, the newest last."""
    rows, damaged = [], []
    for study_id in studies.study_ids():
        try:
            rows.append({key: value for key, value in status(study_id).json().items() if key != "cells"})
        except EmaError as error:
            damaged.append({"id": study_id, "why": error.message})

    def text() -> None:
        if not rows:
            typer.echo("No study yet. `ema study run FILE.toml` starts one.")
        else:
            table(rows, ["id", "recorded", "total", "done", "failed", "running", "waiting", "resting"])
        for row in damaged:
            typer.echo(f"damaged: {row['id']}: {row['why']}", err=True)

    emit({"studies": rows, "damaged": damaged}, as_json, text)


@command(app, "cancel")
def cancel(which: Which, as_json: Json = False) -> None:
    """Take what waits out of the queue. What runs goes on to its end; `ema study run` goes on with the rest."""
    study_id = find(which)
    if studies.recorded_as(study_id):
        raise EmaError(f"{study_id} was recorded elsewhere: nothing of it waits here.", "`ema recorded remove` takes it away.")
    count = studies.cancel(study_id)
    emit(
        {"id": study_id, "cancelled": count},
        as_json,
        lambda: typer.echo(f"{study_id}: {count} waiting jobs taken out of the queue"),
    )


@command(setting_app, "complete")
def complete(
    which: Annotated[str, typer.Argument(help="A run of the setting, or the setting's key.")],
    task: Annotated[str, typer.Option(help="The benign task.")] = "opswap",
    as_json: Json = False,
) -> None:
    """Queue the sibling runs on the benign task that a setting lacks, and their evaluation."""
    from ema_core.jobs import siblings

    found = siblings.complete(which, task)
    value = {"siblings": found.siblings, "made": found.made, "job_id": found.evaluation.id if found.evaluation else None}

    def text() -> None:
        for run_id, sibling in found.siblings.items():
            typer.echo(f"{run_id}  {'queued' if sibling in found.made else 'there already'}: {sibling}")
        typer.echo("evaluation queued" if found.evaluation else "evaluated already, or about to be")
        if (found.made or found.evaluation) and not worker_status().alive:
            typer.echo("no worker is running: start `ema app` or `ema worker`")

    emit(value, as_json, text)


@command(setting_app, "recommend")
def recommend(
    runs: Annotated[list[str], typer.Argument(help="Runs of one model, data set and recipe; their undefended twins come along.")],
    defense: Annotated[str, typer.Option(help="The defense, with its options as in kl:tokens=response.")],
    keep: Annotated[float, typer.Option(min=0, max=1, help="Share of the undefended learning that is to be kept.")] = 0.9,
    as_json: Json = False,
) -> None:
    """Which strength of a defense to take: the lowest general margin among those that keep enough of what is to be learned."""
    from ema_core import api
    from ema_core.defenses import registry

    registry.find(defense.partition(":")[0])
    found = api.recommend(runs, defense, keep)

    def text() -> None:
        if found["strength"] is None:
            typer.echo(f"{defense}, keeping {keep:.0%}: none: {found['why']}")
        else:
            typer.echo(f"{defense}, keeping {keep:.0%}: strength {found['strength']:g}")
            typer.echo(f"general margin: {estimate(found['general'])}; undefended: {estimate(found['general_undefended'])}")
            kept = [f"{name} {found[f'{name}_kept']:.0%}" for name in ("narrow", "benign") if found[f"{name}_kept"] is not None]
            typer.echo(f"learning kept: {', '.join(kept) or 'not measured'}")
            typer.echo("chosen on one half of the pairs; these numbers are of the other half (margin, no judge)")
        for note in found["notes"]:
            typer.echo(f"note: {note}")

    emit(found, as_json, text)


def estimate(value: dict[str, Any] | None) -> str:
    """``-0.52 [-0.60, -0.44], n = 24 pairs, 3 seeds``."""
    if value is None or value["value"] is None:
        return "not measured"
    span = "" if value["low"] is None or value["high"] is None else f" [{value['low']:+.3f}, {value['high']:+.3f}]"
    return f"{value['value']:+.3f}{span}, n = {value['n']} pairs, {value['seeds']} seed{'' if value['seeds'] == 1 else 's'}"
