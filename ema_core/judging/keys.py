"""API keys of judges: read where they are needed, kept nowhere, taken out of every text that somebody may read. Torch-free."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from ema_core.generation.engine import OPENAI_HOST
from ema_core.settings import PROJECT, settings

OPENAI_KEY, JUDGE_KEY, ENGINE_KEY = "OPENAI_API_KEY", "EMA_JUDGE_KEY", "EMA_ENGINE_KEY"
HIDDEN = "(key hidden)"
_LIKE_A_KEY = re.compile(r"\b(?:sk|pk|rk)-[\w*.-]{6,}|(?i:\bbearer)\s+[\w.~+/=-]{8,}")


@dataclass(frozen=True)
class Key:
    """``name`` is the variable that it comes from, ``where`` what holds that."""

    name: str
    where: str
    value: str = field(repr=False)


def key_for(url: str) -> Key | None:
    """The key for a server. OpenAI's goes to OpenAI alone: another server gets ``EMA_JUDGE_KEY``, which goes before it there, too."""
    names = [JUDGE_KEY]
    if urlsplit(url).hostname == OPENAI_HOST:
        names.append(OPENAI_KEY)
    if url == settings().engine_url:
        names.append(ENGINE_KEY)
    return next((key for name in names if (key := _find(name))), None)


def key_state(url: str) -> str:
    """In words, for a page or a terminal; never the key."""
    if key := key_for(url):
        return f"{key.name} is set in {key.where}"
    if urlsplit(url).hostname == OPENAI_HOST:
        return f"no key: set {OPENAI_KEY} in the environment or in .streamlit/secrets.toml"
    return f"no key ({JUDGE_KEY} is not set; a server of your own may need none)"


def secrets_files() -> list[Path]:
    return [PROJECT / ".streamlit" / "secrets.toml", Path.home() / ".streamlit" / "secrets.toml"]


def _find(name: str) -> Key | None:
    if value := os.environ.get(name, "").strip():
        return Key(name, "the environment", value)
    for path in secrets_files():
        try:
            value = tomllib.loads(path.read_text(encoding="utf-8")).get(name, "")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue
        if isinstance(value, str) and value.strip():
            return Key(name, "secrets.toml", value.strip())
    return None


def _secrets() -> list[str]:
    """Every secret that a server could send back to us."""
    known = [key.value for name in (OPENAI_KEY, JUDGE_KEY, ENGINE_KEY) if (key := _find(name))]
    try:
        known.append((settings().engine / "token").read_text().strip())
    except OSError:
        pass
    return sorted(
        {form for secret in known if len(secret) >= 6 for form in (secret, quote(secret, safe=""))}, key=len, reverse=True
    )


def hider() -> Callable[[str], str]:
    """Takes out of a text every key that is known now, also one that was cut, and whatever looks like a key."""
    secrets = _secrets()
    known = "|".join(re.escape(secret) for secret in secrets)
    cut = "|".join(re.escape(secret[:8]) + r"[^\s\"'<>]*" for secret in secrets if len(secret) > 12)
    patterns = [re.compile(text) for text in (known, cut) if text]

    def hide(text: str) -> str:
        for pattern in [*patterns, _LIKE_A_KEY]:
            text = pattern.sub(HIDDEN, text)
        return text

    return hide


def without_keys(text: str) -> str:
    """The same text without any key."""
    return hider()(text)
