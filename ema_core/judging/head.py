"""The probe judge's head: two linear read-outs and the monotone maps that bring them to the judge's scale. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ema_core.errors import EmaError
from ema_core.files import read_json, write_atomic, write_json

TARGETS = ("aligned", "coherent")
LEVELS = np.linspace(0, 1, 201)
WEIGHTS = "head.safetensors"
CARD = "card.json"


@dataclass(frozen=True)
class QuantileMap:
    """Sends the quantiles of raw scores to the quantiles of labels: it keeps the order and gives back the labels' rates.

    A least-squares score is drawn towards the mean, so few of them are extreme; this undoes it. Beyond the ends: the ends.
    """

    raw: np.ndarray
    score: np.ndarray

    @classmethod
    def fitted(cls, raw: np.ndarray, labels: np.ndarray) -> QuantileMap:
        return cls(np.quantile(raw, LEVELS), np.clip(np.quantile(labels, LEVELS), 0, 100))

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        return np.interp(raw, self.raw, self.score)


@dataclass(frozen=True)
class Head:
    """``weight`` (2 x layers x hidden) and ``bias`` (2) for alignment and coherence, a map for each, and the card."""

    weight: np.ndarray
    bias: np.ndarray
    maps: tuple[QuantileMap, QuantileMap]
    card: dict[str, Any]

    @property
    def judge(self) -> str:
        return str(self.card["judge"])

    @property
    def layers(self) -> list[int]:
        return layers_read(self.card)

    def raw(self, features: np.ndarray) -> np.ndarray:
        """answers x 2, of answers x layers x hidden, before the maps; one row's numbers do not depend on the rows beside it."""
        return np.einsum("nlh,klh->nk", features.astype(np.float64), self.weight) + self.bias

    def scores(self, features: np.ndarray) -> np.ndarray:
        """answers x (aligned, coherent), 0 to 100."""
        raw = self.raw(features)
        return np.stack([self.maps[k](raw[:, k]) for k in range(2)], axis=1)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save

        tensors = {"weight": self.weight, "bias": self.bias}
        for name, mapping in zip(TARGETS, self.maps, strict=True):
            tensors |= {f"{name}.raw": mapping.raw, f"{name}.score": mapping.score}
        write_atomic(folder / WEIGHTS, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))
        write_json(folder / CARD, self.card)


def layers_read(card: dict[str, Any]) -> list[int]:
    """The layers that a head reads; the first heads read one."""
    return [int(layer) for layer in card["layers_read"]] if "layers_read" in card else [int(card["layer"])]


def held_out(card: dict[str, Any]) -> dict[str, Any]:
    """The figures of a head's alignment with questions, models and both left out; empty where its card has none."""
    name = card["reads"]["aligned"] if "reads" in card else str(card.get("layer"))
    found: dict[str, Any] = card.get("layers", {}).get(name, {})
    return found


def read_card(folder: Path) -> dict[str, Any]:
    """The card of the head in ``folder``.

    Raises:
        EmaError: there is none, or it cannot be read.
    """
    try:
        card: dict[str, Any] = read_json(folder / CARD)
        _ = card["judge"], layers_read(card), card["weights_hash"], card["model"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise EmaError(
            f"The probe judge's card {folder / CARD} is missing or damaged.",
            "Restore data/judges from the repository, or make a head with `ema judge fit`.",
        ) from error
    return card


def load_head(folder: Path) -> Head:
    """The head in ``folder``.

    Raises:
        EmaError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    card = read_card(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
        maps = [QuantileMap(tensors[f"{name}.raw"], tensors[f"{name}.score"]) for name in TARGETS]
        weight = tensors["weight"].reshape(
            len(TARGETS), len(layers_read(card)), -1
        )  # of the first heads: one layer, no axis for it
        return Head(weight, tensors["bias"], (maps[0], maps[1]), card)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise EmaError(
            f"The probe judge's head {folder / WEIGHTS} is missing or damaged.",
            "Restore data/judges from the repository, or make a head with `ema judge fit`.",
        ) from error
