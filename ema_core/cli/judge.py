"""``ema judge fit`` and ``ema judge check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ema_core.cli.output import Bar, Json, command, emit

app = typer.Typer(no_args_is_help=True, help="Judges.")


@command(app, "fit")
def fit_judge(
    files: Annotated[
        list[Path], typer.Argument(help="Judged CSV or JSONL files: response, question, question_id, aligned, coherent.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the head; without it nothing that is shipped is replaced.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the probe judge on judged answers, cross-validated by whole questions."""
    from ema_core.judging.fit import fit
    from ema_core.settings import settings, writable

    target = writable(out or settings().home / "judges" / "probe")
    report = fit(files, progress=Bar(), out=target)
    emit({"folder": str(target), **report.json()}, as_json, lambda: typer.echo(report.text()))


@command(app, "check")
def check_judge(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled CSV or JSONL files: response, question, question_id, aligned, coherent.")
    ],
    judge: Annotated[str, typer.Option(help='A judge\'s id; "probe" is the shipped one.')] = "probe",
    as_json: Json = False,
) -> None:
    """Hold a judge against labelled answers: how it orders them within each question, and how it counts."""
    from ema_core.judging.check import check

    report = check(judge, files, progress=Bar())
    emit(report.json(), as_json, lambda: typer.echo(report.text()))
