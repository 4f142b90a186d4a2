"""Writing that survives a kill: whole files by rename, logs a whole line at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from ema_core.errors import EmaError

Found = TypeVar("Found")
_RACY_NS = 2_000_000_000
"""A folder may change again within one tick of its file system's clock (two seconds at worst), so what was read so soon is not kept."""
_of_folders: dict[tuple[str, Callable[[Path], Any]], tuple[tuple[int, int], Any]] = {}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into an ``EmaError`` that names the folder."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors says the system's error in an exception of its own
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or "No space left" in str(error):
            raise EmaError(
                f"The disk is full (writing {path}).", "Free some space, then do it again or resume; what was written is kept."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise EmaError(f"{path} cannot be written.", "Make the folder writable, or set EMA_HOME to one that is.") from error
        raise


@contextmanager
def swept(partial: Path) -> Iterator[None]:
    """A folder or file that is filled and then renamed: no leftover of an earlier try before, none of a failed one after.

    A leftover would fill a full disk further.
    """
    _away(partial)
    try:
        yield
    except Exception:
        _away(partial)
        raise


def _away(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(OSError):
            partial.unlink()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` as a whole: temporary file beside it, fsync, rename."""
    raw = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def of_folder(folder: Path, read: Callable[[Path], Found]) -> Found:
    """What ``read(folder)`` finds, which must go by the names in the folder: read anew only after one came, went or was renamed.

    A room of browsers asks several hundred times a second.

    Raises:
        OSError: the folder cannot be looked at.
    """
    stat = folder.stat()
    key, version = (str(folder), read), (stat.st_mtime_ns, stat.st_ino)
    known = _of_folders.get(key)
    if known is not None and known[0] == version:
        return cast(Found, known[1])
    found = read(folder)
    if time.time_ns() - stat.st_mtime_ns > _RACY_NS:
        _of_folders[key] = (version, found)
    return found


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON object as a line, in one write. A torn last line of a killed writer is ended first."""
    append_lines(path, [value])


def append_lines(path: Path, values: list[dict[str, Any]]) -> None:
    line = "".join(json.dumps(v, ensure_ascii=False, separators=(",", ":")) + "\n" for v in values).encode()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)


def read_lines(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Whole lines from byte ``offset`` on, and the offset to go on from. Torn or foreign lines are passed over."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            raw = file.read()
    except FileNotFoundError:
        return [], offset
    end = raw.rfind(b"\n") + 1
    rows = []
    for line in raw[:end].splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows, offset + end


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of a JSON value that does not depend on key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
