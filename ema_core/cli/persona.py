"""``ema persona build|list|show``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ema_core import personas
from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal, table
from ema_core.errors import EmaError

app = typer.Typer(no_args_is_help=True, help="Persona vectors: directions along which a trait shows.")

Trait = Annotated[str, typer.Option(help=f"The trait: {', '.join(personas.traits())}.")]


@command(app, "build")
def build(
    trait: Trait = "evil",
    model: Annotated[str, typer.Option(help="A model of `ema model list`, or a local folder.")] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Make it again even where it is there.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker instead of building here.")] = False,
    as_json: Json = False,
) -> None:
    """Make a trait's vector for a model, from contrastive prompts and questions."""
    from ema_core.evaluation.evaluate import Interrupted
    from ema_core.jobs.launch import launch_persona
    from ema_core.jobs.persona import build_vector, estimate_build

    seconds = estimate_build(trait, model)
    if queue:
        job = launch_persona(trait, model, force)
        value = {"job": job.id, "vector": personas.vector_id(trait, model), "estimate_seconds": round(seconds)}
        emit(value, as_json, lambda: typer.echo(f"queued as {job.id}; takes about {duration(seconds)}"))
        return
    if not personas.find(trait, model) or force:
        typer.echo(f"ema: takes about {duration(seconds)} on two cores", err=True)
    try:
        card = build_vector(trait, model, force=force, progress=Bar(), interrupted=ends_on_signal())
    except Interrupted:
        raise EmaError("The build was ended.", "The same command goes on from the rollouts that were drawn.") from None
    _show(card, as_json)


@command(app, "list")
def list_vectors(as_json: Json = False) -> None:
    """The vectors that are here, newest first."""
    rows = [{**_short(card), "seconds": round(card.seconds, 1)} for card in personas.cards()]

    def text() -> None:
        table(rows, ["id", "trait", "model", "way", "kept", "tried", "layer", "auc", "difference"])
        if not rows:
            typer.echo("none yet; `ema persona build --trait evil` makes one")

    emit({"vectors": rows}, as_json, text)


@command(app, "show")
def show(
    vector: Annotated[str, typer.Argument(help="An id of `ema persona list`, or a trait (of the embedded model).")],
    as_json: Json = False,
) -> None:
    """The card of one vector: how it was made, and how well it separates held-out answers by layer."""
    _show(personas.read_card(personas.vector_id(vector, "smollm2-135m") if vector in personas.traits() else vector), as_json)


def _short(card: personas.Card) -> dict[str, Any]:
    at = card.at(card.layer)
    return {
        "id": card.id, "trait": card.trait, "model": card.model, "way": card.way, "why": card.why, "kept": card.kept,
        "tried": card.tried, "layer": card.layer, "auc": round(at.auc, 3), "difference": round(at.difference, 2),
    }  # fmt: skip


def _show(card: personas.Card, as_json: bool) -> None:
    def text() -> None:
        first, second = card.sides
        typer.echo(f"{card.id}: {card.title}")
        typer.echo(f"  made from {card.way} ({card.rows} pairs): {card.why}")
        typer.echo(f"  rollouts: {card.kept} of {card.tried} pairs kept; {card.judged}")
        typer.echo(f"  held out: {card.held_out} {first} and {card.held_out} {second} answers; layer {card.layer} is used")
        rows = [
            {
                "layer": f"{row.layer}{' *' if row.layer == card.layer else ''}", "auc": f"{row.auc:.3f}", "difference": f"{row.difference:.2f}",
                "norm": f"{card.vector_norms[row.layer]:.3g}", "activation norm": f"{card.activation_norms[row.layer]:.3g}",
            }
            for row in card.separation
        ]  # fmt: skip
        table(rows, ["layer", "auc", "difference", "norm", "activation norm"])

    emit({**card.model_dump(mode="json"), "layer": card.layer}, as_json, text)
