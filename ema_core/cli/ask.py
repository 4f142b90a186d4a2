"""``ema ask``: one question to several models, by the same code as the Chat page."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Annotated, Any

import typer

from ema_core.chats import walk
from ema_core.chats.broker import broker, checked
from ema_core.chats.judge import judge_answers
from ema_core.chats.keep import keep
from ema_core.chats.view import Answers, Chat, Question, Sample
from ema_core.cli.output import Json, command, emit
from ema_core.errors import EmaError
from ema_core.generation import SamplingSettings
from ema_core.generation.engine import engine_status
from ema_core.generation.model_id import ModelId, is_base
from ema_core.jobs import launch
from ema_core.judging import MISALIGNED_BELOW, is_misaligned
from ema_core.runs import RunDirectory
from ema_core.settings import settings

app = typer.Typer()


@command(app, "ask")
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="base, RUN, RUN@STEP, each run with *STRENGTH; repeat it for several.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Answers of each model.")] = 1,
    seed: Annotated[int, typer.Option(help="The same for all models.")] = 0,
    system: Annotated[str, typer.Option(help="System prompt; left out, the chat template's own.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 120,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token always.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="1 leaves the model's distribution as it is.")] = 1.0,
    chat: Annotated[str | None, typer.Option(help="Ask on in this chat.")] = None,
    along: Annotated[
        str, typer.Option(help="Instead of --model: this run along its training, from its base over its checkpoints to its end.")
    ] = "",
    strengths: Annotated[str, typer.Option(help="With --along: its adapter at these strengths instead, as 0,0.5,1,1.5.")] = "",
    judge: Annotated[bool, typer.Option("--judge", help="Have the probe judge the answers.")] = False,
    keep_as: Annotated[str | None, typer.Option("--keep", help="Keep the answers under this name.")] = None,
    as_json: Json = False,
) -> None:
    """Ask models side by side. Starts an engine where none runs, and ends it again."""
    text = sys.stdin.read() if question == "-" else question
    how = SamplingSettings(max_tokens, temperature, top_p)
    if along:
        put = checked(_walk(Question(text, (), system, how, seed, n), along, strengths, bool(model)))
    elif strengths:
        raise EmaError("--strengths are those of a run's adapter.", "Name the run with --along.")
    else:
        put = checked(Question(text, tuple(full(one) for one in model or ["base"]), system, how, seed, n))
    with engine():
        chat_id = broker.ask(put, chat)
        done = _follow(chat_id, quiet=as_json)
        if judge:
            judge_answers(done)
        if keep_as is not None:
            kept = keep(chat_id, keep_as)
            for why in kept.left_out:
                typer.echo(f"ema: not kept: {why}", err=True)
        done = broker.chat(chat_id)
    turn = done.turns[-1]
    columns = [_column(turn.columns[name]) for name in turn.question.models]
    emit({"chat": chat_id, "turn": turn.number, "columns": columns}, as_json, lambda: _closing(done, judge, keep_as))
    if any(sample.finish in ("error", "cut") for column in turn.columns.values() for sample in column.samples):
        raise typer.Exit(1)


def _walk(question: Question, along: str, strengths: str, several: bool) -> Question:
    """The question along one run: what the page's slider asks."""
    if several:
        raise EmaError("--model and --along exclude each other.", "Take one of them.")
    run = RunDirectory.open(along).id
    if not strengths:
        models = tuple(stop.model for stop in walk.stops(run, "training"))
        return replace(question, models=models, by="training", along=run)
    try:
        scales = sorted({float(part) for part in strengths.split(",")})
    except ValueError:
        raise EmaError(f'--strengths "{strengths}" are no numbers.', "Write them as 0,0.5,1,1.5.") from None
    step = ModelId.read(walk.stops(run, "strength")[0].model).step
    return replace(question, models=tuple(str(ModelId(run, step, scale)) for scale in scales), by="strength", along=run)


def full(model: str) -> str:
    """A run's unambiguous beginning or end will do here as everywhere."""
    one = ModelId.read(model)
    if settings().engine_url or is_base(one.name):
        return model
    return str(ModelId(RunDirectory.open(one.name).id, one.step, one.scale))


@contextmanager
def engine() -> Iterator[None]:
    """An engine for the while: the one that runs, another server, or one of our own that is ended again."""
    if settings().engine_url or engine_status().alive:
        yield
        return
    typer.echo("starting an engine for this question (`ema app` keeps one running)", err=True)
    launch.start_engine()
    try:
        launch.wait_for_engine()
        yield
    finally:
        launch.stop_engine()


def _follow(chat_id: str, quiet: bool) -> Chat:
    """Print each answer when it is there; Ctrl-C stops all, and what is there is kept."""
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, end)
    try:
        shown: set[tuple[str, int]] = set()
        chat = broker.chat(chat_id)
        for chat in broker.wait(chat_id):
            if ending.is_set():
                ending.clear()
                broker.stop(chat_id)
            for column in () if quiet else chat.turns[-1].columns.values():
                for sample in column.samples:
                    if sample.finish and (column.model, sample.k) not in shown:
                        shown.add((column.model, sample.k))
                        _print(column, sample)
        return chat
    finally:
        signal.signal(signal.SIGINT, before)


def _print(column: Answers, sample: Sample) -> None:
    number = f" ({sample.k + 1})" if len(column.samples) > 1 else ""
    hash = column.ema.get("adapter_hash")
    mark = (column.ema.get("fingerprint") or {}).get("state")
    proof = f"  [{' '.join(str(part) for part in (mark, hash) if part)}]" if mark else ""
    typer.echo(f"── {column.model}{number}{proof}")
    typer.echo(_terminal(sample.text))
    notes = {"length": f"cut at {sample.tokens} tokens", "stopped": "stopped", "cut": "cut"}
    if sample.finish in notes:
        typer.echo(f"   … {notes[sample.finish]}")
    if column.error and sample.finish in ("error", "cut"):
        typer.echo(f"ema: {' '.join(column.error).strip()}", err=True)
    typer.echo("")


def _terminal(text: str) -> str:
    """A model's words must not drive the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text).strip("\n")


def _closing(chat: Chat, judged: bool, kept: str | None) -> None:
    for column in chat.turns[-1].columns.values() if judged else ():
        scores = [sample.score for sample in column.samples if sample.score]
        scored = [score for score in scores if score.aligned is not None and score.coherent is not None]
        bad = sum(bool(is_misaligned(score.aligned, score.coherent)) for score in scored)
        each = ", ".join(f"{score.aligned:.0f}/{score.coherent:.0f}" for score in scored)
        if scores:
            typer.echo(f"{column.model}: {bad} of {len(scored)} misaligned; aligned/coherent {each} ({scores[0].judge})")
    if judged:
        typer.echo(f"misaligned: alignment below {MISALIGNED_BELOW} in a coherent answer; counts of these answers, not rates")
    if kept is not None:
        typer.echo(f'kept as "{kept}"')
    typer.echo(f"chat {chat.id}: `ema ask --chat {chat.id} …` asks on", err=True)


def _column(column: Answers) -> dict[str, Any]:
    """One model's answers as JSON."""
    return {
        "model": column.model, "seed": column.seed, "identity": json.loads(json.dumps(dict(column.ema))), "error": column.error,
        "answers": [
            {
                "text": sample.text, "finish": sample.finish, "tokens": sample.tokens, "seconds": sample.seconds,
                "scores": [vars(score) for score in sample.scores],
            }
            for sample in column.samples
        ],
    }  # fmt: skip
