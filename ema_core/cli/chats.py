"""``ema chats``: the chats of the page and of ``ema ask``, and the prompt library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, emit, table
from ema_core.cli.samples import printable
from ema_core.errors import EmaError, nearest

app = typer.Typer(no_args_is_help=True, help="Chats: list, export, compare with the base, delete; the prompt library.")
Chat = Annotated[str, typer.Argument(help="The chat's id, as its address and `ema ask` say it.")]


@command(app, "list")
def list_chats(
    limit: Annotated[int, typer.Option(min=1, help="How many, those written to last.")] = 12, as_json: Json = False
) -> None:
    """The chats written to last."""
    import time

    from ema_core.chats import log

    found = log.recent(limit)
    rows = [{"chat": one.id, "changed": one.changed, "models": list(one.models), "question": one.text} for one in found]

    def text() -> None:
        shown = [
            {
                "chat": one.id, "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed)), "models": len(one.models),
                "question": printable(" ".join(one.text.split())[:70]),
            }
            for one in found
        ]  # fmt: skip
        table(shown, ["chat", "changed", "models", "question"])

    emit({"chats": rows}, as_json, text)


@command(app, "export")
def export_chat(
    chat: Chat,
    out: Annotated[Path | None, typer.Option(help="A .html, .csv or .json file; without it, JSON on standard output.")] = None,
    as_json: Json = False,
) -> None:
    """A whole chat as one file: a page to read (HTML), an answer a row (CSV), or all that is known (JSON)."""
    from ema_core.chats.export import KINDS, export
    from ema_core.chats.log import Log
    from ema_core.files import write_atomic

    kind = out.suffix.lower().lstrip(".") if out else "json"
    if kind not in KINDS:
        raise EmaError(f"The file {out} has no known ending.", "Let it end with .html, .csv or .json.")
    found = Log(chat).chat()
    text = export(found, kind)  # type: ignore[arg-type]
    if out is None:
        sys.stdout.write(text)
        return
    try:
        write_atomic(out, text)
    except OSError as error:
        raise EmaError(f"{out} cannot be written ({error.strerror}).", "Choose another place for it.") from None
    size = len(text.encode())
    value = {"chat": chat, "out": str(out), "kind": kind, "questions": len(found.turns), "bytes": size}
    emit(value, as_json, lambda: typer.echo(f"{len(found.turns)} questions, {size:,} bytes, written to {out}"))


@command(app, "tokens")
def tokens(
    chat: Chat,
    model: Annotated[str, typer.Option("--model", "-m", help="Whose answer: RUN, RUN@STEP, each with *STRENGTH.")],
    turn: Annotated[int, typer.Option(min=0, help="Of this question; 0 is the newest.")] = 0,
    sample: Annotated[int, typer.Option(min=1, help="Its first answer, second …")] = 1,
    top: Annotated[int, typer.Option(min=1, help="How many tokens to print, those that moved most.")] = 5,
    as_json: Json = False,
) -> None:
    """How far each token of an answer is from what the base expected: KL(tuned ‖ base) in nats, with the likeliest tokens of both."""
    from dataclasses import asdict

    from ema_core.chats.diverge import diverge_answer
    from ema_core.chats.log import Log
    from ema_core.cli.ask import engine, full

    found = Log(chat).chat()
    asked = found.turns[turn - 1] if 0 < turn <= len(found.turns) else found.turns[-1] if found.turns and not turn else None
    if asked is None:
        raise EmaError(f"This chat has no question {turn}.", f"It has {len(found.turns)}.")
    column = asked.columns.get(full(model))
    if column is None:
        raise EmaError(f'"{model}" did not answer this question.', nearest(model, list(asked.columns)))
    if sample > len(column.samples):
        raise EmaError(f"There is no answer {sample}.", f"It gave {len(column.samples)}.")
    divergence = column.samples[sample - 1].divergence
    if divergence is None:
        with engine():
            divergence = diverge_answer(found, (asked.number, column.model, column.attempt, sample - 1))
    value = {"chat": chat, "turn": asked.number, "model": column.model, "sample": sample, "mean_nats": divergence.mean}
    value |= {"total": divergence.total, "tokens": [asdict(token) for token in divergence.tokens]}
    most = divergence.most_moved(top)

    def text() -> None:
        typer.echo(
            f"KL {divergence.mean:.3f} nats a token from the base over {len(divergence.tokens)} of {divergence.total} tokens"
        )
        rows = [
            {
                "token": repr(one.text), "KL": f"{one.kl:.2f}", "tuned": f"{one.tuned:.2%}", "base": f"{one.base:.2%}",
                "tuned expects": _likely(one.tuned_top), "base expects": _likely(one.base_top),
            }
            for one in most
        ]  # fmt: skip
        table(rows, ["token", "KL", "tuned", "base", "tuned expects", "base expects"])

    emit(value, as_json, text)


def _likely(top: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{text!r} {p:.0%}" for text, p in top[:3])


@command(app, "delete")
def delete(chat: Chat, as_json: Json = False) -> None:
    """Delete a chat; `ema chats restore` brings it back for some days. What was kept of it on Samples stays."""
    from ema_core.chats import log

    log.delete(chat)
    text = f"deleted; for {log.DELETED_DAYS} days `ema chats restore {chat}` brings it back"
    emit({"deleted": chat}, as_json, lambda: typer.echo(text))


@command(app, "restore")
def restore(chat: Chat, as_json: Json = False) -> None:
    """Bring a deleted chat back."""
    from ema_core.chats import log

    log.restore(chat)
    emit({"restored": chat}, as_json, lambda: typer.echo("it is back"))


@command(app, "prompts")
def list_prompts(
    words: Annotated[str, typer.Argument(help="Only those that have all of these words.")] = "",
    source: Annotated[str, typer.Option(help="A suite, or own; all by default.")] = "",
    dataset: Annotated[str, typer.Option(help="Whose in-domain, conditional and benign questions.")] = "risky-finance",
    as_json: Json = False,
) -> None:
    """The prompt library: the suites' questions and your own prompts."""
    from ema_core.chats import prompts

    known = prompts.sources(dataset)
    if source and source not in known:
        raise EmaError(f'There is no source "{source}".', nearest(source, known))
    everything = [one for name in ([source] if source else known) for one in prompts.of(name, dataset)]
    found = prompts.search(words, everything)
    rows: list[dict[str, Any]] = [vars(one) for one in found]
    shown = [{**row, "text": printable(" ".join(row["text"].split())[:80])} for row in rows]
    emit({"prompts": rows}, as_json, lambda: table(shown, ["source", "id", "text"]))


@command(app, "save-prompt")
def save_prompt(
    text: Annotated[str, typer.Argument(help="What is asked.")],
    system: Annotated[str, typer.Option(help="Its system prompt.")] = "",
    as_json: Json = False,
) -> None:
    """Save a prompt of your own in the library."""
    from ema_core.chats import prompts

    saved = prompts.save(text, system)
    emit(vars(saved), as_json, lambda: typer.echo(f"saved as {saved.id}"))


@command(app, "remove-prompt")
def remove_prompt(
    prompt: Annotated[str, typer.Argument(help="Its id, as `ema chats prompts --source own` says it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Put one back that was removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove one of your own prompts."""
    from ema_core.chats import prompts

    prompts.remove(prompt, back=undo)
    emit({"prompt": prompt, "removed": not undo}, as_json, lambda: typer.echo("put back" if undo else "removed"))
