"""Runs and studies as one folder (or zip) that opens elsewhere: every file with its hash, and nothing in it that could be run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ema_core.errors import EmaError
from ema_core.files import disk_errors, read_json, swept, write_json
from ema_core.judging.judgment import Progress, quiet
from ema_core.models.weights import WeightFiles
from ema_core.runs import BASE, RunDirectory, RunSpec, Status, run_ids
from ema_core.settings import settings, writable
from ema_core.shared import allow_host

MANIFEST = "ema-bundle.json"
VERSION = 1
MAX_MANIFEST = 50_000_000
# What a run is made of, and nothing else: not its lock, its log (which names folders of this machine) or a request.
_OF_A_RUN = r"(spec|state|model|label|inside)\.json|events\.jsonl|adapter/(adapter_config\.json|adapter_model\.safetensors)"
_OF_AN_EVAL = r"evals/[\w.~+-]{1,200}/(spec\.json|(samples|margins|judgments-[\w.~+=@-]{1,200})\.jsonl)"
_OF_A_CHECKPOINT = r"checkpoints/step-\d{1,9}/(adapter_config\.json|adapter_model\.safetensors)"
_ID = r"[A-Za-z0-9][\w.+-]{0,200}"
ALLOWED = re.compile(rf"runs/{_ID}/({_OF_A_RUN}|{_OF_AN_EVAL}|{_OF_A_CHECKPOINT})|studies/{_ID}/(spec\.toml|cells\.json)")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")


def study_runs(study_id: str) -> list[str]:
    """The runs of a study's cells that there are.

    Raises:
        EmaError: there is no such study.
    """
    folder = settings().studies / study_id
    if not re.fullmatch(_ID, study_id) or not (folder / "cells.json").exists():
        known = ", ".join(sorted(path.name for path in settings().studies.glob("*") if path.is_dir())[-5:])
        raise EmaError(f'There is no study "{study_id}".', f"There are: {known}." if known else "No study was started yet.")
    cells = read_json(folder / "cells.json").get("cells", [])
    there = set(run_ids())
    return list(dict.fromkeys(cell["run"] for cell in cells if cell.get("run") in there))


def export_bundle(
    runs: Sequence[str], out: Path, *, study: str | None = None, checkpoints: bool = False, adapters: bool = True,
    about: Mapping[str, Any] | None = None, progress: Progress = quiet,
) -> dict[str, Any]:  # fmt: skip
    """Write the runs, and the answers of their bases, to a new folder, or to a zip where ``out`` ends in .zip; returns the manifest.

    Without ``adapters`` what lies there can be read and compared, and no more. ``about`` stands in the manifest as it is.

    Raises:
        EmaError: unknown run, one that is at work, or ``out`` is there already.
    """
    allow_host("Writing to a folder of this machine")
    if out.exists():
        raise EmaError(f"{out} is there already.", "Choose another --out.")
    if checkpoints and not adapters:
        raise EmaError("Checkpoints are adapters, too.", "Leave out --checkpoints, or --without-adapters.")
    chosen = [RunDirectory.open(run_id) for run_id in runs]
    if busy := [run.id for run in chosen if run.state().status is Status.RUNNING]:
        raise EmaError(f"{busy[0]} is at work.", "Export it when it has ended.")
    models = {run.spec.model for run in chosen}
    bases = [path for path in settings().runs.glob(f"{BASE}*") if _model_of(path) in models]
    names = [name for run in chosen for name in _files(f"runs/{run.id}", run.path, checkpoints)]
    names = [name for name in names if adapters or "/adapter/" not in name]
    names += [name for path in bases for name in _files(f"runs/{path.name}", path, False)]
    if study:
        names += [f"studies/{study}/{name}" for name in ("spec.toml", "cells.json")]
    with disk_errors(out), swept(out.with_name(f".{out.name}.partial")):
        partial = out.with_name(f".{out.name}.partial")
        out.parent.mkdir(parents=True, exist_ok=True)
        files: dict[str, dict[str, Any]] = {}
        with _target(partial, out.suffix.lower() == ".zip") as put:
            for number, name in enumerate(names):
                with open(settings().home / name, "rb") as source:
                    files[name] = put(name, source)
                progress(number / len(names), f"{number + 1} of {len(names)} files")
            manifest = {
                "kind": "ema-bundle", "version": VERSION, "created": time.time(), "runs": [run.id for run in chosen],
                "bases": sorted(path.name for path in bases), "studies": [study] if study else [], "files": files,
                **({"about": dict(about)} if about else {}),
            }  # fmt: skip
            put(MANIFEST, json.dumps(manifest, indent=1).encode())
        partial.rename(out)
    progress(1.0, f"{len(names)} files written")
    return manifest


def _model_of(base: Path) -> str | None:
    try:
        return read_json(base / "model.json")["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(prefix: str, folder: Path, checkpoints: bool) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = f"{prefix}/{path.relative_to(folder).as_posix()}"
        if path.is_file() and not path.is_symlink() and ALLOWED.fullmatch(name) and (checkpoints or "/checkpoints/" not in name):
            yield name


@contextmanager
def _target(partial: Path, zipped: bool) -> Iterator[Callable[[str, IO[bytes] | bytes], dict[str, Any]]]:
    """What puts a file into the folder or the zip, and says its hash and size."""
    archive = zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) if zipped else None

    def put(name: str, source: IO[bytes] | bytes) -> dict[str, Any]:
        if archive is None:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name, "w", force_zip64=True) if archive else open(partial / name, "wb") as target:
            if isinstance(source, bytes):
                target.write(source)
                return {}
            return _copied(source, target)

    try:
        yield put
    finally:
        if archive:
            archive.close()


def _copied(source: IO[bytes], target: IO[bytes], limit: int | None = None) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while block := source.read(1 << 20):
        digest.update(block)
        target.write(block)
        size += len(block)
        if limit is not None and size > limit:
            break  # more than was promised: the hash will not be that of the manifest
    return {"sha256": digest.hexdigest(), "bytes": size}


@dataclass
class Brought:
    """What an import did with each run, base and study: ``new``, ``there`` (the same) or ``kept`` (yours stays)."""

    runs: dict[str, str]
    bases: dict[str, str]
    studies: dict[str, str]


def import_bundle(path: Path, progress: Progress = quiet) -> Brought:
    """Open a bundle here. All of it is checked before anything is put in its place: names, kinds, sizes, hashes, weights.

    Raises:
        EmaError: it is no bundle, was changed, holds something that does not belong into one, or a run of it is here with other content.
    """
    allow_host("Importing from a folder of this machine")
    with unpacked(path, progress) as (partial, _):
        brought = _placed(partial, path)
    progress(1.0, "done")
    return brought


@contextmanager
def unpacked(path: Path, progress: Progress = quiet) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All of a bundle, checked, in a folder of the home that is gone afterwards, and its manifest.

    Raises:
        EmaError: as ``import_bundle``.
    """
    with _source(path) as (names, read):
        manifest = _manifest(path, names, read)
        files: dict[str, dict[str, Any]] = manifest["files"]
        home = writable(settings().home)
        partial = home / f".bundle-{os.getpid()}"
        with disk_errors(home), swept(partial):
            for number, (name, promised) in enumerate(files.items()):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                with read(name) as source, open(partial / name, "wb") as target:
                    found = _copied(source, target, promised["bytes"])
                if found != {"sha256": promised["sha256"], "bytes": promised["bytes"]}:
                    raise EmaError(
                        f"{name} in {path} is not as its manifest says: it was changed or damaged.", "Get the bundle again."
                    )
                _readable(partial / name, name, path)
                progress(0.9 * number / len(files), f"{number + 1} of {len(files)} files checked")
            partial.mkdir(exist_ok=True)
            yield partial, manifest
            shutil.rmtree(partial, ignore_errors=True)


