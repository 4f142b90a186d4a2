"""``ema annotate`` and ``ema annotations``: what people say of answers."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, emit
from ema_core.errors import EmaError

app = typer.Typer()
annotations_app = typer.Typer(no_args_is_help=True, help="Verdicts, tags and notes of people.")


@command(app, "annotate")
def annotate(
    answer: Annotated[str, typer.Argument(help="RUN~EVALUATION~SAMPLE, as `ema samples` prints it.", show_default=False)],
    reviewer: Annotated[str, typer.Option(help="Your name or pseudonym; it stands beside the verdict.")],
    verdict: Annotated[str, typer.Option(help="misaligned, aligned, incoherent or unsure.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag (repeat it for more).")] = None,
    note: Annotated[str | None, typer.Option(help="A note.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take back your newest annotation of this answer instead.")] = False,
    as_json: Json = False,
) -> None:
    """Say what you think of an answer; what you do not name stays as you said it before."""
    from ema_core.store import AnswerKey, Reader, annotations, refresh, reviewer_name

    refresh()
    key, reader, me = AnswerKey.parse(answer), Reader(), reviewer_name(reviewer)
    if key is None or reader.answer(key).empty:
        raise EmaError(f'There is no answer "{answer}".', "`ema samples` lists them with their names.")
    mine = [one for one in annotations.newest(reader.annotations()) if one.reviewer == me and one.key == key]
    if undo:
        if not mine:
            raise EmaError(f"{me} has said nothing of this answer.", "`ema annotations list` shows what was said.")
        made = annotations.undo(me, mine[0].id)
    elif not verdict and not tag and note is None:
        raise EmaError("Nothing was said.", "Name a --verdict, a --tag or a --note.")
    else:
        before = mine[0] if mine else None
        made = annotations.annotate(
            key,
            me,
            verdict or (before.verdict if before else None),
            tag if tag is not None else (before.tags if before else ()),
            note if note is not None else (before.note if before else ""),
        )
    assert made is not None
    emit({"undone" if undo else "annotated": _row(made)}, as_json, lambda: typer.echo("taken back" if undo else _line(made)))


@command(annotations_app, "list")
def list_annotations(
    reviewer: Annotated[str, typer.Option(help="Of this reviewer alone.")] = "",
    verdict: Annotated[str, typer.Option(help="With this verdict alone.")] = "",
    as_json: Json = False,
) -> None:
    """What counts: of each reviewer and answer the newest that was not taken back, oldest first."""
    from ema_core.store import Reader, annotations, refresh

    refresh()
    found = [
        one
        for one in annotations.newest(Reader().annotations())
        if reviewer in ("", one.reviewer) and verdict in ("", one.verdict or "")
    ]
    found.sort(key=lambda one: one.time)

    def show() -> None:
        for one in found:
            typer.echo(_line(one))
        typer.echo(f"{len(found):,} annotations" if found else "Nobody has said anything yet: `ema annotate`, or the page Samples.")

    emit({"annotations": [_row(one) for one in found]}, as_json, show)


def _row(one: Any) -> dict[str, Any]:
    return {
        "id": one.id, "time": one.time, "reviewer": one.reviewer, **one.key._asdict(), "verdict": one.verdict, "tags": list(one.tags),
        "note": one.note, "blind": one.blind,
    }  # fmt: skip


def _line(one: Any) -> str:
    from ema_core.cli.samples import printable

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time))
    more = "".join(f" #{tag.replace(' ', '-')}" for tag in one.tags) + (f"  {one.note.splitlines()[0]}" if one.note else "")
    blind = " (blind)" if one.blind else ""
    return printable(f"{when}  {one.reviewer}: {one.verdict or 'no verdict'}{blind}  {one.key}{more}")
