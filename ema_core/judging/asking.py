"""One question to a judge over OpenAI's protocol, and every way in which that can go wrong, in words without a key."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ema_core.errors import EmaError
from ema_core.generation.engine import only_ours
from ema_core.judging.keys import OPENAI_HOST, OPENAI_KEY, hider, key_for, key_state
from ema_core.judging.readout import MOST_SPREAD, Reading, digit_by_digit, from_logprobs, from_text, shown, whole_number
from ema_core.judging.throttle import retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PARSED_TOKENS = 16
"""Tokens that a reply may have where the number is parsed from its text."""
SECONDS = 60.0
MOST_WAIT = 600.0
"""A server that asks to wait longer is not waited for."""


class Again(Exception):
    """May go better another time. ``wait``: seconds that the server asked for; ``throttled``: it was too many at once."""

    def __init__(self, reason: str, wait: float | None = None, throttled: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.throttled = reason, wait, throttled


class NotThisOne(Exception):
    """The server will not answer this question, whenever it is asked."""


@dataclass(frozen=True)
class Server:
    """Where to ask, and as whom. ``key`` "" = none; it is never shown."""

    url: str
    model: str
    key: str

    def __repr__(self) -> str:
        return f"Server({self.url!r}, {self.model!r})"


@dataclass(frozen=True)
class Reply:
    """What came back. Tokens are None where the server does not count them."""

    reading: Reading
    tokens_in: int | None
    tokens_out: int | None
    model: str


@dataclass(frozen=True)
class _Body:
    """The parts of a response that count."""

    text: str
    cut: bool
    top: list[tuple[str, float]] | None
    tokens_in: int | None
    tokens_out: int | None
    model: str


class Asker:
    """Asks one server, and learns from its replies what it can do: log-probabilities, and under which name a limit is given."""

    def __init__(self, server: Server, seconds: float = SECONDS) -> None:
        self.server, self.seconds = server, seconds
        self.hide = hider()
        self.parsed = False
        """Numbers are parsed from the text: there are no log-probabilities, or one token is no number."""
        self.whole = False
        """A token of two digits was seen, so one token can be a number."""
        self._limit_name = "max_tokens"
        self._client: AsyncOpenAI | None = None

    async def __aenter__(self) -> Asker:
        from openai import AsyncOpenAI

        key = self.server.key or "none"
        self._client = AsyncOpenAI(
            base_url=self.server.url, api_key=key, timeout=self.seconds, max_retries=0, default_headers=only_ours(self.server.url, key)
        )  # fmt: skip
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def ask(self, prompt: str) -> Reply:
        """A reply to one rubric about one answer.

        Raises:
            Again, NotThisOne: as they say.
            EmaError: nothing can be asked of this server.
        """
        if self.parsed:
            return self._reply(await self._post(prompt, PARSED_TOKENS, logprobs=False))
        first = await self._post(prompt, 1, logprobs=True)
        if first.top is None:
            self.parsed = True
            if not first.cut:
                return self._reply(first)
        else:
            numbers = {text.strip() for text, _ in first.top if whole_number(text) is not None}
            self.whole = self.whole or any(len(number) > 1 for number in numbers)
            reading = from_logprobs([(self.hide(text), value) for text, value in first.top])  # hidden before anything is cut
            if self.whole or reading.outcome != "scored":
                return self._reply(first, reading)
            # every number is one digit: a number, or only the beginning of one? The text says it
        whole = await self._post(prompt, PARSED_TOKENS, logprobs=False)
        self.parsed = self.parsed or digit_by_digit(first.top or []) or (from_text(whole.text).score or 0) > 9
        return self._reply(whole, before=first)

    def _reply(self, body: _Body, reading: Reading | None = None, before: _Body | None = None) -> Reply:
        """``before``: what else was asked for it, and costs, too."""
        reading = reading or from_text(self.hide(body.text))
        if body.cut and reading.outcome == "unparsed" and reading.readout == "parsed":
            reading = Reading(None, "unparsed", "parsed", f"{reading.reason} (cut after {PARSED_TOKENS} tokens)")
        spread = tuple((text[:40], share) for text, share in reading.spread)
        reading = replace(reading, spread=spread)
        counts = []
        for name in ("tokens_in", "tokens_out"):
            parts = [getattr(part, name) for part in (body, before) if part is not None]
            counts.append(None if None in parts else sum(parts))
        return Reply(reading, counts[0], counts[1], self.hide(body.model)[:100])

    async def _post(self, prompt: str, tokens: int, logprobs: bool) -> _Body:
        import openai

        assert self._client is not None
        limit_name, content = self._limit_name, prompt.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
        more: dict[str, Any] = {limit_name: tokens}
        if logprobs:
            more |= {"logprobs": True, "top_logprobs": MOST_SPREAD}
        try:
            async with asyncio.timeout(self.seconds):  # also for a server that sends a byte now and then
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self.server.model, messages=[{"role": "user", "content": content}], temperature=0, **more
                )
                text = raw.text if isinstance(raw.text, str) else raw.http_response.text
        except (TimeoutError, openai.APITimeoutError):
            raise Again(f"no reply within {self.seconds:g} s") from None
        except openai.APIStatusError as error:
            self._status(
                error, limit_name, logprobs
            )  # returns where the form of the question was at fault, which is another one now
        except openai.APIConnectionError as error:
            raise Again(f"the connection failed or was cut ({_cause(error, self.hide)})") from None
        except EmaError:
            raise
        except Exception as error:  # whatever a broken reply does to the client library
            raise Again(f"a reply that cannot be read ({self.hide(type(error).__name__)})") from None
        else:
            return _read(text)
        return await self._post(prompt, PARSED_TOKENS if self.parsed else tokens, logprobs and not self.parsed)

    def _status(self, error: Any, limit_name: str, logprobs: bool) -> None:
        """What a refusal means. Returns only where it is worth asking at once in another form.

        Raises:
            Again, NotThisOne, EmaError: as ``ask``.
        """
        code, said = int(error.status_code), _message(error, self.hide)
        where = f"The judge's server {self.server.url} says {code}: {said}"
        kind = str(getattr(error, "code", "") or "")
        if code in (401, 403):
            raise EmaError(where, f"As to the key: {key_state(self.server.url)}.") from None
        if code == 402 or kind == "insufficient_quota":
            raise EmaError(where, "Its account has no money left; what was judged is kept.") from None
        if code == 404:
            raise EmaError(where, f"Is {self.server.model} a model there, and the address right?") from None
        if code == 429 or (code == 503 and retry_after(error.response.headers) is not None):
            wait = retry_after(error.response.headers)
            if wait is not None and wait > MOST_WAIT:
                raise EmaError(f"{where} It asks to wait {wait:.0f} s.", "Start it again then; what was judged is kept.") from None
            raise Again(f"{code}: {said}", wait, throttled=True) from None
        if code in (408, 409, 425) or code >= 500:
            raise Again(f"{code}: {said}", retry_after(error.response.headers)) from None
        if code in (400, 422):
            about = f"{getattr(error, 'param', '') or ''} {said}"
            if "max_completion_tokens" in about and limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                return
            if "logprobs" in about and logprobs:
                self.parsed = True
                return
            if "temperature" in about:
                raise EmaError(where, "A judge is asked at temperature 0; take a model that can do that.") from None
        raise NotThisOne(f"{code}: {said}") from None


def server_of(url: str, model: str) -> Server:
    """Raises:
    EmaError: it is OpenAI's, and there is no key.
    """
    key = key_for(url)
    if key is None and urlsplit(url).hostname == OPENAI_HOST:
        raise EmaError(f"There is no key for {OPENAI_HOST}.", f"Set {OPENAI_KEY} in the environment or in .streamlit/secrets.toml.")
    if key is not None and not (key.value.isascii() and key.value.isprintable() and " " not in key.value):
        raise EmaError(f"{key.name} in {key.where} is no key: it holds a space or odd characters.", "Copy the key once more.")
    return Server(url, model, key.value if key else "")


def _message(error: Any, hide: Callable[[str], str]) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    text = body.get("message") if isinstance(body.get("message"), str) else None
    return shown(hide(text or str(getattr(error, "message", "")) or "no reason"), 300)


def _cause(error: BaseException, hide: Callable[[str], str]) -> str:
    cause = error.__cause__ or error
    return shown(hide(type(cause).__name__ + (f": {cause}" if str(cause) else "")), 120)


def _read(text: str) -> _Body:
    """The parts of a chat completion.

    Raises:
        Again: it is none.
    """
    try:
        body = json.loads(text)
    except ValueError:
        kind = "HTML" if text.lstrip()[:1] == "<" else "nothing" if not text.strip() else "text"
        raise Again(f"a reply that is {kind} and not JSON") from None
    try:
        choice = body["choices"][0]
        said = choice["message"].get("content") or choice["message"].get("refusal") or ""
        if not isinstance(said, str):
            raise TypeError
        usage = body.get("usage") or {}
        return _Body(
            said,
            choice.get("finish_reason") == "length",
            _top(choice.get("logprobs")),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            str(body.get("model") or ""),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Again("a reply that is no chat completion") from None


def _top(logprobs: Any) -> list[tuple[str, float]] | None:
    """The first token's alternatives; None where the server gives none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content:
        return None
    found = []
    for one in content[0].get("top_logprobs") or []:
        text, value = one.get("token"), one.get("logprob")
        if isinstance(text, str) and isinstance(value, int | float) and not math.isnan(value):
            found.append((text, float(value)))
    return found or None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None
