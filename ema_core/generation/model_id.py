"""Model ids as the engine names them: ``base``, ``base:<catalog id>``, ``RUN``, ``RUN@STEP``, each run with ``*SCALE``. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ema_core.generation.engine import BASE_MODEL
from ema_core.models import EMBEDDED

_PARTS = re.compile(r"(?P<name>[^@*]+)(@(?P<step>[1-9]\d{0,8}))?(\*(?P<scale>\d{1,2}(\.\d{1,6})?))?")


@dataclass(frozen=True)
class ModelId:
    """One column's model: a base model or a run, at a checkpoint (None: its final adapter), the adapter's strength times ``scale``."""

    name: str
    step: int | None = None
    scale: float = 1.0

    @classmethod
    def read(cls, text: str) -> ModelId:
        """What is not of our form (another server's id) is all name."""
        found = _PARTS.fullmatch(text)
        if not found or (text != found["name"] and is_base(found["name"])):
            return cls(text)
        return cls(found["name"], int(found["step"]) if found["step"] else None, float(found["scale"] or 1))

    def __str__(self) -> str:
        return self.name + ("" if self.step is None else f"@{self.step}") + ("" if self.scale == 1 else f"*{_decimal(self.scale)}")

    @property
    def state(self) -> str:
        """``checkpoint 62 · adapter × 0.5``; empty for the final adapter as trained."""
        parts = [] if self.step is None else [f"checkpoint {self.step}"]
        return " · ".join(parts + ([] if self.scale == 1 else [f"adapter × {self.scale:g}"]))


def is_base(name: str) -> bool:
    return name == BASE_MODEL or name.startswith(f"{BASE_MODEL}:")


def base_model(name: str) -> str:
    """The catalog id behind ``base`` or ``base:<catalog id>``."""
    return EMBEDDED if name == BASE_MODEL else name.removeprefix(f"{BASE_MODEL}:")


def _decimal(scale: float) -> str:
    return f"{scale:.6f}".rstrip("0").rstrip(".")
