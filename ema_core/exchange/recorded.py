"""Recorded studies: run elsewhere, there on first open. Put into a home once, marked as recorded everywhere, gone with one click.

A recorded study is a bundle (``exchange.bundle``) that holds one study, ``<name>.zip`` in ``settings().recorded`` (``data/recorded``).
``recorded.json`` in the home says which were put there, which were taken away again (they do not come back by themselves), and, while one
is being moved, what has to be cleared away after a crash.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ema_core.errors import EmaError, nearest
from ema_core.exchange.bundle import unpacked
from ema_core.files import read_json, sha256_file, write_json
from ema_core.judging.judgment import Progress, quiet
from ema_core.runs import BASE, RunDirectory, RunState, Status
from ema_core.settings import settings, writable
from ema_core.shared import allow_host

LEDGER = "recorded.json"
PARTS = ("runs", "bases", "studies")
STUDY = "recorded-"
"""How the folder of a recorded study begins, so that the same study of one's own is another one."""
HERE, REMOVED, LEFT_OUT, MOVING, LEAVING = "here", "removed", "left out", "moving", "leaving"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
Entry = dict[str, Any]


def shipped() -> dict[str, Path]:
    """The recorded studies that come with the project, by name."""
    folder = settings().recorded
    files = sorted(folder.glob("*.zip")) if folder is not None and folder.is_dir() else []
    return {path.stem: path for path in files if NAME.fullmatch(path.stem)}


def entries() -> dict[str, Entry]:
    """What the home knows of recorded studies, by name: ``state`` (``here``, ``removed``, ``left out``), ``runs``, ``about``, ``why``."""
    try:
        known = read_json(settings().home / LEDGER)
    except (OSError, ValueError):
        return {}
    known = known if isinstance(known, dict) else {}
    return {name: entry for name, entry in known.items() if NAME.fullmatch(name) and isinstance(entry, dict) and _sound(entry)}


def here() -> dict[str, Entry]:
    """Those that can be looked at now."""
    return {name: entry for name, entry in entries().items() if entry["state"] == HERE}


def ensure() -> list[str]:
    """Put into this home what comes with the project and was never there, or is newer than what was; returns the names.

    What was taken away stays away. A file that cannot be used, and one whose runs are the user's own here, is left out and
    remembered with the reason.

    Raises:
        EmaError: the home cannot be written.
    """
    done = []
    known = entries()
    for name, entry in known.items():
        if entry["state"] in (MOVING, LEAVING):  # a process ended in the middle of it
            with _lock() as ledger:
                if name in ledger and ledger[name]["state"] in (MOVING, LEAVING):
                    _clear(ledger, name, REMOVED if ledger[name]["state"] == LEAVING else None)
    for name, path in shipped().items():
        had = entries().get(name)
        if had is not None and (had["state"] == REMOVED or had.get("sha256") == sha256_file(path)):
            continue
        try:
            add(path)
        except EmaError as error:
            if had is None or had["state"] == LEFT_OUT:  # else the older one stays
                _remember(name, {"state": LEFT_OUT, "sha256": sha256_file(path), "why": error.message})
            continue
        done.append(name)
    return done


def add(which: Path | str, name: str | None = None, progress: Progress = quiet) -> Entry:
    """Put a recorded study into this home: a file, or the name of one that comes with the project. An older one of the same name goes.

    All of it is checked before anything is touched.

    Raises:
        EmaError: there is none, it is damaged or holds no study, or its runs are the user's own here.
    """
    path = _file(which)
    name = name or path.stem
    if not NAME.fullmatch(name):
        raise EmaError(f'"{name}" cannot be a name.', "Give it one of lower-case letters, digits and hyphens, at most 40.")
    with _lock() as ledger, unpacked(path, progress) as (partial, manifest):
        about = manifest.get("about")
        entry: Entry = {
            "sha256": sha256_file(path), "added": time.time(), "about": about if isinstance(about, dict) else {},
            **_marked(partial, path, name),
        }  # fmt: skip
        if own := [run for run in entry["runs"] if _of(settings().runs / run) not in (None, name)]:
            raise EmaError(
                f"The recorded study {name} was not added: {own[0]} is a run of your own here, or of another recorded study.",
                "It can be looked at as it is; nothing was changed.",
            )
        old = ledger.get(name, {})
        _write(ledger, name, {**entry, "state": MOVING, "old": {part: old.get(part, []) for part in PARTS}})
        _away(name, old)
        _away(name, entry)
        for part, folder in (("runs", settings().runs), ("bases", settings().runs), ("studies", settings().studies)):
            writable(folder)
            for one in entry[part]:
                (partial / ("studies" if part == "studies" else "runs") / one).rename(folder / one)
        _write(ledger, name, {**entry, "state": HERE})
    progress(1.0, "done")
    return ledger[name]


