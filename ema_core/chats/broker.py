"""Asks the columns of a chat at the same time, in the background, and writes what comes into the chat's file. Torch-free.

A thread of its own with an event loop: a page may be left, reloaded or clicked at, the answers go on. What is read is the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ema_core.chats import log, speed
from ema_core.chats.diverge import AnswerKey, diverge_answer
from ema_core.chats.judge import judge_answers
from ema_core.chats.stream import WRITE_SECONDS, Stream, take, write, write_on
from ema_core.chats.view import MOST_SAMPLES, Chat, Finish, Question, Turn
from ema_core.chats.walk import MOST_STOPS
from ema_core.errors import EmaError
from ema_core.generation import row_seed
from ema_core.generation.engine import MOST_COLUMNS, Engine, only_ours, words_of
from ema_core.settings import settings
from ema_core.shared import allow, owner
from ema_core.shared.limits import check_chat

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ENGINE_SECONDS = 60.0
PLACE_SECONDS = 300.0
"""How long an answer waits for an engine that is not there yet, and for a free place in one that is busy."""
SEEDS = 2**31


class Broker:
    """All chats of this process. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[tuple[str, log.Key], Stream] = {}
        self._logs: dict[str, log.Log] = {}
        self._clients: dict[tuple[str, str], AsyncOpenAI] = {}
        self._judging: set[str] = set()
        self._reading: set[tuple[str, AnswerKey]] = set()
        self._trouble: dict[str, EmaError] = {}

    def chat(self, chat_id: str) -> Chat:
        """The chat as it is now.

        Raises:
            EmaError: there is none of this id.
        """
        with self._guard:
            path = log.path_of(chat_id)
            known = self._logs.get(chat_id)
            if known is None or known.path != path:
                known = self._logs[chat_id] = log.Log(chat_id)
            try:
                return known.chat()
            except EmaError:
                del self._logs[chat_id]
                raise

    def ask(self, question: Question, chat_id: str | None = None) -> str:
        """Put a question to all its models at once; without ``chat_id`` in a new chat. Returns the chat's id.

        Raises:
            EmaError: nothing to ask, too long, a value out of range, or the chat is still answering.
        """
        question = checked(question)
        with self._guard:
            chat = self.chat(chat_id) if chat_id else None
            allow(chat.owner if chat else None)
            check_chat(len(question.models) * question.samples, self._writing_for(owner()), question.how.max_tokens)
            if chat and chat.in_flight:
                raise EmaError("This chat is still answering.", "Wait for it, or stop it; then ask.")
            chat_id = chat.id if chat else log.open_chat()
            turn = chat.turns[-1].number + 1 if chat and chat.turns else 1
            log.append(chat_id, log.asked(turn, question))
            self._begin(chat_id, turn, question.models, 0, question.seed)
        return chat_id

    def more(self, chat_id: str, models: Sequence[str]) -> None:
        """Let further stops answer the last question of a walk, with the seed of those that are there.

        Raises:
            EmaError: the last question is no walk, or a stop too many.
        """
        with self._guard:
            chat = self.chat(chat_id)
            allow(chat.owner)
            turn = _last(chat)
            if not turn.question.by:
                raise EmaError("The last question was put to models side by side.", "Ask it along a run first.")
            new = [model for model in dict.fromkeys(models) if model not in turn.columns]
            if len(turn.columns) + len(new) > MOST_STOPS:
                raise EmaError(f"A walk has {MOST_STOPS} stops at most.", "Ask the question once more for others.")
            if not new:
                return
            check_chat(len(new) * turn.question.samples, self._writing_for(owner()), turn.question.how.max_tokens)
            newest = max(turn.columns.values(), key=lambda column: column.began, default=None)
            log.append(chat_id, {"kind": "joined", "turn": turn.number, "models": new})
            self._begin(chat_id, turn.number, new, 0, newest.seed if newest else turn.question.seed)

    def regenerate(self, chat_id: str, model: str | None = None) -> None:
        """Answer the last question anew: one column, or all; with a new seed, but the old one where there was no whole answer.

        Raises:
            EmaError: no such column, or it is being written.
        """
        with self._guard:
            chat = self.chat(chat_id)
            allow(chat.owner)
            turn = _last(chat)
            check_chat(
                turn.question.samples * (1 if model else len(turn.question.models)),
                self._writing_for(owner()),
                turn.question.how.max_tokens,
            )
            models = [name for name in turn.question.models if model in (None, name)]
            columns = [turn.columns[name] for name in models if name in turn.columns]
            if not models or any(column.in_flight for column in columns):
                raise EmaError("This answer is still being written.", "Stop it first.")
            attempt = max((column.attempt for column in columns), default=-1) + 1
            failed = all(sample.finish in ("error", "cut") for column in columns for sample in column.samples)
            seed = columns[0].seed if columns and failed else row_seed(turn.question.seed, "attempt", attempt) % SEEDS
            self._begin(chat_id, turn.number, models, attempt, seed)

    def stop(self, chat_id: str, model: str | None = None) -> None:
        """End the answers that are being written: one column's, or all. What is there stays."""
        with self._guard:
            allow(self.chat(chat_id).owner)
            here = [stream for (of, key), stream in self._streams.items() if of == chat_id and model in (None, key[1])]
            for stream in here:
                self._running().call_soon_threadsafe(stream.stopped.set)
            if not here and self.chat(chat_id).in_flight:
                raise EmaError("Another process writes these answers.", "Stop them there, with Ctrl-C in its terminal for example.")

    def judge(self, chat_id: str) -> None:
        """Have the engine judge, in the background, what is complete and was not judged yet."""
        with self._guard:
            allow(self.chat(chat_id).owner)
            if chat_id in self._judging:
                return
            self._judging.add(chat_id)
            self._trouble.pop(chat_id, None)
        threading.Thread(target=self._judge, args=(chat_id,), daemon=True, name="judge").start()

    def _judge(self, chat_id: str) -> None:
        try:
            judge_answers(self.chat(chat_id))
        except Exception as error:
            self._trouble[chat_id] = error if isinstance(error, EmaError) else EmaError(f"Judging failed ({error}).")
        finally:
            self._judging.discard(chat_id)

    def judging(self, chat_id: str) -> bool:
        return chat_id in self._judging

    def diverge(self, chat_id: str, answer: AnswerKey) -> None:
        """Have the engine hold one answer against the base, token by token, in the background."""
        with self._guard:
            allow(self.chat(chat_id).owner)
            if (chat_id, answer) in self._reading:
                return
            self._reading.add((chat_id, answer))
            self._trouble.pop(chat_id, None)
        threading.Thread(target=self._diverge, args=(chat_id, answer), daemon=True, name="diverge").start()

    def _diverge(self, chat_id: str, answer: AnswerKey) -> None:
        try:
            diverge_answer(self.chat(chat_id), answer)
        except Exception as error:
            self._trouble[chat_id] = error if isinstance(error, EmaError) else EmaError(f"Reading the answer failed ({error}).")
        finally:
            self._reading.discard((chat_id, answer))

    def reading(self, chat_id: str) -> frozenset[AnswerKey]:
        """The answers that are being held against the base."""
        return frozenset(answer for of, answer in tuple(self._reading) if of == chat_id)

    def trouble(self, chat_id: str) -> EmaError | None:
        """Why the last judging or reading failed; cleared by the next."""
        return self._trouble.get(chat_id)

    def wait(self, chat_id: str, seconds: float = math.inf) -> Iterator[Chat]:
        """The chat again and again until nothing is being written (or the time is over); the last one is whole."""
        until = time.monotonic() + seconds
        while True:
            chat = self.chat(chat_id)
            yield chat
            if not chat.in_flight or time.monotonic() > until:
                return
            time.sleep(WRITE_SECONDS)

    def _begin(self, chat_id: str, number: int, models: Sequence[str], attempt: int, seed: int) -> None:
        chat = self.chat(chat_id)
        turn = _last(chat)
        streams = []
        for model in models:
            streams.append(Stream(chat_id, (number, model, attempt), chat.told(turn, model), turn.question, seed))
        began = {"pid": os.getpid(), "n": turn.question.samples, "seed": seed, "server": settings().engine_url}
        log.append(chat_id, *(stream.line("began", **began) for stream in streams))
        for stream in streams:
            self._streams[chat_id, stream.key] = stream
            log.WRITING.add((chat_id, *stream.key))
            asyncio.run_coroutine_threadsafe(self._run(stream), self._running())

    def _writing_for(self, name: str) -> int:
        """Answers that are being written in the chats of this person."""
        own = {chat_id for chat_id, known in self._logs.items() if name and known.owner == name}
        streams = [stream for (of, _), stream in self._streams.items() if of in own]
        return sum(stream.question.samples - len(stream.finish) for stream in streams)

    def warm(self) -> None:
        """Begin what the first question would wait for: the client library takes seconds to import."""
        with self._guard:
            self._running()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_forever, args=(self._loop,), daemon=True, name="chats").start()
        return self._loop

    async def _run(self, stream: Stream) -> None:
        """Reads the answer, writes it, until its end, a stop, or an error; whatever happens, every sample gets its end."""
        parts = [asyncio.create_task(part) for part in (self._read(stream), stream.stopped.wait(), write_on(stream))]
        rest: tuple[Finish, str, str] = ("cut", "The answer broke off.", "What was there is kept; ask once more.")
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if stream.stopped.is_set():
                rest = ("stopped", "", "")
            else:
                for part in parts:
                    if part.done():
                        part.result()
        except _Cut as error:
            rest = ("cut", error.message, error.hint)
        except EmaError as error:
            rest = ("error", error.message, error.hint)
        except Exception as error:
            rest = ("error", f"Something unexpected went wrong ({type(error).__name__}: {str(error)[:300]}).", "Ask once more.")
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            with contextlib.suppress(Exception):  # a full disk: reads as cut, since nobody writes it any more
                write(stream, rest)
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        with self._guard:
            log.WRITING.discard((stream.chat_id, *stream.key))
            self._streams.pop((stream.chat_id, stream.key), None)
            with contextlib.suppress(Exception):  # the chat was deleted; an estimate is not worth an error
                turn = _last(self.chat(stream.chat_id))
                if not turn.in_flight:
                    speed.record(turn)

    async def _read(self, stream: Stream) -> None:
        """The whole answer; waits for an engine that starts, and for a place in one that is busy."""
        import openai

        tries = 0
        while True:
            try:
                async for chunk in self._chunks(stream):
                    take(stream, chunk)
                if len(stream.finish) < stream.question.samples:
                    raise _lost()
                return
            except openai.RateLimitError as error:
                why, pause, most = "waits for a free place", _pause(error, tries), PLACE_SECONDS
                problem = EmaError(*words_of(error))
            except openai.APITimeoutError:
                raise EmaError("The engine gave no sign for ten minutes.", "Ask once more; `ema doctor` says more.") from None
            except openai.APIStatusError as error:
                problem = EmaError(*words_of(error))
                if error.status_code != 503 or stream.heard:
                    raise problem from None
                why, pause, most = "waits for the engine", _pause(error, tries), ENGINE_SECONDS
            except _Missing as error:
                why, pause, most, problem = "waits for the engine", 0.5, ENGINE_SECONDS, error
            except openai.APIConnectionError:
                if stream.heard:
                    raise _lost() from None
                problem = EmaError(f"The engine at {_engine().url} does not answer.", "Is it running? `ema doctor` says more.")
                why, pause, most = "waits for the engine", 0.5, ENGINE_SECONDS
            except openai.APIError as error:  # said in the middle of a stream
                raise EmaError(*words_of(error)) from None
            except EmaError:
                raise
            except Exception as error:
                if not _of_the_line(error):
                    raise
                raise _lost() from None
            if stream.heard or stream.seconds + pause > most:
                raise problem from None
            if not tries:
                stream.say("waits", why=why)
            tries += 1
            await asyncio.sleep(pause)

    async def _chunks(self, stream: Stream) -> AsyncIterator[Any]:
        engine, question = _engine(), stream.question
        if (engine.url, engine.token) not in self._clients:
            from openai import AsyncOpenAI

            self._clients[engine.url, engine.token] = AsyncOpenAI(
                base_url=engine.url,
                api_key=engine.token,
                timeout=600,
                max_retries=0,
                default_headers=only_ours(engine.url, engine.token),
            )
        chunks = await self._clients[engine.url, engine.token].chat.completions.create(
            model=stream.key[1], messages=stream.messages, stream=True, stream_options={"include_usage": True}, seed=stream.seed,  # type: ignore[arg-type]
            n=question.samples, max_tokens=question.how.max_tokens, temperature=question.how.temperature, top_p=question.how.top_p,
        )  # fmt: skip
        async with chunks:
            async for chunk in chunks:
                yield chunk


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    import openai  # noqa: F401

    loop.run_forever()


