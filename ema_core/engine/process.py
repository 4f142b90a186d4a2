"""The engine as a process: its lock, its token, its port."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ema_core.engine.core import Engine
from ema_core.engine.server import application
from ema_core.errors import EmaError
from ema_core.files import write_json
from ema_core.generation.engine import engine_status
from ema_core.settings import settings, writable


def serve(port: int = 0, opened: Callable[[], None] = lambda: None) -> None:
    """Answer until SIGTERM or SIGINT. ``port`` 0 takes a free one; ``engine/engine.json`` says which. ``opened``: it answers.

    Raises:
        EmaError: an engine is there already, or the port is taken.
    """
    import uvicorn

    folder = writable(settings().engine)
    lock = FileLock(folder / "engine.lock")
    try:
        lock.acquire(timeout=2)
    except Timeout:
        raise EmaError(f"An engine is at work already (process {engine_status().pid}).", "One a machine is enough.") from None
    try:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise EmaError(f"Port {port} cannot be used ({error.strerror}).", "Choose another --port, or leave it out.") from None
        engine = Engine()

        @asynccontextmanager
        async def life(app: object) -> AsyncIterator[None]:
            engine.start()
            write_json(folder / "engine.json", {"pid": os.getpid(), "port": listener.getsockname()[1], "time": time.time()})
            opened()
            yield
            engine.stop()

        app = application(engine, _token(folder / "token"), lifespan=life)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        (folder / "engine.json").unlink(missing_ok=True)
        lock.release()


def _token(path: Path) -> str:
    """A new token each start, readable by this user alone."""
    token = secrets.token_urlsafe(32)
    partial = path.with_name(f".token.{os.getpid()}")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(token)
    os.replace(partial, path)
    return token
