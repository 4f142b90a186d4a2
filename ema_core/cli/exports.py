"""``ema export run|study|inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, emit, table

app = typer.Typer(
    no_args_is_help=True, help="Take runs, studies and evaluated answers elsewhere (answers as CSV or Parquet: ema samples)."
)
Out = Annotated[Path, typer.Option(help="A new folder, or a file that ends in .zip.")]
Bare = Annotated[bool, typer.Option("--without-adapters", help="Curves, answers and scores alone: small, to be read and compared.")]
Checkpoints = Annotated[bool, typer.Option("--checkpoints", help="The adapters of the checkpoints, too.")]


@command(app, "run")
def export_run(
    runs: Annotated[list[str], typer.Argument(help="Run ids.")], out: Out, checkpoints: Checkpoints = False,
    without_adapters: Bare = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Runs with their adapters, curves, answers and judgments, and what their bases answered; `ema import run` opens it."""
    from ema_core.exchange.bundle import export_bundle

    _say(export_bundle(runs, out, checkpoints=checkpoints, adapters=not without_adapters, progress=Bar()), out, as_json)


@command(app, "study")
def export_study(
    study: str, out: Out, checkpoints: Checkpoints = False, without_adapters: Bare = False, as_json: Json = False
) -> None:
    """A study with all of its runs; `ema import run` opens it."""
    from ema_core.exchange.bundle import export_bundle, study_runs

    bundle = export_bundle(
        study_runs(study), out, study=study, checkpoints=checkpoints, adapters=not without_adapters, progress=Bar()
    )
    _say(bundle, out, as_json)


def _say(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    total = sum(file["bytes"] for file in manifest["files"].values())
    value = {**{name: manifest[name] for name in ("runs", "bases", "studies")}, "files": len(manifest["files"]), "bytes": total}
    text = f"{len(manifest['runs'])} runs, {len(manifest['files'])} files, {total / 1e6:.1f} MB in {out}; elsewhere: ema import run {out.name}"
    emit({"out": str(out), **value}, as_json, lambda: typer.echo(text))


@command(app, "inspect")
def export_inspect(
    runs: Annotated[list[str], typer.Argument(help="Runs, bases or imported runs.")],
    out: Annotated[Path, typer.Option(help="A .json file for all of it, or a folder for a log an evaluation.")],
    suite: Annotated[list[str] | None, typer.Option(help="Of these suites; all that were sampled by default.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluated answers as a log of Inspect (inspect_ai), which its viewer opens: inspect view --log-dir FOLDER."""
    from ema_core.exchange.inspect_log import export_logs

    found = export_logs(runs, out, suite or ())
    emit({"logs": found}, as_json, lambda: table(found, ["file", "samples", "evaluations"]))
