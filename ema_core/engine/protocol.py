"""OpenAI's chat completions as the engine speaks them: what may be asked, and the shapes of what comes back. Torch-free."""

from __future__ import annotations

import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ema_core.engine.core import Accepted, Identity
from ema_core.errors import EmaError
from ema_core.generation.chat_template import Turn
from ema_core.generation.decoder import Drawn

MOST_CHOICES = 16
MOST_TOKENS = 8192
DEFAULT_TOKENS = 512


def sayable(text: str) -> str:
    """A lone surrogate is no character and cannot be encoded."""
    return text.encode("utf-8", "replace").decode()


class BadRequest(EmaError):
    """``code`` and ``param`` as in OpenAI's error objects."""

    def __init__(self, message: str, hint: str = "", code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint)
        self.code, self.param = code, param


class _Part(BaseModel):
    type: str
    text: str | None = None


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None

    def turn(self) -> Turn:
        parts = self.content if isinstance(self.content, list) else [_Part(type="text", text=self.content or "")]
        if odd := next((part.type for part in parts if part.type != "text"), None):
            raise BadRequest(f"Content of the type {odd} cannot be read here, only text.", param="messages")
        text = "".join(part.text or "" for part in parts)
        return {"role": self.role.replace("developer", "system"), "content": sayable(text)}


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request body. What OpenAI's protocol knows and this engine cannot do is refused, what it need not do is passed over."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=1000)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float = Field(default=1.0, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream: bool = False
    stream_options: _StreamOptions | None = None

    @field_validator("n", "temperature", "top_p", "logprobs", "stream", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def limit(self) -> int:
        return self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def row_seed(self) -> int:
        """The seed asked for as a torch generator takes it, else a new one."""
        return secrets.randbits(56) if self.seed is None else self.seed % (1 << 63)

    def turns(self) -> list[Turn]:
        """The conversation.

        Raises:
            BadRequest: it asks nothing, or holds more than text.
        """
        turns = [message.turn() for message in self.messages]
        if turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
            raise BadRequest(
                "The last message has to be the user's, with a question in it.", "Write one.", "empty_prompt", "messages"
            )
        return turns


_REFUSED = {
    "tools": None, "functions": None, "response_format": {"type": "text"}, "logit_bias": {}, "frequency_penalty": 0,
    "presence_penalty": 0, "audio": None, "modalities": ["text"],
}  # fmt: skip


def parse_request(body: Any) -> ChatRequest:
    """Raises:
    BadRequest: not a request that can be answered; the message names the field.
    """
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where or 'The body'}: {first['msg']}.", param=where or None, code="invalid_value") from None
    for name, value in (request.model_extra or {}).items():
        if name in _REFUSED and value is not None and value != _REFUSED[name] and value != []:
            raise BadRequest(f"This engine cannot do {name}.", "Leave it out.", "unsupported_parameter", name)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs asks for logprobs to be true.", param="top_logprobs", code="invalid_value")
    if len(request.stops) > 16:
        raise BadRequest("At most 16 stop strings are taken.", param="stop", code="invalid_value")
    return request


def error_body(error: EmaError, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    message, hint = sayable(error.message), sayable(error.hint)  # they quote what was asked
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "ema_hint": hint}}


class Reply:
    """The shapes of one request's answers."""

    def __init__(self, accepted: Accepted) -> None:
        self.id, self.created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self.accepted, self.tokenizer = accepted, accepted.tokenizer

    def _shared(self, kind: str) -> dict[str, Any]:
        identity = self.accepted.identity
        return {
            "id": self.id, "object": kind, "created": self.created, "model": identity.model,
            "system_fingerprint": identity.system_fingerprint,
        }  # fmt: skip

    def whole(self, texts: list[str], finishes: list[str], drawn: list[list[Drawn]], logprobs: bool) -> dict[str, Any]:
        choices = [
            {
                "index": index, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": finish,
                "logprobs": self.logprobs(drawn[index]) if logprobs else None,
            }
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]  # fmt: skip
        usage = self.usage(sum(map(len, drawn)))
        return {**self._shared("chat.completion"), "choices": choices, "usage": usage, "ema": described(self.accepted.identity)}

    def chunk(
        self, choice: int, text: str = "", finish: str | None = None, drawn: list[Drawn] | None = None, first: bool = False,
        tokens: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """A piece of a stream. ``tokens`` of the whole answer come with its end, as ``ema_tokens``: ``usage`` has only the sum."""
        delta = {"role": "assistant", "content": ""} if first else {"content": text} if text else {}
        one: dict[str, Any] = {
            "index": choice,
            "delta": delta,
            "finish_reason": finish,
            "logprobs": self.logprobs(drawn) if drawn else None,
        }
        if tokens is not None:
            one["ema_tokens"] = tokens
        more = {"ema": described(self.accepted.identity)} if first else {}
        return {**self._shared("chat.completion.chunk"), "choices": [one], **more}

    def usage_chunk(self, tokens: int) -> dict[str, Any]:
        return {**self._shared("chat.completion.chunk"), "choices": [], "usage": self.usage(tokens)}

    def usage(self, tokens: int) -> dict[str, int]:
        asked = self.accepted.prompt_tokens
        return {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}

    def logprobs(self, drawn: list[Drawn]) -> dict[str, Any]:
        content = [
            {**self._token(one.token, one.logprob), "top_logprobs": [self._token(token, value) for token, value in one.top]}
            for one in drawn
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def described(identity: Identity) -> dict[str, Any]:
    """``ema`` in an answer: who answers, and how that is known."""
    print_ = identity.fingerprint
    proof: dict[str, Any] = {"state": "base"}
    if print_ is not None:
        proof = {
            "state": "verified", "difference": print_.difference, "tolerance": print_.tolerance, "from_base": print_.from_base,
        }  # fmt: skip
    return {
        "model": identity.model, "adapter_hash": identity.adapter_hash, "weights_hash": identity.weights_hash,
        "scale": identity.scale, "fingerprint": proof,
    }  # fmt: skip
