"""Names of judges that are language models: which server, which model, which rubrics, which repeat. Torch-free.

``openai:MODEL:RUBRICS`` is api.openai.com, ``engine:MODEL:RUBRICS`` our own engine, ``HOST:PORT/MODEL:RUBRICS`` another server; a repeat
on purpose has ``:r2`` behind. A name with its rubrics in it is taken literally, one without is completed from flags and environment.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.judging.keys import OPENAI_HOST
from ema_core.judging.rubrics import DEFAULT, is_rubric_id, keep_rubrics, load_rubrics
from ema_core.settings import settings

OPENAI, ENGINE, CONFIGURED = "openai", "engine", "llm"
OPENAI_URL = f"https://{OPENAI_HOST}/v1"
FORMS = "openai:MODEL, engine:MODEL, HOST:PORT/MODEL, or llm for EMA_JUDGE_MODEL at EMA_JUDGE_URL"
MOST_REPEATS = 99
SERVERS = "servers.json"

_HOST = re.compile(r"(?:localhost|\[[0-9a-fA-F:]+\]|[\w-]+(?:\.[\w-]+)+|[\w-]+(?=:\d))(?::\d{1,5})?", re.ASCII)
_MODEL = re.compile(r"[\w.:/@*+-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class LlmJudgeId:
    """``server`` is ``openai``, ``engine``, or another server's host and port (and path, where that is not /v1)."""

    server: str
    model: str
    rubrics: str = DEFAULT
    repeat: int = 1

    def __str__(self) -> str:
        between = ":" if self.server in (OPENAI, ENGINE) else "/"
        return f"{self.server}{between}{self.model}:{self.rubrics}" + (f":r{self.repeat}" if self.repeat > 1 else "")

    @property
    def url(self) -> str:
        """Where it is asked; "" for our own engine, whose port changes."""
        if self.server == OPENAI:
            return OPENAI_URL
        if self.server == ENGINE:
            return ""
        named = configured_url()
        if named and server_name(named) == self.server:
            return named
        known = _servers().get(self.server)
        if known:
            return known
        host = self.server.split("/")[0]
        scheme = (
            "http" if re.fullmatch(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", host) else "https"
        )  # a key never goes out in clear
        return f"{scheme}://{self.server}/v1"


def configured_url() -> str:
    """``EMA_JUDGE_URL``.

    Raises:
        EmaError: it is no address.
    """
    raw = os.environ.get("EMA_JUDGE_URL", "").strip()
    return _address(raw, "EMA_JUDGE_URL") if raw else ""


def configured_model() -> str:
    return os.environ.get("EMA_JUDGE_MODEL", "").strip()


def server_name(url: str) -> str:
    """How a server is called in a judge's id."""
    parts = urlsplit(url)
    if parts.hostname == OPENAI_HOST:
        return OPENAI
    return parts.netloc.lower() + re.sub(r"/v1$", "", parts.path.rstrip("/"))


def is_llm(judge: str) -> bool:
    """Does this name a language model as the judge?"""
    head = judge.partition(":")[0]
    if head in (OPENAI, ENGINE) or judge == CONFIGURED:
        return True
    host, slash, _ = judge.partition("/")
    return bool(slash) and _HOST.fullmatch(host) is not None


def parse(judge: str) -> LlmJudgeId:
    """A full id, taken literally.

    Raises:
        EmaError: it is none, or its rubrics are not there.
    """
    found, _ = _split(judge)
    load_rubrics(found.rubrics)
    return found


def complete(judge: str, url: str = "", model: str = "", rubrics: str = "", repeat: int = 1) -> LlmJudgeId:
    """The id that a user means: ``judge`` with what flags and environment say beside it. The server's address is remembered.

    Raises:
        EmaError: not a judge's name, no model, no such rubrics, or two statements that do not go together.
    """
    url = _address(url, "The judge's address") if url else ""
    name, full = (None, False) if judge == CONFIGURED else _split(judge, model)
    if name is None:
        model = model or configured_model()
        if not model:
            raise EmaError("No judge model is named.", "Set EMA_JUDGE_MODEL, or name one: --judge openai:MODEL.")
        at = url or configured_url() or OPENAI_URL
        name = LlmJudgeId(_remembered(at), _checked(model))
    elif name.server == OPENAI and not full and (at := url or configured_url()):
        name = LlmJudgeId(_remembered(at), name.model, name.rubrics, name.repeat)
    elif name.server == ENGINE and not full and settings().engine_url:
        name = LlmJudgeId(_remembered(settings().engine_url), name.model, name.rubrics, name.repeat)
    elif url and server_name(url) != name.server:
        raise EmaError(f"The judge {judge} is not at {url}.", "Leave the address out, or name the judge as openai:MODEL.")
    elif url:
        _remembered(url)
    if rubrics and full and keep_rubrics(rubrics).id != name.rubrics:
        raise EmaError(f"The judge {judge} has rubrics of its own.", "Leave --rubrics out, or name the judge without them.")
    kept = keep_rubrics(rubrics).id if rubrics else load_rubrics(name.rubrics).id
    if not 1 <= repeat <= MOST_REPEATS:
        raise EmaError(f"A repeat is a number from 1 to {MOST_REPEATS}, not {repeat}.", "1 is the first time.")
    return LlmJudgeId(name.server, name.model, kept, repeat if repeat > 1 else name.repeat)


def _split(judge: str, model: str = "") -> tuple[LlmJudgeId, bool]:
    """The parts of an id, and whether it names its rubrics."""
    head, _, rest = judge.partition(":")
    if head in (OPENAI, ENGINE):
        server = head
    elif is_llm(judge):
        known = [name for name in _servers() if judge.startswith(f"{name}/")]
        server = max(known, key=len, default=judge.partition("/")[0])
        rest = judge[len(server) + 1 :]
    else:
        raise EmaError(f'"{judge[:200]}" is not the name of a judge.', f"Name it as {FORMS}.")
    repeat = 1
    if found := re.fullmatch(r"(.+):r([1-9]\d?)", rest):
        rest, repeat = found[1], int(found[2])
    front, colon, last = rest.rpartition(":")
    full = bool(colon) and is_rubric_id(last)
    if full:
        rest = front
    return LlmJudgeId(server, _checked(rest or model), last if full else DEFAULT, repeat), full


def _checked(model: str) -> str:
    if not _MODEL.fullmatch(model):
        raise EmaError(f'"{model[:100]}" cannot be the name of a judge model.', f"Name the judge as {FORMS}.")
    return model


def _address(url: str, what: str) -> str:
    """An address without anything in it that should not be written down."""
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise EmaError(f"{what} is no address.", "It has to be like http://127.0.0.1:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EmaError(
            f"{what} holds more than an address.", "Take user, password and query out; a key belongs into EMA_JUDGE_KEY."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _servers() -> dict[str, str]:
    """Addresses by the name that a server has in ids."""
    try:
        found = read_json(settings().home / "judges" / SERVERS)
    except (OSError, ValueError):
        return {}
    return {str(name): str(url) for name, url in found.items()} if isinstance(found, dict) else {}


def _remembered(url: str) -> str:
    """The server's name; its address is kept, because a name alone does not say http or https."""
    name, known = server_name(url), _servers()
    if name != OPENAI and known.get(name) != url:
        write_json(settings().home / "judges" / SERVERS, known | {name: url})
    return name
