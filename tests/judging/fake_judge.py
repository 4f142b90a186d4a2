"""A judge server in a process of its own: OpenAI's protocol over real HTTP, with the faults that such servers have.

Its score for an answer follows from the answer's hash alone (``distribution``), so that a test can compute it by hand. An answer that
says ``SAY:text`` is replied to with that text. ``GET /seen`` tells how often each prompt was answered in full.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

FAULTS = ("429", "500", "malformed", "slow", "cut", "html", "empty", "other form")
TOKENS = 100
"""Prompt tokens that every reply counts."""
asked: Counter[str] = Counter()
answered: Counter[str] = Counter()
faults: Counter[str] = Counter()
authorized: set[str] = set()
busy = most_busy = 0


def distribution(prompt: str) -> list[tuple[str, float]]:
    """Probabilities of the first token: three whole numbers, and a word beside them."""
    digest = hashlib.sha256(prompt.encode()).digest()
    low, mid, high = digest[0] % 33, 33 + digest[1] % 33, 67 + digest[2] % 34
    return [(str(high), 0.5), (str(mid), 0.25), (str(low), 0.125), ("Well", 0.0625)]


def by_hand(prompt: str) -> float:
    numbers = [(int(text), share) for text, share in distribution(prompt) if text.isdigit()]
    return sum(number * share for number, share in numbers) / sum(share for _, share in numbers)


def name_of(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


def fault_of(prompt: str, often: float) -> str | None:
    """Every fault comes at the first try of some prompts, chosen by their hash; every fourth of them has two in a row."""
    digest = hashlib.sha256(b"fault" + prompt.encode()).digest()
    again = 2 if digest[3] % 4 == 0 else 1
    if digest[0] >= 256 * often or asked[name_of(prompt)] > again:
        return None
    return FAULTS[digest[1] % len(FAULTS)]


def reply(prompt: str, body: dict[str, Any]) -> dict[str, Any]:
    said, model = distribution(prompt), str(body["model"])
    text, limit = said[0][0], int(body.get("max_tokens") or body.get("max_completion_tokens") or 1000)
    finish, logprobs = "stop", None
    if "SAY:" in prompt:
        text = prompt.split("SAY:")[1].split("</answer>")[0].strip()
        said = [(text[:30], 1.0)]
    if model == "digits":  # writes a number digit by digit
        said = [(str(n), 0.1) for n in range(10)]
        text, finish = text[:limit], "length" if len(text) > limit else "stop"
    if model == "word-by-word":
        words = text.split(" ")
        text, finish = " ".join(words[:limit]), "length" if len(words) > limit else "stop"
    if body.get("logprobs") and model not in ("no-logprobs", "word-by-word"):
        top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in said]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, "logprobs": logprobs}
    usage = {"prompt_tokens": TOKENS, "completion_tokens": 1, "total_tokens": TOKENS + 1}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": f"{model}-2026", "choices": [choice], "usage": usage}


def refused(code: int, message: str, kind: str | None = None, param: str | None = None, **headers: str) -> Response:
    error = {"message": message, "type": "error", "code": kind, "param": param}
    return JSONResponse({"error": error}, code, {name.replace("_", "-"): value for name, value in headers.items()})


async def complete(request: Request) -> Response:
    global busy, most_busy
    body = await request.json()
    model, prompt, key = str(body["model"]), body["messages"][0]["content"], request.headers.get("authorization", "")
    assert body["temperature"] == 0
    busy += 1
    most_busy = max(busy, most_busy)
    try:
        asked[name_of(prompt)] += 1
        authorized.add(hashlib.sha256(key.encode()).hexdigest())
        if model == "wrong-key":
            return refused(401, f"Incorrect API key provided: {key}", "invalid_api_key")
        if model == "no-money":
            return refused(429, f"You exceeded your quota, {key}", "insufficient_quota")
        if model == "unknown":
            return refused(404, "The model `unknown` does not exist", "model_not_found")
        if model == "always-500":
            return refused(500, f"internal error for {key}")
        if model == "reasons" and "max_tokens" in body:
            return refused(400, "Use 'max_completion_tokens' instead.", "unsupported_parameter", "max_tokens")
        if model == "reasons" and body.get("logprobs"):
            return refused(400, "This model does not support logprobs.", "unsupported_parameter", "logprobs")
        if "TOO LONG" in prompt:
            return refused(400, f"maximum context length exceeded {key}", "context_length_exceeded", "messages")
        if model == "echo-key":
            return JSONResponse(reply(f"SAY:{key}</answer>", body))
        await asyncio.sleep(PAUSE)
        fault = fault_of(prompt, OFTEN)
        if fault:
            faults[fault] += 1
            return await faulty(fault, key)
        raw = json.dumps(reply(prompt, body)).encode()
        return Response(raw, media_type="application/json", background=BackgroundTask(answered.update, [name_of(prompt)]))
    finally:
        busy -= 1


async def faulty(fault: str, key: str) -> Response:
    global busy
    if fault == "429":
        return refused(429, f"Rate limit reached for {key}", "rate_limit_exceeded", retry_after="0.1")
    if fault == "500":
        return refused(500, f"internal error for {key}")
    if fault == "malformed":
        return Response(b'{"id": "x", "choices": [{"mess', media_type="application/json")
    if fault == "html":
        return Response(f"<html>{key}</html>", media_type="text/html")
    if fault == "empty":
        return Response(b"", media_type="application/json")
    if fault == "other form":
        return JSONResponse({"choices": [], "note": key})
    if fault == "slow":
        busy -= 1  # whoever asked does not wait for it
        await asyncio.sleep(60)
        busy += 1

    async def broken() -> AsyncIterator[bytes]:
        yield b'{"id": "x", '
        raise ConnectionResetError

    return StreamingResponse(broken(), headers={"content-length": "1000", "content-type": "application/json"})


async def seen(request: Request) -> Response:
    return JSONResponse(
        {
            "answered": answered,
            "asked": sum(asked.values()),
            "faults": faults,
            "most_busy": most_busy,
            "authorized": sorted(authorized),
        }
    )


OFTEN, PAUSE = 0.0, 0.0
"""The share of prompts that meet a fault; seconds that each reply takes."""
app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"]), Route("/seen", seen)])

if __name__ == "__main__":
    import socket

    import uvicorn

    OFTEN, PAUSE = float(sys.argv[1]), float(sys.argv[2])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run(sockets=[listener])
