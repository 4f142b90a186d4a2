"""Loading a model for work: device, dtype, threads, hash of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ema_core.errors import EmaError
from ema_core.files import read_json, sha256_file, sha256_json
from ema_core.models.catalog import EMBEDDED, ModelEntry, find
from ema_core.models.fetch import Progress, prepare, quiet, verify
from ema_core.models.layout import by_columns
from ema_core.settings import settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadedModel:
    """A frozen chat model in evaluation mode, its tokenizer, and what it is.

    ``weights_hash`` is over the safetensors files alone: configuration and tokenizer files change with the packages that wrote
    them, and heads or adapters must fit on every machine. ``context`` in tokens.
    """

    id: str
    model: Any
    tokenizer: Any
    device: torch.device
    weights_hash: str
    context: int


def choose_device(wanted: str = "auto", model: str = EMBEDDED) -> str:
    """``cpu``, ``cuda`` or ``mps``. A GPU is used where there is one.

    Raises:
        EmaError: the device asked for is not here.
    """
    wanted = settings().device if wanted == "auto" else wanted
    if wanted == "cpu":
        return wanted
    import torch

    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if has["cuda"] else "mps" if has["mps"] else "cpu"
    if not has[wanted]:
        raise EmaError(f"This machine has no {wanted} device that torch can use.", "Set EMA_DEVICE (or --device) to auto or cpu.")
    return wanted


def choose_dtype(device: str, wanted: str = "auto") -> str:
    """Of a model's weights on this device: bfloat16 on CUDA, float32 elsewhere, unless ``wanted`` or ``EMA_DTYPE`` says which."""
    wanted = settings().dtype if wanted == "auto" else wanted
    return wanted if wanted != "auto" else "bfloat16" if device == "cuda" else "float32"


def mixed_precision(loaded: LoadedModel) -> contextlib.AbstractContextManager[Any]:
    """What a forward pass in training runs in: on half-precision weights the products of the adapter are taken in half precision, too.

    The adapter itself and its optimiser stay in float32 (PEFT's ``autocast_adapter_dtype``): at a learning rate of 1e-4 a step is
    below what bfloat16 can add to a weight. Without autocast PEFT would take those products in float32, off the fast units.
    """
    import torch

    half = loaded.model.dtype
    return contextlib.nullcontext() if half == torch.float32 else torch.autocast(loaded.device.type, dtype=half)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had where the model works."""
    import psutil
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else int(psutil.virtual_memory().available)


def set_threads() -> int:
    """Bound this process's torch threads to ``EMA_THREADS``; several processes with default threads slow each other."""
    import torch

    torch.set_num_threads(settings().threads)
    return torch.get_num_threads()


SMALL_WORK = 8_000_000
"""Multiplications below which a second thread costs more than it gives: waking a passive one takes about 0.1 ms (measured)."""


@contextlib.contextmanager
def threads_for(work: int, device: torch.device) -> Iterator[None]:
    """One torch thread for small work on the CPU: ``work`` multiplications in the largest product inside."""
    import torch

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or work > SMALL_WORK:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load(model: str, device: str = "auto", progress: Progress = quiet, dtype: str = "auto") -> LoadedModel:
    """Load a model, getting it ready first where it is not. ``dtype``: float32, bfloat16, or as ``EMA_DTYPE`` says.

    Raises:
        EmaError: unknown, not to be had, damaged, or no such device.
    """
    entry = find(model)
    where = choose_device(device, model)
    set_threads()
    prepare(model, progress)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    files = _folder_hashes(entry) if entry.source == "folder" else verify(entry)
    weights = _weights_hash(files)
    kind = getattr(torch, choose_dtype(where, dtype))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(entry.folder, dtype=kind, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(entry.folder, local_files_only=True)
        if not tokenizer.chat_template:
            raise ValueError("its tokenizer has no chat template")
    except (OSError, ValueError, SafetensorError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        mend = "Mend or replace the folder." if entry.source == "folder" else f"Run `ema model fetch {entry.id} --force`."
        raise EmaError(f"The model {entry.id} cannot be loaded ({why}).", mend) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded.to(where).eval().requires_grad_(False)
    if where == "cpu":
        by_columns(loaded)
    return LoadedModel(entry.id, loaded, tokenizer, torch.device(where), weights, entry.context)


def _folder_hashes(entry: ModelEntry) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in entry.folder.glob("*.safetensors")}


def _weights_hash(files: dict[str, str]) -> str:
    return sha256_json({name: digest for name, digest in files.items() if name.endswith(".safetensors")})[:16]


def recorded_weights_hash(entry: ModelEntry) -> str | None:
    """The ``weights_hash`` that ``load`` would find, without loading; None where the model is not here yet. Torch-free.

    A catalog model's comes from the list that was written when it was made ready, a folder's from its files.
    """
    if entry.source == "folder":
        return _weights_hash(_folder_hashes(entry))
    try:
        return _weights_hash(dict(read_json(entry.folder / "manifest.json")))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def out_of_memory(what: str) -> Any:
    """Say an allocation failure in plain words.

    Raises:
        EmaError: in place of torch's or Python's own error.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise EmaError(
            f"Out of memory while {what}.", "Use a smaller batch, shorter max_length, a smaller model, or another device."
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise EmaError(
                f"Out of memory while {what}.", "Use a smaller batch, shorter max_length, or a smaller model."
            ) from error
        raise
