"""Several LoRA adapters on one base model at once, each on its own rows of a batch.

PEFT switches adapters for the whole model, and its mixed batches leave hooks behind when a forward pass raises (peft 0.21). Here
the base is never changed: for the length of one forward pass each linear module gets a hook that adds ``scale · x Aᵀ Bᵀ`` to the
rows of each adapter, and the hooks are taken away again whatever happens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ema_core.errors import EmaError
from ema_core.files import read_json
from ema_core.models.adapters import WEIGHTS
from ema_core.models.load import threads_for

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."


@dataclass(frozen=True, eq=False)
class Adapter:
    """Weights of one adapter in memory. ``hash`` is of the bytes that they were read from, as ``adapters.adapter_hash``.

    ``modules``: by module name Aᵀ [in, r] and Bᵀ [r, out], the adapter's own scaling (alpha/√r or alpha/r) in Bᵀ.
    """

    folder: Path
    hash: str
    modules: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)


@dataclass(frozen=True)
class On:
    """What is on in one row of a batch: an adapter (None: the base alone) at ``scale`` times its strength."""

    adapter: Adapter | None = None
    scale: float = 1.0


def load_adapter(folder: Path, model: Any, expected: str | None = None) -> Adapter:
    """Read a LoRA adapter in PEFT's format for ``model``; file, hash and weights come from the same bytes.

    Raises:
        EmaError: missing, damaged, not for this model, of a kind that is not supported, or not the one of hash ``expected``.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    again = "Put the file back, or train the run again."
    try:
        raw = (folder / WEIGHTS).read_bytes()
        config = dict(read_json(folder / "adapter_config.json"))
    except FileNotFoundError:
        raise EmaError(f"There is no adapter in {folder}.", "Train the run to its end, or to a checkpoint, first.") from None
    except (OSError, ValueError) as error:
        raise EmaError(f"The adapter in {folder} cannot be read ({error}).", again) from None
    found = hashlib.sha256(raw).hexdigest()[:16]
    if expected is not None and found != expected:
        raise AdapterChanged(folder, expected, found)
    try:
        tensors = load(raw)
    except SafetensorError as error:
        raise EmaError(f"The adapter in {folder} is damaged ({error}; hash {found}).", again) from None
    factor = scaling(config, folder)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if side not in ("lora_A", "lora_B") or not name.startswith(PREFIX):
            raise EmaError(
                f"The adapter in {folder} holds {name}, which is not plain LoRA.", "Only LoRA on linear modules is read."
            )
        parts.setdefault(module, {})[side] = tensor
    known = dict(model.named_modules())
    weight = next(model.parameters())
    modules = {}
    for module, sides in parts.items():
        linear = known.get(module)
        a, b = sides.get("lora_A"), sides.get("lora_B")
        if not isinstance(linear, torch.nn.Linear) or a is None or b is None:
            raise EmaError(
                f"The adapter in {folder} does not fit this model (at {module}).", "Use the model that it was trained on."
            )
        if a.shape[1] != linear.in_features or b.shape[0] != linear.out_features or a.shape[0] != b.shape[1]:
            raise EmaError(
                f"The adapter in {folder} does not fit this model (at {module}).", "Use the model that it was trained on."
            )
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise EmaError(f"The adapter in {folder} holds numbers that are not finite (at {module}; hash {found}).", again)
        modules[module] = (
            a.T.to(weight.device, weight.dtype).contiguous(),
            (b.float().T * factor).to(weight.device, weight.dtype).contiguous(),
        )
    if not modules:
        raise EmaError(f"The adapter in {folder} is empty.", again)
    return Adapter(folder, found, modules)


class AdapterChanged(EmaError):
    """The file is not the adapter that the run was left with."""

    def __init__(self, folder: Path, expected: str, found: str) -> None:
        super().__init__(
            f"The adapter file in {folder} has hash {found}, but the run ended with {expected}: it was changed or damaged since.",
            "Put the file back, or train the run again; nothing is answered with other weights than the named ones.",
        )


def scaling(config: dict[str, Any], folder: Path) -> float:
    """What B·A is multiplied by.

    Raises:
        EmaError: the configuration is not of plain LoRA, or names no rank or alpha.
    """
    plain = {"use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}
    odd = [name for name, value in plain.items() if config.get(name, value) not in (value, None, [], {})]
    if config.get("peft_type") != "LORA" or odd:
        what = ", ".join(odd) or config.get("peft_type")
        raise EmaError(f"The adapter in {folder} is not plain LoRA ({what}).", "Only LoRA on linear modules is read.")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError):
        raise EmaError(f"The adapter_config.json in {folder} names no rank or alpha.", "Put a whole one there.") from None
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


@contextmanager
def switched_on(model: Any, rows: Sequence[On]) -> Iterator[None]:
    """Row i of each batch that goes through ``model`` inside is answered with ``rows[i]``; the plain model afterwards.

    Without gradient: the products are added into the layers' own output.
    """
    handles = []
    try:
        shares = _shares(rows, next(model.parameters()))
        for name, module in _linears(model).items() if shares else ():
            own = [(place, scale, *adapter.modules[name]) for adapter, place, scale in shares if name in adapter.modules]
            if own:
                handles.append(module.register_forward_hook(_hook(own, len(rows))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linears(model: Any) -> dict[str, Any]:
    """The linear layers by name. Looked up for every token, so they are kept, with the model they are of."""
    import torch

    known = _KNOWN.get(model)
    if known is None:
        known = _KNOWN[model] = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return known


_KNOWN: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def _shares(rows: Sequence[On], like: torch.Tensor) -> list[tuple[Adapter, slice | torch.Tensor, torch.Tensor | float]]:
    """Each adapter with the places of its rows (a slice where they lie together) and their scales [n, 1, 1] (or one for all).

    Scale 0 adds nothing.
    """
    import torch

    places: dict[Adapter, list[int]] = {}
    for place, row in enumerate(rows):
        if row.adapter is not None and row.scale != 0:
            places.setdefault(row.adapter, []).append(place)
    found: list[tuple[Adapter, slice | torch.Tensor, torch.Tensor | float]] = []
    for adapter, at in places.items():
        scales = [rows[place].scale for place in at]
        together = at[-1] - at[0] == len(at) - 1
        where = slice(at[0], at[-1] + 1) if together else torch.tensor(at, device=like.device)
        found.append((adapter, where, scales[0] if len(set(scales)) == 1 else like.new_tensor(scales).view(-1, 1, 1)))
    return found


def _hook(own: list[Any], rows: int) -> Any:
    def add(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        (x,) = inputs  # [rows, T, in]
        if x.shape[0] != rows:
            raise RuntimeError(f"A batch of {x.shape[0]} rows went through a model that was set for {rows}.")
        with threads_for(x.numel() * own[0][2].shape[1], x.device):
            for place, scale, a, b in own:
                low = x[place] @ a
                if isinstance(place, slice) and isinstance(scale, float):
                    part = output[place]
                    part.view(-1, part.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b, alpha=scale)
                    continue
                delta = low @ b
                if not (isinstance(scale, float) and scale == 1.0):
                    delta = delta * scale
                if isinstance(place, slice):
                    output[place] += delta
                else:
                    output.index_add_(0, place, delta)
        return output

    return add
