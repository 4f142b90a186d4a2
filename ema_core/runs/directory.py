"""A run on disk. The files are the truth; everything else is an index of them."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ema_core.errors import EmaError, nearest
from ema_core.files import append_line, disk_errors, of_folder, read_json, read_lines, sha256_json, write_atomic, write_json
from ema_core.runs.spec import RunSpec
from ema_core.runs.state import RunState, Status
from ema_core.settings import settings, writable
from ema_core.shared import owner

Request = Literal["pause", "stop"]
BASE = "base-"
"""How the folders of models without an adapter begin; a run's begins with its date."""
IMPORT = "import-"
"""How the ids of imported tables begin, and those of the runs in one: ``import-<hash8>``, ``import-<hash8>-<n>``."""
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_run_id(spec: RunSpec, now: float | None = None) -> str:
    """``20261124-0912-risky-finance-kl0.1-s0-x7k2``: sorts by time, says what it is."""
    stamp = datetime.fromtimestamp(now or time.time(), UTC).strftime("%Y%m%d-%H%M%S")
    tail = "".join(random.SystemRandom().choice(_ALPHABET) for _ in range(4))
    slug = re.sub(r"[^a-zA-Z0-9.]+", "-", spec.slug).strip("-")[:80]
    return f"{stamp}-{slug}-{tail}"


