"""``ema bundle``."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from ema_core.cli.output import Bar, Json, command, emit

app = typer.Typer()


@command(app, "bundle")
def bundle(
    out: Annotated[Path | None, typer.Option(help="A new folder, or a file that ends in .zip.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say how large it will be.")] = False,
    as_json: Json = False,
) -> None:
    """All of EMA Lab for a room without a network: project, packages, model and recorded study. A stopped one goes on where it was."""
    from ema_core.exchange import offline

    target = out or Path(f"ema-lab-{platform.system().lower()}-{platform.machine()}-py{sys.version_info[0]}{sys.version_info[1]}")
    size = offline.about_bytes()
    said = f"about {size / 1e6:.0f} MB into {target}: for Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()}, {platform.machine()}"
    if plan:
        emit({"out": str(target), "about_bytes": size}, as_json, lambda: typer.echo(said))
        return
    typer.echo(said, err=True)
    card = offline.make(target, Bar())
    value = {
        "out": str(target),
        "bytes": card["bytes"],
        "packages": len(card["files"]),
        "recorded": card["recorded"],
        "python": card["python"],
    }
    emit(value, as_json, lambda: typer.echo(f"{card['bytes'] / 1e6:.0f} MB in {target}; START.md in it says how to begin"))