class _Missing(EmaError):
    """Our engine is not running (yet)."""


class _Cut(EmaError):
    """The line broke in the middle of an answer."""


def _lost() -> _Cut:
    return _Cut("The engine ended in the middle of this answer.", "What was there is kept; ask once more.")


def _of_the_line(error: Exception) -> bool:
    """A broken connection: the client library passes its transport's errors on as they are once a stream has begun."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore", "anyio"))


def _engine() -> Engine:
    try:
        return Engine.here()
    except EmaError as error:
        raise _Missing(error.message, error.hint) from None


def _pause(error: Any, tries: int) -> float:
    """Seconds to wait before the next try: what the server says, else longer each time."""
    with contextlib.suppress(ValueError, TypeError):
        return min(30.0, max(0.1, float(error.response.headers.get("retry-after"))))
    return min(10.0, 0.5 * 2**tries)


def _last(chat: Chat) -> Turn:
    if not chat.turns:
        raise EmaError("Nothing was asked in this chat yet.", "Ask a question first.")
    return chat.turns[-1]


def checked(question: Question) -> Question:
    """The question with its text cleaned.

    Raises:
        EmaError: it cannot be asked; the message says why.
    """
    for text, what in ((question.text, "question"), (question.system, "system prompt")):
        if len(text) > log.LONGEST:
            raise EmaError(
                f"The {what} has {len(text):,} characters; at most {log.LONGEST:,} are taken.",
                "No model here reads as much; shorten it.",
            )
    text, system = log.clean(question.text), log.clean(question.system)
    models, how = tuple(dict.fromkeys(log.clean(model) for model in question.models)), question.how
    if not text.strip():
        raise EmaError("The question is empty.", "Write something to ask.")
    most = MOST_STOPS if question.by else MOST_COLUMNS
    if not models or len(models) > most:
        raise EmaError(f"{len(models)} models are chosen.", f"Choose one to {most}.")
    ranges = (
        ("samples a model", question.samples, 1, MOST_SAMPLES), ("tokens at most", how.max_tokens, 1, 8192),
        ("temperature", how.temperature, 0, 2), ("top_p", how.top_p, 0.01, 1), ("seed", question.seed, 0, SEEDS - 1),
    )  # fmt: skip
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise EmaError(f"{name}: {value:g} is out of range.", f"From {low} to {high:g}.")
    return replace(question, text=text, models=models, system=system)


broker = Broker()
"""The one of this process, shared by all sessions."""
