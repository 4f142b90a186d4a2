"""The model and the adapters that the engine holds, each proven to be what its name says before it answers.

Identity is the hash of the adapter's bytes, held against the one that its run ended with. Behaviour is its fingerprint
(``models.fingerprint``), computed in a batch that holds all adapters at once, as answers are, against the one by PEFT alone.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ema_core.engine.names import Target
from ema_core.errors import EmaError
from ema_core.models import LoadedModel, adapters, fingerprint, load
from ema_core.models.lora import Adapter, On, load_adapter, switched_on

if TYPE_CHECKING:
    import torch

MOST_ADAPTERS = 16


@dataclass(frozen=True)
class Fingerprint:
    """``difference``: the largest one between the logits in a mixed batch and alone; ``from_base``: between adapter and base."""

    difference: float
    tolerance: float
    from_base: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # false for NaN


@dataclass
class _Held:
    adapter: Adapter
    seen: tuple[int, int, int]
    alone: torch.Tensor
    fingerprint: Fingerprint | None = None


class Shelf:
    """One base model and its adapters, loaded when they are asked for. Not thread-safe: the engine's thread alone uses it."""

    def __init__(self, loader: Callable[[str], LoadedModel] = load) -> None:
        self._loader = loader
        self.loaded: LoadedModel | None = None
        self._base: torch.Tensor | None = None  # fingerprint logits of the base [V]
        self._held: OrderedDict[Any, _Held] = OrderedDict()

    def model(self, wanted: str) -> LoadedModel:
        """The base model ``wanted``, loaded in the place of another one."""
        if self.loaded is None or self.loaded.id != wanted:
            self.unload()
            self.loaded = self._loader(wanted)
            try:
                self._base = self._logits([On()])[0]
            except BaseException:
                self.unload()  # a model without its own fingerprint proves nothing
                raise
        return self.loaded

    def unload(self) -> None:
        """Give the memory back."""
        self.loaded, self._base = None, None
        self._held.clear()
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def get(self, target: Target) -> tuple[On, Fingerprint | None]:
        """What has to be on for ``target``, and its fingerprint (none for the base).

        Raises:
            EmaError: missing, damaged, changed since its run ended, or its fingerprint does not hold.
        """
        loaded = self.model(target.model)
        if target.folder is None:
            return On(), None
        try:
            stat = (target.folder / adapters.WEIGHTS).stat()
        except OSError:
            raise EmaError(f"There is no adapter in {target.folder} any more.", "The run was deleted or moved.") from None
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        held = self._held.get(target.folder)
        # without a fingerprint: computing it failed
        if held is None or held.fingerprint is None or held.seen != seen or target.hash not in (None, held.adapter.hash):
            self._held.pop(target.folder, None)
            adapter = load_adapter(target.folder, loaded.model, target.hash)
            held = _Held(adapter, seen, fingerprint.alone(loaded, target.folder, adapter.hash))
            self._held[target.folder] = held
            while len(self._held) > MOST_ADAPTERS:
                self._held.popitem(last=False)
            self._verify()
        self._held.move_to_end(target.folder)
        found = held.fingerprint
        assert found is not None
        if not found.holds:
            del self._held[target.folder]
            raise EmaError(
                f"The adapter of {target.id} (hash {held.adapter.hash}) does not answer in a batch as it does alone: logits differ by "
                f"{found.difference:.2g}, allowed are {found.tolerance:.2g}.",
                "Nothing is answered with it. Please report this with the log of the engine.",
            )
        return On(held.adapter, target.scale), found

    def intact(self) -> bool:
        """Whether the base still is what it was when it was loaded; asked after something unexpected."""
        if self.loaded is None or self._base is None:
            return False
        return float((self._logits([On()])[0] - self._base).abs().max()) <= self._tolerance()

    def _verify(self) -> None:
        """The fingerprint of every adapter on the shelf, all in one batch with the base."""
        assert self._base is not None
        held = list(self._held.values())
        mixed = self._logits([On(), *(On(each.adapter) for each in held)])
        for each, logits in zip(held, mixed[1:], strict=True):
            difference = float((logits - each.alone).abs().max())
            each.fingerprint = Fingerprint(difference, self._tolerance(), float((each.alone - self._base).abs().max()))

    def _logits(self, rows: list[On]) -> torch.Tensor:
        assert self.loaded is not None
        with switched_on(self.loaded.model, rows):
            return fingerprint.fixed_logits(self.loaded.model, self.loaded, len(rows))

    def _tolerance(self) -> float:
        assert self.loaded is not None and self._base is not None
        return fingerprint.tolerance(self._base, self.loaded.model.dtype)
