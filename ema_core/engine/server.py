"""The engine over HTTP: OpenAI's ``/v1/models`` and ``/v1/chat/completions``, and our own ``/v1/ema``."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ema_core.engine.core import Accepted, Busy, Deliver, Engine, Event, Judged, Question, Refused, Token, TooLong
from ema_core.engine.divergence import Diverged
from ema_core.engine.monitor import Item, Projected
from ema_core.engine.names import UnknownModel, names, resolve
from ema_core.engine.protocol import BadRequest, Reply, error_body, parse_request, sayable
from ema_core.errors import EmaError
from ema_core.generation.chat_template import AnswerText
from ema_core.generation.decoder import Drawn
from ema_core.generation.sampling import SamplingSettings
from ema_core.judging import known_judges
from ema_core.judging import resolve as resolve_judge
from ema_core.models import EMBEDDED, find
from ema_core.personas import read_card

MOST_BODY = 4 << 20
MOST_JUDGED = 2000
HOSTS = ("127.0.0.1", "localhost", "[::1]")
SIGN_OF_LIFE_SECONDS = 5.0


def failure(error: Exception) -> JSONResponse:
    """An error in OpenAI's shape, with the status that its client libraries turn into their own error types."""
    if isinstance(error, UnknownModel):
        return JSONResponse(error_body(error, "invalid_request_error", "model_not_found", "model"), 404)
    if isinstance(error, TooLong):
        return JSONResponse(error_body(error, "invalid_request_error", "context_length_exceeded", "messages"), 400)
    if isinstance(error, BadRequest):
        return JSONResponse(error_body(error, "invalid_request_error", error.code, error.param), 400)
    if isinstance(error, Busy):
        return JSONResponse(error_body(error, "rate_limit_error", "engine_busy"), 429, {"Retry-After": "2"})
    if isinstance(error, Refused):
        return JSONResponse(error_body(error, "invalid_request_error", "adapter_refused", "model"), 422)
    if isinstance(error, EmaError):
        return JSONResponse(error_body(error, "server_error"), 500)
    traceback.print_exception(error)  # stderr is engine.log where `ema app` started it
    plain = EmaError("Something unexpected went wrong in the engine.", "Ask again; details are in engine.log.")
    return JSONResponse(error_body(plain, "server_error"), 500)


