"""``ema report``, ``ema published``: what was found as one file, and what others published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, emit, table

app = typer.Typer()


@command(app, "report")
def report(
    runs: Annotated[list[str], typer.Argument(help="Run ids; their undefended twins and benign siblings come along.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    judge: Annotated[str, typer.Option(help="Whose scores; two judges are never mixed.")] = "probe",
    keep: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the learning that a recommended strength keeps.")] = 0.9,
    as_json: Json = False,
) -> None:
    """One HTML file of runs: scorecard, figures, sample answers, specs, how to make it again. It loads nothing from anywhere."""
    from ema_core import api

    found = api.report(runs, out, judge, keep)
    emit(
        found,
        as_json,
        lambda: typer.echo(f"{found['out']}: {len(found['runs'])} runs, {found['bytes'] / 1e6:.1f} MB, judge {found['judge']}"),
    )


@command(app, "published")
def published(as_json: Json = False) -> None:
    """Numbers that others published, with source, model, judge and n: never mixed with ours."""
    from ema_core.evaluation.published import published as tables

    emit({"tables": [found.json() for found in tables()]}, as_json, lambda: _tell(tables()))


def _tell(tables: tuple[Any, ...]) -> None:
    for found in tables:
        typer.echo(f"{found.title} ({found.unit})")
        rows = found.table().to_dict("records")
        table(
            [{name: "-" if value is None or value != value else value for name, value in row.items()} for row in rows],
            list(rows[0]),
        )
        typer.echo(
            f"model: {found.model}; data: {found.data}; judge: {found.judge}; n: {found.n}\nsource: {found.source}; {found.taken_from}\n"
        )
