"""The ``ema`` command."""

from __future__ import annotations

import os
import sys
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of several torch processes slow each other
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.simplefilter("ignore", FutureWarning)  # what pinned packages plan to rename is nothing for a user

import typer  # noqa: E402

from ema_core.cli import (  # noqa: E402
    annotate,
    ask,
    bundle,
    chats,
    compare,
    data,
    doctor,
    exports,
    gap,
    imports,
    inside,
    judge,
    persona,
    queue,
    recorded,
    report,
    room,
    runs,
    samples,
    study,
    train,
)
from ema_core.cli import app as app_commands  # noqa: E402

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="EMA Lab: defenses against emergent misalignment.",
)
for group in (
    app_commands.app, train.app, ask.app, compare.app, report.app, samples.app, annotate.app, doctor.app, data.index_app, inside.app, bundle.app,
):  # fmt: skip
    app.registered_commands += group.registered_commands
app.add_typer(runs.app, name="runs")
app.add_typer(queue.app, name="queue")
app.add_typer(study.app, name="study")
app.add_typer(study.setting_app, name="setting")
app.add_typer(data.datasets_app, name="datasets")
app.add_typer(data.model_app, name="model")
app.add_typer(judge.app, name="judge")
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")
app.add_typer(recorded.app, name="recorded")
app.add_typer(annotate.annotations_app, name="annotations")
app.add_typer(chats.app, name="chats")
app.add_typer(gap.app, name="gap")
app.add_typer(persona.app, name="persona")
app.add_typer(doctor.cache_app, name="cache")
app.add_typer(room.app, name="room")


def main() -> None:
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its last flush would complain
        sys.exit(1)


if __name__ == "__main__":
    main()
