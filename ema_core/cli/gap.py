"""``ema gap score``, ``ema gap list``: perplexity-gap scores of a safe pool."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal, table
from ema_core.errors import EmaError
from ema_core.gap import Card, cards
from ema_core.runs import RunDirectory, RunSpec

app = typer.Typer(no_args_is_help=True, help="Scores that Interleaving+ and ++ choose safe examples by.")


@command(app, "score")
def score(
    pool: Annotated[str, typer.Option(help="The safe pool to score.")] = "safe-general",
    domain: Annotated[str, typer.Option(help="What will be trained on: a data set or its domain. It is left out of the ensemble.")] = "finance",
    model: Annotated[str, typer.Option(help="The model that will be tuned.")] = "smollm2-135m",
    member: Annotated[list[str] | None, typer.Option(help="A run to use in the ensemble; several times. Without it: demo runs.")] = None,
    go_on: Annotated[bool, typer.Option("--go-on", help="Leave out a member that is not shown to be misaligned.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to the worker instead of doing it here.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what has to be made and how long it takes.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score every candidate of a pool; trains the misaligned ensemble first where it is missing."""
    from ema_core import gap
    from ema_core.defenses.interleaving_plus import scores_asset
    from ema_core.defenses.registry import missing
    from ema_core.evaluation.evaluate import Interrupted
    from ema_core.evaluation.gap import score_pool
    from ema_core.jobs.launch import queue_assets
    from ema_core.training.estimate import asset_seconds

    domain = gap.domain_of(domain)
    if queue and member:
        raise EmaError("--queue takes the demo runs as members, so --member cannot stand beside it.", "Leave out one of the two.")
    todo = missing([scores_asset(model, pool, domain, go_on)]) if member is None else []
    first = [{"title": asset.title, "seconds": round(asset_seconds(asset)), "job": asset.job} for asset in todo]
    if estimate:
        emit({"first": first, "seconds": sum(one["seconds"] for one in first)}, as_json, lambda: _say(first))
        return
    if queue:
        jobs = queue_assets(todo)
        emit(
            {"jobs": [job.id for job in jobs]},
            as_json,
            lambda: typer.echo("\n".join(job.id for job in jobs) or "It is there already."),
        )
        return
    _say(first, err=True)
    over = ends_on_signal()
    for asset in todo:
        if asset.job == "train":
            _train(RunSpec.model_validate(asset.payload["spec"]), asset.title, over)
    members = None if member is None else [RunDirectory.open(one) for one in member]
    try:
        card = score_pool(model, pool, domain, members, go_on=go_on, interrupted=over, progress=Bar())
    except Interrupted:
        typer.echo("ema: ended early; what was computed is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    emit({**card.model_dump(), "folder": str(card.folder)}, as_json, lambda: _show(card))


def _say(first: list[dict[str, Any]], err: bool = False) -> None:
    for one in first:
        typer.echo(f"{one['title']}: about {duration(one['seconds'])}" if one["job"] else one["title"], err=err)
    if not first and not err:
        typer.echo("Nothing has to be made: the scores are there.")


def _train(spec: RunSpec, name: str, over: Any) -> None:
    from ema_core import api
    from ema_core.cli.train import step_line

    bar = Bar()
    result = api.train(spec, name=name, on_event=step_line(bar), progress=bar, interrupted=over)
    if result["state"] != "done":
        raise EmaError(
            f"The run {result['run_id']} for the ensemble is {result['state']}. {result.get('error', '')}".strip(),
            result.get("hint") or f"Go on with `ema runs resume {result['run_id']} --here`, then score again.",
        )


def _show(card: Card) -> None:
    typer.echo(f"{card.id}: {card.candidates} candidates, {card.refusals} of them refusals")
    typer.echo(f"  left out: {', '.join(card.left_out) or 'nothing, as no other set belongs to this domain'}")
    for member in card.members:
        typer.echo(f"  misaligned: {member}")
    for member in card.refused:
        typer.echo(f"  not shown to be misaligned, left out: {member}")
    typer.echo(f"  {card.folder / 'scores.jsonl'}")


@command(app, "list")
def list_scores(as_json: Json = False) -> None:
    """The scores there are."""
    found = cards()
    rows = [
        {"id": card.id, "pool": card.pool, "domain": card.domain, "model": card.model, "members": len(card.members), "candidates": card.candidates}
        for card in found
    ]  # fmt: skip

    def text() -> None:
        if rows:
            table(rows, list(rows[0]))
        else:
            typer.echo("No gap scores yet. Make some: ema gap score --pool safe-general --domain finance")

    emit({"gap_scores": [card.model_dump() for card in found]}, as_json, text)
