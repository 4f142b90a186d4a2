"""Blind reviews: answers to be read without knowing who gave them and what any judge said.

A review is a file in ``EMA_HOME/reviews``: the answers in a shuffled order, and a secret from which their names in addresses are made.
Nothing of it but those names reaches a browser.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.settings import settings, writable
from ema_core.store.answers import AnswerKey

MOST = 2000


@dataclass(frozen=True)
class BlindReview:
    """A list of answers to be judged blind, whatever is indexed later."""

    id: str
    secret: str
    keys: tuple[AnswerKey, ...]
    created: float

    @classmethod
    def create(cls, keys: Sequence[AnswerKey]) -> BlindReview:
        """Raises:
        EmaError: there are none, too many, or the folder cannot be written.
        """
        if not 0 < len(keys) <= MOST:
            raise EmaError(f"A blind review has 1 to {MOST:,} answers; these are {len(keys):,}.", "Draw a sample of them first.")
        mixed = list(dict.fromkeys(keys))
        random.SystemRandom().shuffle(mixed)
        made = cls(secrets.token_hex(8), secrets.token_hex(32), tuple(mixed), time.time())
        path = _path(made.id)
        writable(path.parent)
        write_json(path, {"secret": made.secret, "created": made.created, "answers": [str(key) for key in mixed]})
        path.chmod(0o600)
        return made

    @classmethod
    def open(cls, id: str) -> BlindReview:
        """Raises:
        EmaError: there is no such review, or its file is damaged.
        """
        try:
            known = read_json(_path(id))
            keys = tuple(key for text in known["answers"] if (key := AnswerKey.parse(text)))
            return cls(id, str(known["secret"]), keys, float(known["created"]))
        except FileNotFoundError:
            raise EmaError("There is no such blind review.", "Ask whoever sent the link, or start one on Samples.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EmaError(f"The blind review cannot be read ({type(error).__name__}).", "Start a new one on Samples.") from error

    def name(self, key: AnswerKey) -> str:
        """What an answer is called where its key must not be seen."""
        return hmac.new(bytes.fromhex(self.secret), str(key).encode(), hashlib.sha256).hexdigest()[:20]

    @cached_property
    def names(self) -> dict[str, int]:
        """Where the answer of each name stands."""
        return {self.name(key): place for place, key in enumerate(self.keys)}


def _path(id: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{16}", id):
        raise EmaError("There is no such blind review.", "Ask whoever sent the link, or start one on Samples.")
    return settings().home / "reviews" / f"{id}.json"