class Guard:
    """Only this machine's own names, only with the token, only bodies of a size that can be a question."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refusal(scope["path"], Headers(scope=scope))
        if refused is not None:
            return await refused(scope, receive, send)
        size = 0

        async def bounded() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise BadRequest(f"The request is larger than {MOST_BODY >> 20} MB.", "Shorten the prompt.", "request_too_large")
            return message

        await self.app(scope, bounded, send)

    def refusal(self, path: str, headers: Headers) -> Response | None:
        host = headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
        if host not in HOSTS:
            error = EmaError("The engine answers on this machine only.", "Use http://127.0.0.1 and its port.")
            return JSONResponse(error_body(error, "invalid_request_error", "host_not_allowed"), 403)
        given = headers.get("authorization", "")
        if path != "/health" and not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            error = EmaError("The token is missing or wrong.", "Send the one in EMA_HOME/engine/token as the API key.")
            return JSONResponse(error_body(error, "authentication_error", "invalid_api_key"), 401)
        if int(headers.get("content-length") or 0) > MOST_BODY:
            error = EmaError(f"The request is larger than {MOST_BODY >> 20} MB.", "Shorten the prompt.")
            return JSONResponse(error_body(error, "invalid_request_error", "request_too_large"), 413)
        return None


def application(engine: Engine, token: str, **options: Any) -> Starlette:
    """The app. The engine's thread has to be running."""

    def handled(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def call(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return failure(error)

        return call

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", **engine.state()})

    async def models(request: Request) -> Response:
        listed = await asyncio.to_thread(lambda: [_model(name, created) for name, created in names()])
        return JSONResponse({"object": "list", "data": listed})

    async def model(request: Request) -> Response:
        target = await asyncio.to_thread(resolve, request.path_params["name"])
        return JSONResponse(_model(target.id, 0.0))

    async def ours(request: Request) -> Response:
        able = dict.fromkeys(("scale", "steps", "judge", "identity", "persona", "divergence"), True)
        context = find(EMBEDDED).context
        return JSONResponse({"capabilities": able, "judges": list(known_judges()), "context": context, "state": engine.state()})

    async def chat(request: Request) -> Response:
        return await _chat(engine, request)

    async def judge(request: Request) -> Response:
        return await _judge(engine, request)

    async def project(request: Request) -> Response:
        return await _project(engine, request)

    async def diverge(request: Request) -> Response:
        return await _diverge(engine, request)

    routes = [
        Route("/health", handled(health)),
        Route("/v1/models", handled(models)),
        Route("/v1/models/{name:path}", handled(model)),
        Route("/v1/chat/completions", handled(chat), methods=["POST"]),
        Route("/v1/ema", handled(ours)),
        Route("/v1/ema/judge", handled(judge), methods=["POST"]),
        Route("/v1/ema/projection", handled(project), methods=["POST"]),
        Route("/v1/ema/divergence", handled(diverge), methods=["POST"]),
    ]

    async def lost(request: Request, error: Exception) -> Response:
        said = EmaError(f"There is no {request.method} {request.url.path} here.", "See /v1/models and /v1/chat/completions.")
        return JSONResponse(error_body(said, "invalid_request_error", "not_found"), getattr(error, "status_code", 404))

    app = Starlette(routes=routes, exception_handlers={404: lost, 405: lost}, **options)
    app.add_middleware(Guard, token=token)
    return app


def _model(name: str, created: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "ema-lab"}


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.", code="invalid_json") from None


def _mailbox() -> tuple[asyncio.Queue[Event], Deliver]:
    """Events of the engine's thread, for this event loop."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

    def deliver(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    return events, deliver


async def _chat(engine: Engine, request: Request) -> Response:
    asked = parse_request(await _body(request))
    turns = asked.turns()
    target = await asyncio.to_thread(resolve, asked.model)
    events, deliver = _mailbox()
    how = SamplingSettings(asked.limit, asked.temperature, asked.top_p)
    question = Question(target, turns, how, asked.row_seed, asked.n, deliver, asked.top)
    engine.ask(question)
    answers = _Answers(question, events, asked.stops)
    try:
        accepted = await answers.next(request)
    except BaseException:
        question.cancel()
        raise
    if accepted is None:
        question.cancel()
        return Response(status_code=499)
    assert isinstance(accepted, Accepted)
    reply = Reply(accepted)
    answers.begin(accepted)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        stream = _stream(answers, reply, usage)
        return _Streaming(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}).of(question)
    try:
        while answers.open:
            event = await answers.next(request)
            if event is None:
                return Response(status_code=499)
            answers.take(event)
    finally:
        question.cancel()
    return JSONResponse(reply.whole(answers.texts, answers.finishes, answers.drawn, asked.logprobs))


class _Streaming(StreamingResponse):
    """Frees the places also where the other side left before the first piece: the generator's own end does not come then."""

    def of(self, question: Question) -> _Streaming:
        self.question = question
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.question.cancel()


class _Answers:
    """The n answers of one question, put together from the engine's events."""

    def __init__(self, question: Question, events: asyncio.Queue[Event], stop: list[str]) -> None:
        self.question, self.events, self.stop, n = question, events, stop, question.n
        self.texts, self.finishes = [""] * n, [""] * n
        self.drawn: list[list[Drawn]] = [[] for _ in range(n)]
        self.open = set(range(n))
        self.looked = time.monotonic()

    def begin(self, accepted: Accepted) -> None:
        self.readers = [AnswerText(accepted.tokenizer, self.stop) for _ in range(self.question.n)]

    async def next(self, request: Request | None = None) -> Event | None:
        """The next event; None when the other side has gone. Raises the engine's error."""
        while True:
            if request and time.monotonic() - self.looked >= 0.5:  # also while tokens keep coming
                self.looked = time.monotonic()
                if await request.is_disconnected():
                    return None
            try:
                event = await asyncio.wait_for(self.events.get(), 0.5 if request else SIGN_OF_LIFE_SECONDS)
            except TimeoutError:
                if request is None:
                    return None
                continue
            if isinstance(event, Exception):
                raise event
            return event

    def take(self, event: Event) -> tuple[int, str, str | None, list[Drawn]] | None:
        """What an event adds: choice, text, finish, tokens. None for what comes after an answer's end."""
        if not isinstance(event, Token) or event.choice not in self.open:
            return None
        choice, finish, reader = event.choice, event.finish, self.readers[event.choice]
        tokens = [event.drawn] if event.drawn else []
        text = reader.push(event.drawn.token) if event.drawn else ""
        if finish and not reader.stopped:
            text += reader.end()
        if reader.stopped:
            finish = "stop"
            self.question.cancel(choice)
        self.texts[choice] += text
        self.drawn[choice] += tokens
        if finish:
            self.finishes[choice] = finish
            self.open.discard(choice)
        return choice, text, finish, tokens


async def _stream(answers: _Answers, reply: Reply, usage: bool) -> AsyncIterator[str]:
    def line(value: Any) -> str:
        return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"

    wants = answers.question.top is not None
    held: list[list[Drawn]] = [[] for _ in range(answers.question.n)]  # tokens whose text is not certain yet
    try:
        for choice in range(answers.question.n):
            yield line(reply.chunk(choice, first=True))
        while answers.open:
            event = await answers.next()
            if event is None:
                yield ": still here\n\n"
                continue
            part = answers.take(event)
            if part is None:
                continue
            choice, text, finish, tokens = part
            held[choice] += tokens if wants else []
            if text or (finish and held[choice]):
                yield line(reply.chunk(choice, text, drawn=held[choice]))
                held[choice] = []
            if finish:
                yield line(reply.chunk(choice, finish=finish, tokens=len(answers.drawn[choice])))
        if usage:
            yield line(reply.usage_chunk(sum(map(len, answers.drawn))))
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield line(json.loads(bytes(failure(error).body)))
    finally:
        answers.question.cancel()


async def _judge(engine: Engine, request: Request) -> Response:
    body = await _body(request)
    try:
        judge = resolve_judge(str(body.get("judge") or "probe"))
        items = [(sayable(str(item["id"])), sayable(str(item["question"])), sayable(str(item["answer"]))) for item in body["items"]]
    except (AttributeError, KeyError, TypeError):
        raise BadRequest("The body has to be {judge, items: [{id, question, answer}, …]}.", code="invalid_value") from None
    except EmaError as error:
        raise BadRequest(error.message, error.hint, "unknown_judge", "judge") from None
    if not 1 <= len(items) <= MOST_JUDGED:
        raise BadRequest(f"From 1 to {MOST_JUDGED} answers are judged at once.", param="items", code="invalid_value")
    events, deliver = _mailbox()
    event = await _done(request, events, engine.judge(judge, items, deliver))
    if event is None:
        return Response(status_code=499)
    assert isinstance(event, Judged)
    return JSONResponse({"judge": judge, "judgments": [vars(judgment) for judgment in event.judgments]})


async def _project(engine: Engine, request: Request) -> Response:
    """Answers on a persona vector; every item names the model that gave the answer and what it was asked."""
    body = await _body(request)
    try:
        given = [
            (sayable(str(item["id"])), str(item["model"]), list(item["messages"]), sayable(str(item["answer"])))
            for item in body["items"]
        ]
        card = await asyncio.to_thread(read_card, str(body["vector"]))
    except (AttributeError, KeyError, TypeError):
        said = "The body has to be {vector, items: [{id, model, messages, answer}, …]}."
        raise BadRequest(said, code="invalid_value") from None
    except EmaError as error:
        raise BadRequest(error.message, error.hint, "unknown_vector", "vector") from None
    if not 1 <= len(given) <= MOST_JUDGED:
        raise BadRequest(f"From 1 to {MOST_JUDGED} answers are read at once.", param="items", code="invalid_value")
    targets = {name: await asyncio.to_thread(resolve, name) for name in {model for _, model, _, _ in given}}
    if other := next((target for target in targets.values() if target.model != card.model), None):
        raise BadRequest(f"{other.id} is a {other.model}, and the vector {card.id} belongs to {card.model}.", code="invalid_value")
    items = [
        Item(one, targets[model], parse_request({"model": model, "messages": messages}).turns(), answer)
        for one, model, messages, answer in given
    ]
    events, deliver = _mailbox()
    event = await _done(request, events, engine.project(card, items, deliver))
    if event is None:
        return Response(status_code=499)
    assert isinstance(event, Projected)
    rows = [vars(projection) for projection in event.projections]
    return JSONResponse({"vector": card.id, "trait": card.trait, "layer": card.layer, "projections": rows})


async def _diverge(engine: Engine, request: Request) -> Response:
    """An answer token by token: KL from the base's distribution to the tuned one's, and the likeliest tokens of both."""
    body = await _body(request)
    try:
        model, messages, answer = str(body["model"]), list(body["messages"]), sayable(str(body["answer"]))
    except (AttributeError, KeyError, TypeError):
        raise BadRequest("The body has to be {model, messages, answer}.", code="invalid_value") from None
    turns = parse_request({"model": model, "messages": messages}).turns()
    target = await asyncio.to_thread(resolve, model)
    if target.folder is None:
        raise BadRequest(
            f"{target.id} is a base: it is what others are held against.", "Name a run.", code="invalid_value", param="model"
        )
    events, deliver = _mailbox()
    event = await _done(request, events, engine.diverge(target, turns, answer, deliver))
    if event is None:
        return Response(status_code=499)
    assert isinstance(event, Diverged)
    return JSONResponse({"model": target.id, "total": event.total, "tokens": [asdict(token) for token in event.tokens]})


async def _done(request: Request, events: asyncio.Queue[Event], work: Any) -> Event | None:
    """What the engine's thread delivers; None, and the work is given up, when the other side has gone."""
    while True:
        try:
            event = await asyncio.wait_for(events.get(), 0.5)
            break
        except TimeoutError:
            if await request.is_disconnected():
                work.cancel()
                return None
    if isinstance(event, Exception):
        raise event
    return event
