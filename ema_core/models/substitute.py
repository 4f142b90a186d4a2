"""Where a substitute pair lies, and what it is. Torch-free; ``training.substitute`` builds it.

SafeLoRA wants V = W_aligned - W_base. Of a model whose base no registry has, a *substitute* can be made: the model itself as the
base, its short full fine-tune on the safe pool as the aligned one. What is kept is V alone, in bfloat16.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.files import read_json, sha256_file, sha256_json
from ema_core.models.catalog import EMBEDDED, ModelEntry, find
from ema_core.settings import settings

SUBSTITUTE = "substitute"
DELTA = "delta.safetensors"
MANIFEST = "manifest.json"
_SECONDS = 120.0
"""For the embedded model on two cores, measured."""


def folder(model: str) -> Path:
    """Where the substitute pair of ``model`` lies; the manifest in it says that it is whole."""
    entry = find(model)
    tail = "" if entry.source != "folder" else f"-{hashlib.sha256(entry.location.encode()).hexdigest()[:8]}"
    return settings().models / "substitutes" / f"{Path(entry.id).name}{tail}"


def seconds(model: str) -> float:
    """About how long it takes to build."""
    return _SECONDS * find(model).parameters / find(EMBEDDED).parameters


def command(model: str) -> str:
    """The command line that builds it."""
    return "ema model substitute-base" + ("" if model == EMBEDDED else f" --model {model}")


def manifest(model: str) -> dict[str, Any]:
    """What the substitute pair was made of.

    Raises:
        EmaError: it is not there, damaged, or made of other weights than ``model`` has now.
    """
    path = folder(model) / MANIFEST
    try:
        found = dict(read_json(path))
        made_of = found["weights_hash"]
    except FileNotFoundError:
        raise EmaError(f"The substitute pair of {model} is not there.", f"Run `{command(model)}`.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EmaError(f"{path} cannot be used ({error}).", f"Run `{command(model)} --force`.") from None
    entry = find(model)
    if entry.ready and made_of != weights_hash(entry):
        raise EmaError(
            f"The substitute pair of {model} was made of other weights than it has now.", f"Run `{command(model)} --force`."
        )
    return found


def weights_hash(entry: ModelEntry) -> str:
    """As ``LoadedModel.weights_hash``; of a prepared model by its manifest, without reading its weights."""
    if entry.source == "folder":
        files = {path.name: _hashed(path, path.stat().st_mtime_ns) for path in entry.folder.glob("*.safetensors")}
    else:
        files = dict(read_json(entry.folder / "manifest.json"))
    return sha256_json({name: digest for name, digest in files.items() if name.endswith(".safetensors")})[:16]


@lru_cache(maxsize=64)
def _hashed(path: Path, changed: int) -> str:
    return sha256_file(path)