def remove(name: str) -> int:
    """Take a recorded study away, with all that was judged on it here; it does not come back by itself. Returns how many runs went.

    Raises:
        EmaError: it is not here.
    """
    allow_host("Taking a recorded study away")
    with _lock() as ledger:
        entry = ledger.get(name)
        if entry is None or entry["state"] != HERE:
            known = [one for one, other in ledger.items() if other["state"] == HERE]
            raise EmaError(f'There is no recorded study "{name}" here.', nearest(name, known) or "`ema recorded list` shows all.")
        _write(ledger, name, {**entry, "state": LEAVING})
        _clear(ledger, name, REMOVED)
    return len(entry["runs"])


# --- inside -------------------------------------------------------------------------------------------------------


def _file(which: Path | str) -> Path:
    if isinstance(which, str) and which in shipped():
        return shipped()[which]
    path = Path(which)
    if not path.is_file():
        there = ", ".join(shipped()) or "none"
        raise EmaError(f"There is no recorded study {which}.", f"Name a zip, or one that comes with the project: {there}.")
    return path


def _marked(partial: Path, bundle: Path, name: str) -> Entry:
    """Mark what was unpacked, under the names that it will have here."""
    runs = sorted(path for path in (partial / "runs").glob("*") if not path.name.startswith(BASE))
    bases = sorted((partial / "runs").glob(f"{BASE}*"))
    studies = sorted((partial / "studies").glob("*"))
    if len(studies) != 1 or not runs:
        raise EmaError(f"{bundle} is no recorded study: it holds {len(studies)} studies.", "`ema recorded make` writes one.")
    try:
        for run in runs:
            state = RunState.model_validate(read_json(run / "state.json"))
            ended = Status.INTERRUPTED if state.status.active else state.status  # nobody here is at work on it
            write_json(run / "state.json", state.model_copy(update={"status": ended, "recorded": name}).model_dump(mode="json"))
            if not (run / "spec.json").exists():
                raise ValueError(f"{run.name} has no spec.json")
        for base in bases:
            write_json(base / "model.json", {**read_json(base / "model.json"), "recorded": name})
        write_json(studies[0] / "cells.json", {**read_json(studies[0] / "cells.json"), "recorded": name})
    except (OSError, ValueError, TypeError) as error:
        raise EmaError(f"{bundle} is damaged ({error}).", "Get it again.") from None
    renamed = [base.rename(base.with_name(f"{BASE}{STUDY}{name}-{base.name.removeprefix(BASE)}")) for base in bases]
    study = studies[0].rename(studies[0].with_name(f"{STUDY}{name}"))
    return {"runs": [run.name for run in runs], "bases": [base.name for base in renamed], "studies": [study.name]}


def _of(run: Path) -> str | None:
    """Which recorded study a run is of; "" for the user's own, None where there is none of this id."""
    return RunDirectory(run).state().recorded if run.exists() else None


def _away(name: str, parts: Mapping[str, Any]) -> None:
    """Only what bears the mark: a run of the user's is never touched."""
    doomed = [settings().runs / run for run in parts.get("runs", []) if _of(settings().runs / run) == name]
    doomed += [settings().runs / base for base in parts.get("bases", []) if base.startswith(f"{BASE}{STUDY}{name}-")]
    doomed += [settings().studies / study for study in parts.get("studies", []) if study == f"{STUDY}{name}"]
    for path in doomed:
        if path.is_dir():
            trash = path.with_name(f".deleted-{path.name}")
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)


def _clear(ledger: dict[str, Entry], name: str, state: str | None) -> None:
    entry = ledger[name]
    _away(name, entry)
    _away(name, entry.get("old", {}))
    if state is None:
        ledger.pop(name)
        write_json(settings().home / LEDGER, ledger)
    else:
        _write(ledger, name, {"state": state, "time": time.time(), "about": entry.get("about", {}), **{part: [] for part in PARTS}})


def _write(ledger: dict[str, Entry], name: str, entry: Entry) -> None:
    ledger[name] = entry
    write_json(settings().home / LEDGER, ledger)


def _remember(name: str, entry: Entry) -> None:
    with suppress(EmaError), _lock() as ledger:
        _write(ledger, name, {**{part: [] for part in PARTS}, **entry})


def _sound(entry: Entry) -> bool:
    listed = all(
        isinstance(entry.get(part, []), list) and all(isinstance(one, str) for one in entry.get(part, [])) for part in PARTS
    )
    return listed and isinstance(entry.get("state"), str) and isinstance(entry.get("about", {}), dict)


@contextmanager
def _lock() -> Iterator[dict[str, Entry]]:
    """The ledger, for whoever changes it."""
    lock = FileLock(writable(settings().home) / "recorded.lock")
    try:
        lock.acquire(timeout=60)
    except Timeout:
        raise EmaError("Another process is at work on the recorded studies.", "Try again in a minute.") from None
    try:
        yield entries()
    finally:
        lock.release()
