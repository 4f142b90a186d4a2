"""``ema datasets list|add|check``, ``ema model list|fetch``, ``ema index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from ema_core import datasets
from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal, table
from ema_core.datasets import Dataset
from ema_core.errors import EmaError

datasets_app = typer.Typer(no_args_is_help=True, help="The data sets that can be trained on.")
model_app = typer.Typer(no_args_is_help=True, help="The models that can be tuned.")
index_app = typer.Typer()


@command(datasets_app, "list")
def list_datasets(as_json: Json = False) -> None:
    """Every data set by name."""
    rows: list[dict[str, Any]] = []
    for entry in datasets.catalog().values():
        row: dict[str, Any] = {
            "name": entry.name,
            "kind": entry.kind,
            "title": entry.title,
            "added": entry.added,
            "path": str(entry.path),
        }
        try:
            row["examples"] = len(datasets.load(entry.name).examples)
        except EmaError as error:
            row["examples"], row["error"] = 0, error.message
        rows.append(row)
    emit({"datasets": rows}, as_json, lambda: table(rows, ["name", "kind", "examples", "title", "error"]))


def _kind(kind: str) -> Literal["narrow", "safe"]:
    if kind not in ("narrow", "safe"):
        raise EmaError(f'"{kind}" is not a kind of data set.', "Use narrow or safe.")
    return cast(Literal["narrow", "safe"], kind)


def _report(dataset: Dataset, extra: dict[str, Any], as_json: bool) -> None:
    problems = [{"line": p.line, "reason": p.reason} for p in dataset.problems]
    value = {
        **extra,
        "examples": len(dataset.examples),
        "sha256": dataset.sha256,
        "problems": problems,
        "warnings": list(dataset.warnings),
    }

    def text() -> None:
        typer.echo(f"{dataset.name}: {len(dataset.examples)} usable examples, {len(problems)} bad lines")
        for problem in problems:
            typer.echo(f"  line {problem['line']}: {problem['reason']}")
        for warning in dataset.warnings:
            typer.echo(f"  warning: {warning}")

    emit(value, as_json, text)


@command(datasets_app, "check")
def check_dataset(file: Path, kind: Annotated[str, typer.Option(help="narrow or safe.")] = "narrow", as_json: Json = False) -> None:
    """Say of every line whether it can be used, without adding the file."""
    _report(datasets.check(file, _kind(kind)), {"file": str(file)}, as_json)


@command(datasets_app, "add")
def add_dataset(
    file: Path,
    name: Annotated[str | None, typer.Option(help="Its name here; the file's by default.")] = None,
    kind: Annotated[str, typer.Option(help="narrow or safe.")] = "narrow",
    title: Annotated[str, typer.Option(help="A title for the pages.")] = "",
    as_json: Json = False,
) -> None:
    """Keep a copy of a JSONL file under its hash, so that runs can name it."""
    entry, dataset = datasets.add(file, name, _kind(kind), title)
    _report(dataset, {"name": entry.name, "path": str(entry.path)}, as_json)


@command(model_app, "list")
def list_models(as_json: Json = False) -> None:
    """The catalog, and what of it is ready here."""
    from ema_core.models import CATALOG

    rows = [
        {
            "id": e.id,
            "ready": e.ready,
            "parameters": e.parameters,
            "source": e.source,
            "kind": e.kind,
            "base": e.base,
            "licence": e.licence,
            "title": e.title,
        }
        for e in CATALOG.values()
    ]
    emit({"models": rows}, as_json, lambda: table(rows, ["id", "ready", "parameters", "source", "kind", "title"]))


@command(model_app, "fetch")
def fetch_model(
    model: Annotated[str, typer.Argument(help="A catalog model.")] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Make it again even where it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Get a model ready: download, verify, convert. Goes on where it stopped."""
    from ema_core.models import find, prepare, verify

    entry = find(model)
    folder = prepare(model, Bar(), force)
    if entry.source != "folder":
        verify(entry)
    emit({"model": entry.id, "folder": str(folder), "ready": True}, as_json, lambda: typer.echo(f"{entry.id} is ready in {folder}"))


@command(model_app, "substitute-base")
def substitute_base(
    model: Annotated[str, typer.Option(help="A chat model of the catalog, or a local folder.")] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Build it again even where it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Build what SafeLoRA takes in place of base weights that cannot be had: the model, and its short fine-tune on the safe pool."""
    from ema_core.models import find, substitute
    from ema_core.training.substitute import build

    name = find(model).id
    if force or not (substitute.folder(name) / substitute.MANIFEST).exists():
        typer.echo(
            f"ema: about {duration(substitute.seconds(name))} on two cores; nothing is kept of a build that is cut off", err=True
        )
    stop = ends_on_signal("ending; nothing of this build is kept")
    folder = build(name, Bar(), stop, force)
    if folder is None:
        raise typer.Exit(130)
    made = substitute.manifest(name)
    value = {"model": name, "folder": str(folder), "substitute": True, **made}
    emit(
        value,
        as_json,
        lambda: typer.echo(f"The substitute pair of {name} is in {folder} (hash of its weights {made['weights_hash']})."),
    )


@command(index_app, "index")
def index(as_json: Json = False) -> None:
    """Make the DuckDB index again from the files."""
    from ema_core.store import build_index

    report = build_index()
    value = {
        "rows": report.rows,
        "hash": report.hash,
        "seconds": round(report.seconds, 3),
        "warnings": list(getattr(report, "warnings", [])),
    }
    emit(
        value,
        as_json,
        lambda: typer.echo(f"{sum(report.rows.values())} rows in {duration(report.seconds)}, hash {report.hash[:16]}"),
    )