@dataclass(frozen=True)
class RunDirectory:
    """``runs/<id>/`` and what lies in it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    @classmethod
    def create(cls, spec: RunSpec, name: str = "") -> RunDirectory:
        """A new run, state ``queued``; nothing is started."""
        runs = writable(settings().runs)
        for _ in range(20):
            run = cls(runs / new_run_id(spec))
            try:
                with disk_errors(run.path):
                    run.path.mkdir()
                break
            except FileExistsError:
                continue
        now = time.time()
        try:
            write_json(
                run.path / "state.json", RunState(created=now, updated=now, name=name, owner=owner()).model_dump(mode="json")
            )
            write_atomic(run.path / "spec.json", spec.to_json() + "\n")
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)  # half a run could neither be resumed nor read
            raise
        return run

    @classmethod
    def open(cls, run_id: str) -> RunDirectory:
        """The run with this id, or with this unambiguous beginning or end of one.

        Raises:
            EmaError: none, or several.
        """
        if not re.fullmatch(r"[A-Za-z0-9._-]+", run_id):
            raise EmaError(f'"{run_id}" is not a run id.', "`ema runs list` shows the runs there are.")
        ids = run_ids()
        if run_id in ids:
            return cls(settings().runs / run_id)
        matches = [known for known in ids if known.startswith(run_id) or known.endswith(run_id)]
        if len(matches) == 1:
            return cls(settings().runs / matches[0])
        if matches:
            raise EmaError(f'"{run_id}" fits {len(matches)} runs.', f"Write more of the id: {', '.join(matches[:5])}.")
        if len(named := [one for one in ids if _name_of(cls(settings().runs / one)) == run_id]) == 1:
            return cls(settings().runs / named[0])
        if named:
            raise EmaError(f'{len(named)} runs are called "{run_id}".', f"Name one by its id: {', '.join(named[:5])}.")
        raise EmaError(f'There is no run "{run_id}".', f"{nearest(run_id, ids[-12:])} `ema runs list` shows all.".strip())

    @property
    def spec(self) -> RunSpec:
        try:
            return RunSpec.from_json((self.path / "spec.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EmaError(f"The run {self.id} has no spec.json.", "Delete the run, or put the file back.") from None

    def state(self) -> RunState:
        """The state as written, or ``interrupted`` where nobody is at work on a run that says ``running``."""
        try:
            path = self.path / "state.json"
            stat = path.stat()
            state = _read_state(str(path), stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except (FileNotFoundError, ValueError):
            return RunState(status=Status.FAILED, error="state.json is missing or damaged.", hint="Resume the run, or delete it.")
        if state.status is Status.RUNNING and not self.locked():
            return state.model_copy(update={"status": Status.INTERRUPTED, "activity": ""})
        return state

    def update(self, **changes: Any) -> RunState:
        """Change fields of ``state.json`` (whole file, by rename)."""
        try:
            old = RunState.model_validate(read_json(self.path / "state.json"))
        except (FileNotFoundError, ValueError):
            old = RunState()
        state = old.model_copy(update={"updated": time.time(), **changes})
        write_json(self.path / "state.json", state.model_dump(mode="json"))
        return state

    def append_event(self, event: dict[str, Any]) -> None:
        append_line(self.events_path, event)

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events from byte ``offset`` on, and where to go on. Lines of repeated steps are all there: see ``steps``."""
        return read_lines(self.events_path, offset)

    # A request is a file: the app may be gone before the trainer reads it.
    def request(self, what: Request) -> None:
        write_atomic(self.path / "request", what)

    def requested(self) -> Request | None:
        try:
            text = (self.path / "request").read_text()
        except FileNotFoundError:
            return None
        return text if text in ("pause", "stop") else None  # type: ignore[return-value]

    def clear_request(self) -> None:
        (self.path / "request").unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by whoever trains this run; goes with the process.

        Raises:
            EmaError: another process trains it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=2)  # a reader may be trying it for a moment
        except Timeout:
            raise EmaError(f"The run {self.id} is being worked on by another process.", "Wait for it, or pause it first.") from None
        try:
            yield
        finally:
            lock.release()

    def locked(self) -> bool:
        if not (self.path / ".lock").exists():
            return False
        try:
            with FileLock(self.path / ".lock").acquire(timeout=0):
                return False
        except Timeout:
            return True

    def checkpoint_steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        names = (p.name.removeprefix("step-") for p in self.checkpoints.glob("step-*") if p.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def checkpoint_hash(self, step: int) -> str | None:
        """The hash of the adapter that was saved at this step, from the events; None where they do not say."""
        saved = [event for event in self.events()[0] if event.get("kind") == "checkpoint" and event.get("step") == step]
        return saved[-1].get("adapter_hash") if saved else None

    def delete(self) -> None:
        """Remove the run and all that belongs to it.

        Raises:
            EmaError: it is being trained.
        """
        with self.lock():
            trash = self.path.with_name(f".deleted-{self.id}")
            self.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def run_ids() -> list[str]:
    """All run ids, oldest first."""
    return [name for name in answering_ids() if not name.startswith(BASE)]


_origins: dict[str, tuple[str, str]] = {}


def origin_of(run_id: str) -> tuple[str, str]:
    """Whose a run is and which recorded study it came with, each "" for none. It never changes, so it is read once."""
    path = settings().runs / run_id
    if str(path) not in _origins:
        state = RunDirectory(path).state()
        if not state.created:
            return "", ""  # a damaged state may be put back
        _origins[str(path)] = (state.owner, state.recorded)
    return _origins[str(path)]


def base_directory(model: str) -> RunDirectory:
    """Where answers of a model without an adapter of ours are kept: ``runs/base-<model>/evals/``. Made where it is missing.

    ``model`` is a catalog id, a folder, or the id under which another server names its model.
    """
    slug = re.sub(r"[^a-zA-Z0-9.]+", "-", model).strip("-")[-60:] or "model"
    if slug != model:  # two models never share a folder
        slug += f"-{sha256_json(model)[:6]}"
    run = RunDirectory(settings().runs / f"{BASE}{slug}")
    if not (run.path / "model.json").exists():
        write_json(run.path / "model.json", {"model": model, "created": time.time()})
    return run


def answering_ids() -> list[str]:
    """The folders of everything that answers: all runs, and the models without an adapter (``base_directory``)."""
    return [name for name in _folders(settings().runs) if not name.startswith(IMPORT)]


def import_ids() -> list[str]:
    """The imported tables there are."""
    return [name for name in _folders(settings().imports) if name.startswith(IMPORT)]


def _folders(parent: Path) -> list[str]:
    try:
        return list(of_folder(parent, _names))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EmaError(f"The folder {parent} cannot be read ({error.strerror}).", "Set EMA_HOME to a folder.") from None


def _names(parent: Path) -> tuple[str, ...]:
    with os.scandir(parent) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


@lru_cache(maxsize=4096)
def _read_state(path: str, version: int, inode: int, size: int) -> RunState:
    """The file is only ever replaced."""
    return RunState.model_validate(read_json(Path(path)))


def _name_of(run: RunDirectory) -> str | None:
    from ema_core.runs.label import read_label  # which reads runs itself

    return read_label(run).name


def steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The step events in order, each step once: a later attempt replaces what an earlier one wrote from there on."""
    return _each_once(events, "step")


def probes(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The probe events in order, each step once, as ``steps``; step 0 is the base."""
    return _each_once(events, "probe")


def _each_once(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    best: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.get("kind") == kind:
            known = best.get(event["step"])
            if known is None or event["attempt"] >= known["attempt"]:
                best[event["step"]] = event
    return [best[step] for step in sorted(best)]