def _readable(file: Path, name: str, bundle: Path) -> None:
    try:
        if file.suffix == ".json":
            read_json(file)
        elif file.suffix == ".safetensors":
            WeightFiles(file.parent)
        if name.endswith("/spec.json") and name.count("/") == 2:
            RunSpec.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EmaError(f"{name} in {bundle} cannot be read ({error}).", "Get the bundle again.") from None


@contextmanager
def _source(path: Path) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """The names of all files in the folder or zip, and what opens one."""
    if path.is_dir():
        names = []
        for each in sorted(path.rglob("*")):
            name = each.relative_to(path).as_posix()
            if each.is_symlink():
                raise EmaError(f"{name} in {path} is a link.", "A bundle holds files alone; get it from whom you trust.")
            if not each.is_dir():
                if not each.is_file():
                    raise EmaError(f"{name} in {path} is no plain file.", "A bundle holds files alone.")
                names.append(name)
        yield names, lambda name: (path / name).open("rb")
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise EmaError(f"There is no {path}.", "Name a folder or a zip that `ema export` wrote.") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise EmaError(f"{path} is neither a folder nor a zip ({error}).", "Name what `ema export` wrote.") from None
    with archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        for one in members:
            if stat.S_ISLNK(one.external_attr >> 16):
                raise EmaError(f"{one.filename} in {path} is a link.", "A bundle holds files alone; get it from whom you trust.")
        if len({one.filename for one in members}) < len(members):
            raise EmaError(f"{path} holds a name twice.", "Get the bundle again.")
        try:
            yield [one.filename for one in members], lambda name: archive.open(name)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise EmaError(f"{path} is damaged ({error}).", "Get the bundle again.") from None


