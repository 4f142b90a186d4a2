"""How the command line speaks: one JSON object or a short text on stdout, progress and errors on stderr."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from ema_core.errors import EmaError

F = TypeVar("F", bound=Callable[..., Any])
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def fail(message: str) -> NoReturn:
    typer.echo(f"ema: {message}", err=True)
    raise typer.Exit(2)


def command(app: typer.Typer, name: str) -> Callable[[F], F]:
    """``app.command(name)`` whose ``EmaError`` is one clear line and exit code 2; a traceback goes into the log only."""

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except EmaError as error:
                fail(str(error))
            except (typer.Exit, typer.Abort, KeyboardInterrupt, BrokenPipeError):  # a reader that has seen enough (| head)
                raise
            except Exception as error:
                fail(f"Something unexpected went wrong ({type(error).__name__}). {_logged()}")

        app.command(name)(guarded)
        return function

    return wrap


def _logged() -> str:
    from ema_core.settings import settings, writable

    try:
        path = writable(settings().logs) / "cli.log"
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}\n{traceback.format_exc()}\n")
    except (OSError, EmaError):
        return f"No log can be written: {traceback.format_exc().strip().splitlines()[-1]}"
    return f"Details are in {path}."


def emit(value: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print ``value`` as the one JSON object, or call ``text``."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False, default=str))
    else:
        text()


def table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """A plain table on stdout; what does not fit is not cut, so that it can be copied."""
    cells = [[str(row.get(column, "") if row.get(column) is not None else "") for column in columns] for row in rows]
    widths = [max([len(column), *(len(cell[i]) for cell in cells)]) for i, column in enumerate(columns)]
    for line in [columns, *cells]:
        typer.echo("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip())


class Bar:
    """A progress bar on stderr: redrawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.shown = 0.0
        self.last = ""
        self.live = sys.stderr.isatty()

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        ends = share >= 1
        if not ends and now - self.shown < (0.1 if self.live else 5) and self.last:
            return
        self.shown = now
        width = 24
        done = round(width * min(1.0, share))
        line = f"[{'#' * done}{'.' * (width - done)}] {100 * share:3.0f} %  {what}"
        if line == self.last:
            return
        if self.live:
            sys.stderr.write("\r" + line.ljust(len(self.last)) + ("\n" if ends else ""))
        else:
            sys.stderr.write(line + "\n")
        self.last = line
        sys.stderr.flush()


def ends_on_signal(words: str = "ending after this step, with a checkpoint") -> Callable[[], bool]:
    """True once SIGINT or SIGTERM came; a second one ends the process at once."""
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        typer.echo(f"\nema: {words} (once more: at once)", err=True)
        asked.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)
    return asked.is_set


def duration(seconds: float) -> str:
    """``2 min 5 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
