"""``ema recorded list|add|remove|make``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, emit, table
from ema_core.errors import EmaError

app = typer.Typer(no_args_is_help=True, help="Recorded studies: run elsewhere, to be read and compared without a model.")


@command(app, "list")
def list_recorded(as_json: Json = False) -> None:
    """What comes with the project, and what is in this home."""
    from ema_core.exchange import recorded

    known, shipped = recorded.entries(), recorded.shipped()
    rows: list[dict[str, Any]] = []
    for name in sorted({*known, *shipped}):
        entry = known.get(name, {})
        about = entry.get("about", {})
        rows.append(
            {
                "name": name, "state": entry.get("state", "not added yet"), "title": about.get("title", ""), "runs": len(entry.get("runs", [])),
                "added": entry.get("added"), "why": entry.get("why", ""), "file": str(shipped[name]) if name in shipped else "", "about": about,
            }
        )  # fmt: skip

    def text() -> None:
        if not rows:
            typer.echo("No recorded study. `ema recorded add FILE.zip` adds one.")
            return
        table(rows, ["name", "state", "title", "runs"])
        for row in rows:
            if row["why"]:
                typer.echo(f"  {row['name']}: {row['why']}")

    emit({"recorded": rows}, as_json, text)


@command(app, "add")
def add(
    which: Annotated[str, typer.Argument(help="A zip, or the name of one that comes with the project.")],
    name: Annotated[str | None, typer.Option(help="Its name here; the file's by default. An older one of this name goes.")] = None,
    as_json: Json = False,
) -> None:
    """Put a recorded study here, also one that was removed."""
    from ema_core.exchange import recorded

    start = time.perf_counter()
    entry = recorded.add(which, name, Bar())
    known = name or Path(which).stem
    value = {"name": known, "runs": entry["runs"], "studies": entry["studies"], "seconds": round(time.perf_counter() - start, 2)}
    emit(value, as_json, lambda: typer.echo(f"{known}: {len(entry['runs'])} runs, recorded; `ema compare` and the app show them"))


@command(app, "remove")
def remove(name: Annotated[str, typer.Argument(help="Its name.")], as_json: Json = False) -> None:
    """Take a recorded study away. It comes back only when it is added again."""
    from ema_core.jobs import launch

    count = launch.remove_recorded(name)
    emit(
        {"name": name, "removed": count},
        as_json,
        lambda: typer.echo(f"{name}: {count} runs removed; back with: ema recorded add {name}"),
    )


@command(app, "make")
def make(
    study: Annotated[str, typer.Argument(help="A study of this home that is done.")],
    name: Annotated[str, typer.Option(help="Its name as a recorded study.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder that zip and card are written into; data/recorded by default.")
    ] = None,
    says: Annotated[Path | None, typer.Option(help="Markdown for the card: what it shows, and what it does not.")] = None,
    as_json: Json = False,
) -> None:
    """Pack a study of yours as a recorded one, with its card. An older one of the name is replaced."""
    from ema_core.exchange import recording
    from ema_core.jobs import studies
    from ema_core.settings import DATA

    folder = out or DATA / "recorded"
    if says is not None and not says.is_file():
        raise EmaError(f"There is no file {says}.", "Leave out --says, or name a Markdown file.")
    manifest = recording.make(studies.find(study), name, folder, says, Bar())
    target = folder / f"{name}.zip"
    size = target.stat().st_size
    value = {"name": name, "zip": str(target), "card": str(folder / f"{name}.md"), "bytes": size, "runs": manifest["runs"]}
    emit(value, as_json, lambda: typer.echo(f"{len(manifest['runs'])} runs, {size / 1e6:.2f} MB in {target}; its card: {name}.md"))
