"""``ema doctor``: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from ema_core.cli.output import Json, command, emit
from ema_core.errors import EmaError
from ema_core.generation.engine import engine_status
from ema_core.jobs.status import worker_status
from ema_core.settings import PROJECT, settings, writable

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=True, help="What is kept of the reference's states, and a way to clear it.")
MIN_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def requirements() -> dict[str, str]:
    """Pinned direct dependencies by name."""
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    return dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])


def findings() -> list[Finding]:
    from ema_core.models import EMBEDDED, choose_device, find, reference_cache, verify

    config = settings()
    found = [
        Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer, then `make setup`.")
    ]
    wrong = []
    for name, version in requirements().items():
        try:
            have = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            have = "missing"
        if have != version:
            wrong.append(f"{name} {have} instead of {version}")
    found.append(Finding("packages", not wrong, ", ".join(wrong) or f"{len(requirements())} as pinned", "make setup"))
    try:
        found.append(Finding("device", True, choose_device() if importlib.util.find_spec("torch") else "unknown"))
    except EmaError as error:
        found.append(Finding("device", False, error.message, error.hint))
    try:
        verify(find(EMBEDDED))
        found.append(Finding("model", True, f"{EMBEDDED} in {find(EMBEDDED).folder}"))
    except EmaError as error:
        found.append(
            Finding("model", False, error.message, f"ema model fetch {EMBEDDED}{' --force' if find(EMBEDDED).ready else ''}")
        )
    for what, folder in (("EMA_HOME", config.home), ("EMA_MODELS", config.models)):
        try:
            writable(folder)
            found.append(Finding(f"{what} writable", True, str(folder)))
        except EmaError as error:
            found.append(Finding(f"{what} writable", False, error.message, f"export {what}=/a/folder/of/yours"))
    for what, folder in (("EMA_HOME", config.home), ("EMA_MODELS", config.models)):
        free = shutil.disk_usage(_existing(folder)).free / 1e9
        found.append(
            Finding(
                f"{what} free disk", free >= MIN_FREE_GB, f"{free:.1f} GB", "Free some space; `ema runs delete RUN` removes a run."
            )
        )
    kept, most = reference_cache.taken(), reference_cache.limit()
    said = f"{reference_cache.amount(kept)} of at most {reference_cache.amount(most)}"
    found.append(Finding("reference cache", kept <= most, said, "ema cache clear", needed=False))
    status = worker_status()
    said = f"process {status.pid}, {status.activity}" if status.alive else "not running"
    found.append(Finding("worker", status.alive and not status.stuck, said, "ema app (or: ema worker)", needed=False))
    engine, url = engine_status(), settings().engine_url
    said = f"process {engine.pid}, port {engine.port}" if engine.alive else "not running"
    found.append(
        Finding(
            "engine", engine.alive or bool(url), f"EMA_ENGINE_URL: {url}" if url else said, "ema app (or: ema serve)", needed=False
        )
    )
    found.append(judge_key())
    return found


def judge_key() -> Finding:
    """Whether a language model can be asked as a judge; the probe needs no key."""
    from ema_core.judging.judge_id import OPENAI_URL, configured_model, configured_url
    from ema_core.judging.keys import key_for, key_state

    try:
        url = configured_url() or OPENAI_URL
    except EmaError as error:
        return Finding("judge key", False, error.message, error.hint, needed=False)
    model = f", model {configured_model()}" if configured_model() else ""
    said = f"{key_state(url)} (for {url}{model})"
    return Finding(
        "judge key", key_for(url) is not None, said, "export OPENAI_API_KEY=… (the probe judge needs none)", needed=False
    )


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


@command(app, "doctor")
def doctor(as_json: Json = False) -> None:
    """What is there, what is missing, and the command that mends it. Exit code 1 where something needed is missing."""
    found = findings()

    def text() -> None:
        for item in found:
            mark = "ok  " if item.ok else "MISS" if item.needed else "-   "
            typer.echo(f"{mark} {item.what:22} {item.found}" + ("" if item.ok else f"\n     -> {item.mend}"))

    ok = all(item.ok for item in found if item.needed)
    emit({"ok": ok, "findings": [asdict(item) for item in found]}, as_json, text)
    if not ok:
        raise typer.Exit(1)


@command(cache_app, "show")
def cache_show(as_json: Json = False) -> None:
    """What the reference's states take on the disk."""
    from ema_core.models import reference_cache

    known = reference_cache.entries()
    value: dict[str, Any] = {
        "bytes": sum(size for _, size, _ in known), "limit": reference_cache.limit(), "files": len(known),
        "folder": str(reference_cache.folder()),
    }  # fmt: skip

    def text() -> None:
        typer.echo(f"{reference_cache.amount(value['bytes'])} of at most {reference_cache.amount(value['limit'])}")
        typer.echo(f"{value['files']} sequences in {value['folder']}")

    emit(value, as_json, text)


@command(cache_app, "clear")
def cache_clear(as_json: Json = False) -> None:
    """Drop them; a run makes anew what it needs, with the same result. What a run at work uses stays."""
    from ema_core.models import reference_cache

    before = reference_cache.taken()
    left = reference_cache.drop(0)
    value = {"dropped": before - left, "left": left}
    stays = f"; {reference_cache.amount(left)} are in use and stay" if left else ""
    emit(value, as_json, lambda: typer.echo(f"dropped {reference_cache.amount(value['dropped'])}{stays}"))
