"""Finding and talking to the engine: our own process, or another OpenAI-compatible server in its place. Torch-free.

Our own speaks OpenAI's protocol, with extensions that it announces under ``/v1/ema``: another server has none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ema_core.errors import EmaError
from ema_core.files import read_json
from ema_core.processes import alive
from ema_core.settings import settings

if TYPE_CHECKING:
    from openai import OpenAI

BASE_MODEL = "base"
MOST_COLUMNS = 6


OPENAI_HOST = "api.openai.com"


def only_ours(url: str, key: str) -> dict[str, Any]:
    """Headers for the ``openai`` client, so that another server than OpenAI's gets this key and nothing that the client takes from the
    environment: whose account it is, and what ``OPENAI_CUSTOM_HEADERS`` holds (a key, maybe)."""
    from openai import Omit

    if urlsplit(url).hostname == OPENAI_HOST:
        return {}
    named = (line.partition(":")[0].strip() for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines())
    return {name: Omit() for name in ("OpenAI-Organization", "OpenAI-Project", *filter(None, named))} | {
        "Authorization": f"Bearer {key}"
    }


@dataclass(frozen=True)
class EngineStatus:
    """Our own engine's process. ``port`` on 127.0.0.1."""

    alive: bool
    pid: int | None = None
    port: int | None = None


def engine_status() -> EngineStatus:
    """From ``engine/engine.json`` and the process table; a dead engine's leftovers do not count as one."""
    try:
        found = read_json(settings().engine / "engine.json")
        pid, port, since = int(found["pid"]), int(found["port"]), float(found["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return EngineStatus(False)
    return EngineStatus(True, pid, port) if alive(pid, since) else EngineStatus(False)


@dataclass(frozen=True)
class Capabilities:
    """What the server can do beyond OpenAI's protocol; ``why_not`` says why what is missing is missing.

    ``scale``: ``RUN*0.5``. ``steps``: ``RUN@STEP``. ``judge``: the probe judges answers. ``identity``: hash and fingerprint.
    ``persona``: answers are projected on a persona vector. ``divergence``: an answer's tokens are held against the base.
    """

    scale: bool = False
    steps: bool = False
    judge: bool = False
    identity: bool = False
    persona: bool = False
    divergence: bool = False
    why_not: str = ""
    judges: tuple[str, ...] = ()
    context: int | None = None


@dataclass(frozen=True)
class Engine:
    """An OpenAI-compatible server. ``url`` ends with ``/v1``; ``own``: our process."""

    url: str
    token: str = field(repr=False)
    own: bool

    @classmethod
    def here(cls) -> Engine:
        """The engine of this home, or the server that ``EMA_ENGINE_URL`` names.

        Raises:
            EmaError: our own engine is not running.
        """
        if url := settings().engine_url:
            return cls(url, os.environ.get("EMA_ENGINE_KEY", "") or "none", own=False)
        status = engine_status()
        if not status.alive:
            raise EmaError("The engine is not running.", "`ema app` starts it, and so does `ema serve`.")
        try:
            token = (settings().engine / "token").read_text().strip()
        except OSError as error:
            raise EmaError(f"The engine's token cannot be read ({error.strerror}).", "End the engine and start it again.") from None
        return cls(f"http://127.0.0.1:{status.port}/v1", token, own=True)

    def client(self, timeout: float = 600.0, max_retries: int = 2) -> OpenAI:
        """The plain ``openai`` client on this server."""
        from openai import OpenAI

        return OpenAI(
            base_url=self.url, api_key=self.token, timeout=timeout, max_retries=max_retries,
            default_headers=only_ours(self.url, self.token),
        )  # fmt: skip

    def models(self) -> list[str]:
        """The ids that it answers to.

        Raises:
            EmaError: it cannot be reached, or refuses.
        """
        with said(self.url):
            return [model.id for model in self.client(timeout=15).models.list()]

    def capabilities(self) -> Capabilities:
        """Asked of the server; one that does not know the question has none.

        Raises:
            EmaError: it cannot be reached.
        """
        import openai

        with said(self.url):
            try:
                found = self.client(timeout=15).get("/ema", cast_to=object)
            except (openai.NotFoundError, openai.APIResponseValidationError):
                found = None
        if not isinstance(found, dict) or not isinstance(found.get("capabilities"), dict):
            return Capabilities(why_not=f"the server at {self.url} is not EMA Lab's engine and does not offer this")
        able = found["capabilities"]
        names = ("scale", "steps", "judge", "identity", "persona", "divergence")
        has = {name: bool(able.get(name)) for name in names}
        missing = ", ".join(name for name in names if not has[name])
        why_not = f"the server at {self.url} does not offer {missing}" if missing else ""
        return Capabilities(**has, why_not=why_not, judges=tuple(found.get("judges", ())), context=found.get("context"))

    def judge(self, items: Sequence[tuple[str, str, str]], judge: str = "probe") -> list[dict[str, Any]]:
        """Judgments (fields of ``judging.Judgment``) of (sample id, question, answer), in order.

        Raises:
            EmaError: it cannot be reached, or cannot judge.
        """
        body = {"judge": judge, "items": [{"id": one, "question": two, "answer": three} for one, two, three in items]}
        with said(self.url):
            found: Any = self.client().post("/ema/judge", body=body, cast_to=object)
        return list(found["judgments"])

    def project(self, vector: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Projections (``id``, ``value``, ``deviations``) of answers on a persona vector, in order; each item has ``id``, ``model``,
        ``messages`` and ``answer``.

        Raises:
            EmaError: it cannot be reached, or cannot do it.
        """
        with said(self.url):
            found: Any = self.client().post("/ema/projection", body={"vector": vector, "items": list(items)}, cast_to=object)
        return list(found["projections"])

    def diverge(self, model: str, messages: Sequence[dict[str, str]], answer: str) -> dict[str, Any]:
        """An answer of a tuned model beside its base's expectations: ``total`` tokens, and ``tokens``, each with ``text``, ``kl`` (nats),
        ``tuned`` and ``base`` (its probability) and both models' likeliest (``tuned_top``, ``base_top``: ``text``, ``p``).

        Raises:
            EmaError: it cannot be reached, or cannot do it.
        """
        body = {"model": model, "messages": list(messages), "answer": answer}
        with said(self.url):
            found: Any = self.client().post("/ema/divergence", body=body, cast_to=object)
        return dict(found)


@contextmanager
def said(url: str) -> Iterator[None]:
    """The client library's errors as ``EmaError`` in plain words."""
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIStatusError as error:
        raise EmaError(*words_of(error)) from error
    except APIConnectionError as error:
        raise EmaError(f"The engine at {url} does not answer.", "It may be starting; try again in a moment.") from error
    except OpenAIError as error:
        raise EmaError(f"The engine at {url} gave an answer that cannot be read ({error}).") from error


def words_of(error: Any) -> tuple[str, str]:
    """Message and hint of an ``openai.APIStatusError``; our engine puts the hint into its ``ema_hint``."""
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.message)[:2000]
    return message, str(body.get("ema_hint") or "")
