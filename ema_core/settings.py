"""Where things live and what is allowed; read from ``EMA_*`` environment variables."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from ema_core.errors import EmaError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "data"
MAX_THREADS = 1024


@dataclass(frozen=True)
class Settings:
    """One process's view of the environment.

    Attributes:
        home: runs, queue, index and everything else that belongs to the user (``EMA_HOME``).
        models: model files; large, shared, can be made again (``EMA_MODELS``).
        device: ``auto``, ``cpu``, ``cuda`` or ``mps`` (``EMA_DEVICE``).
        dtype: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``float32`` or ``bfloat16`` (``EMA_DTYPE``): of a model's weights.
        threads: torch threads of one process (``EMA_THREADS``).
        engine_url: another OpenAI-compatible server that answers in the engine's place (``EMA_ENGINE_URL``); "" = our own.
        engine_idle: seconds without a question after which the engine gives the model's memory back (``EMA_ENGINE_IDLE``).
        recorded: where the recorded studies lie that a home gets (``EMA_RECORDED``; None = it gets none).
        reference_cache_gb: GB that the reference's states may take on the disk, all runs together (``EMA_REFERENCE_CACHE_GB``).
        inside: whether the worker reads the inside of runs that it trained, when nothing waits (``EMA_INSIDE``: on or off).
    """

    home: Path
    models: Path
    device: str
    threads: int
    engine_url: str = ""
    engine_idle: float = 600.0
    reference_cache_gb: float = 10.0
    dtype: str = "auto"
    recorded: Path | None = DATA / "recorded"
    inside: bool = True

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def wheels(self) -> Path:
        """Where an offline bundle (``ema bundle``) has its packages (``EMA_WHEELS``)."""
        return Path(os.environ.get("EMA_WHEELS") or PROJECT / "wheels")

    @property
    def queue(self) -> Path:
        return self.home / "queue"

    @property
    def studies(self) -> Path:
        return self.home / "studies"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def imports(self) -> Path:
        return self.home / "imports"

    @property
    def suites(self) -> Path:
        return self.home / "suites"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def index(self) -> Path:
        return self.home / "index.duckdb"

    @property
    def engine(self) -> Path:
        return self.home / "engine"

    @property
    def chats(self) -> Path:
        return self.home / "chats"

    @property
    def logs(self) -> Path:
        return self.home / "logs"


def settings() -> Settings:
    """The settings of this moment.

    Raises:
        EmaError: a variable holds something that cannot be used.
    """
    device = os.environ.get("EMA_DEVICE", "").strip().lower() or "auto"
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise EmaError(f'EMA_DEVICE is "{device}".', "Set it to auto, cpu, cuda or mps.")
    dtype = os.environ.get("EMA_DTYPE", "").strip().lower() or "auto"
    if dtype not in ("auto", "float32", "bfloat16"):
        raise EmaError(f'EMA_DTYPE is "{dtype}".', "Set it to auto, float32 or bfloat16.")
    raw = os.environ.get("EMA_THREADS", "").strip()
    if raw and not (raw.isdecimal() and len(raw) <= 4 and 1 <= int(raw) <= MAX_THREADS):
        raise EmaError(f'EMA_THREADS is "{raw}".', f"Set it to a whole number from 1 to {MAX_THREADS}.")
    home = os.environ.get("EMA_HOME") or platformdirs.user_data_dir("ema-lab", appauthor=False)
    models = os.environ.get("EMA_MODELS") or str(Path(platformdirs.user_cache_dir("ema-lab", appauthor=False)) / "models")
    return Settings(
        home=_folder("EMA_HOME", home),
        models=_folder("EMA_MODELS", models),
        device=device,
        threads=int(raw) if raw else max(1, min(8, _cores())),
        engine_url=_engine_url(),
        engine_idle=_number("EMA_ENGINE_IDLE", "600", "seconds"),
        reference_cache_gb=_number("EMA_REFERENCE_CACHE_GB", "10", "GB"),
        dtype=dtype,
        recorded=_recorded(),
        inside=_inside(),
    )


def _inside() -> bool:
    said = os.environ.get("EMA_INSIDE", "").strip().lower() or "on"
    if said not in ("on", "off"):
        raise EmaError(f'EMA_INSIDE is "{said}".', "Set it to on or off.")
    return said == "on"


def _recorded() -> Path | None:
    said = os.environ.get("EMA_RECORDED", "").strip()
    if said.lower() in ("0", "off", "no", "none"):
        return None
    return _folder("EMA_RECORDED", said) if said else DATA / "recorded"


def _engine_url() -> str:
    url = os.environ.get("EMA_ENGINE_URL", "").strip().rstrip("/")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise EmaError(f'EMA_ENGINE_URL is "{url}".', "Set it to an address such as http://127.0.0.1:8000/v1, or unset it.")
    if "@" in urlsplit(url).netloc or urlsplit(url).query:
        raise EmaError(
            "EMA_ENGINE_URL holds more than an address.", "Take user, password and query out; a key belongs into EMA_ENGINE_KEY."
        )
    return url


def _number(variable: str, default: str, unit: str) -> float:
    raw = os.environ.get(variable, "").strip() or default
    if not re.fullmatch(r"\d{1,7}(\.\d+)?", raw):
        raise EmaError(f'{variable} is "{raw}".', f"Set it to a number of {unit}.")
    return float(raw)


def _folder(variable: str, value: str) -> Path:
    try:
        path = Path(value).expanduser()
        return _resolved(path if path.is_absolute() else Path.cwd() / path)
    except (RuntimeError, OSError) as error:  # no such user, a loop of links
        raise EmaError(f'{variable} is "{value}", which cannot be a folder ({error}).', "Set it to a folder of yours.") from None


@lru_cache(maxsize=64)
def _resolved(path: Path) -> Path:
    """Asked for thousands of times a second by a room of browsers, and each look at the disk lets other threads go first."""
    return path.resolve()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def writable(folder: Path) -> Path:
    """Create ``folder`` if it is missing and prove that it can be written.

    Raises:
        EmaError: it cannot; the message says which variable points elsewhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}-{threading.get_ident()}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise EmaError(
            f"The folder {folder} cannot be written ({error.strerror or error}).",
            "Make it writable, or set EMA_HOME (and EMA_MODELS for models) to a folder that is.",
        ) from error
    return folder