def _manifest(path: Path, names: Sequence[str], read: Callable[[str], IO[bytes]]) -> dict[str, Any]:
    hint = "Name a folder or a zip that `ema export run` or `ema export study` wrote."
    for name in names:
        if name == MANIFEST:
            continue
        if PurePosixPath(name).suffix.lower() in PICKLES:
            raise EmaError(f"{name} in {path} may be a pickle, which can run anybody's code.", "Nothing of the bundle was taken.")
        if not ALLOWED.fullmatch(name) or ".." in PurePosixPath(name).parts:
            raise EmaError(f'"{name}" in {path} does not belong into a bundle.', "Nothing of the bundle was taken.")
    if MANIFEST not in names:
        raise EmaError(f"{path} has no {MANIFEST}.", hint)
    try:
        with read(MANIFEST) as file:
            value = json.loads(file.read(MAX_MANIFEST))
        if value["kind"] != "ema-bundle" or value["version"] != VERSION:
            raise EmaError(f"{path} is of another version ({value['version']}).", "Update EMA Lab.")
        for name, told in value["files"].items():
            if not isinstance(told["sha256"], str) or not isinstance(told["bytes"], int):
                raise ValueError(f"{name} has no hash")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise EmaError(f"The {MANIFEST} in {path} cannot be read ({error}).", hint) from None
    listed = set(value["files"])
    if odd := sorted(listed ^ (set(names) - {MANIFEST})):
        what = "is missing" if odd[0] in listed else "is not in its manifest"
        raise EmaError(f'"{odd[0]}" in {path} {what}.', "Nothing of the bundle was taken; get it again.")
    return value


def _placed(partial: Path, bundle: Path) -> Brought:
    """Put what was checked into its place; what is here with other content is found before the first is moved."""
    runs = sorted(path for path in (partial / "runs").glob("*") if not path.name.startswith(BASE))
    for run in runs:
        own = settings().runs / run.name
        if not (run / "spec.json").exists() or not (run / "state.json").exists():
            raise EmaError(f"The run {run.name} in {bundle} has no spec.json or state.json.", "Get the bundle again.")
        if own.exists() and not _same(run, own, ("spec.json", "adapter/adapter_model.safetensors")):
            raise EmaError(
                f"A run {run.name} is here already, with another spec or adapter.", "Delete yours first, if it is not needed."
            )
    brought = Brought({}, {}, {})
    for run in runs:
        own = settings().runs / run.name
        brought.runs[run.name] = "there" if own.exists() else "new"
        if own.exists():
            _fill_in(run, own)  # evaluations that were made elsewhere
            continue
        state = RunDirectory(run).state()
        if state.status.active:  # nobody here is at work on it
            write_json(run / "state.json", state.model_copy(update={"status": Status.INTERRUPTED}).model_dump(mode="json"))
        writable(settings().runs)
        run.rename(own)
    for base in sorted((partial / "runs").glob(f"{BASE}*")):
        own = settings().runs / base.name
        brought.bases[base.name] = "there" if own.exists() else "new"
        _fill_in(base, own)
    for study in sorted((partial / "studies").glob("*")):
        own = settings().studies / study.name
        brought.studies[study.name] = "kept" if own.exists() else "new"
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            study.rename(own)
    return brought


def _same(one: Path, other: Path, names: Sequence[str]) -> bool:
    def digest(path: Path) -> str | None:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    return all(digest(one / name) == digest(other / name) for name in names)


def _fill_in(source: Path, own: Path) -> None:
    """Evaluations (and a base's model.json) that are not here yet."""
    own.mkdir(parents=True, exist_ok=True)
    if (source / "model.json").exists() and not (own / "model.json").exists():
        (source / "model.json").rename(own / "model.json")
    for folder in sorted((source / "evals").glob("*")):
        if not (own / "evals" / folder.name).exists():
            (own / "evals").mkdir(exist_ok=True)
            folder.rename(own / "evals" / folder.name)
