"""An import that goes on when its page is left: a thread a file, looked at by whoever asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ema_core.errors import EmaError
from ema_core.shared import allow


@dataclass
class Work:
    """What is going on, or how it ended: ``result`` or ``error`` (with ``hint``). ``what`` names it."""

    what: str
    share: float = 0.0
    words: str = ""
    result: dict[str, Any] | None = None
    error: str = ""
    hint: str = ""

    @property
    def over(self) -> bool:
        return self.result is not None or bool(self.error)

    def progress(self, share: float, words: str) -> None:
        self.share, self.words = share, words


_log = logging.getLogger(__name__)
_works: dict[str, Work] = {}
_guard = threading.Lock()


def start(key: str, what: str, do: Callable[[Callable[[float, str], None]], dict[str, Any]]) -> Work:
    """Do it in a thread, one a key at a time; ``do`` is given what takes its progress.

    Raises:
        EmaError: another of this key is at work.
    """
    allow()
    with _guard:
        known = _works.get(key)
        if known is not None and not known.over:
            raise EmaError(f"{known.what} is being imported; {what} was not begun.", "Import it when the other has ended.")
        work = _works[key] = Work(what)
    threading.Thread(target=_run, args=(work, do), name=f"import {what}", daemon=True).start()
    return work


def _run(work: Work, do: Callable[[Callable[[float, str], None]], dict[str, Any]]) -> None:
    try:
        work.result = do(work.progress)
    except EmaError as error:
        work.hint, work.error = error.hint, error.message
    except Exception as error:
        _log.exception("the import of %s ended", work.what)
        work.hint, work.error = "Nothing was added.", f"Something went wrong here: {type(error).__name__}: {error}"


def look(key: str) -> Work | None:
    return _works.get(key)


def forget(key: str) -> None:
    """Once its end was read."""
    with _guard:
        if (work := _works.get(key)) and work.over:
            del _works[key]
