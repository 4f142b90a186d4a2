"""A persona vector on the disk: one direction a layer, and a card that says how it was made and how well it separates.

Convention: vector l is a difference of ``hidden_states[l]``, l from 0 (the embedding's output) to L (the last decoder
layer's output, before the final norm). So a hook for vector l sits on the output of ``layers[l - 1]``. Torch-free to import.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ema_core.errors import EmaError
from ema_core.files import disk_errors, read_json, sha256_file, sha256_json, swept, write_json
from ema_core.models import find as find_model
from ema_core.models.load import recorded_weights_hash
from ema_core.personas.texts import load_texts
from ema_core.runs import Strict, parse
from ema_core.settings import settings, writable

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Part of a vector's id: raise it when the pipeline would give another vector from the same texts."""
CARD, WEIGHTS = "card.json", "vectors.safetensors"
DEPTH = 0.7

Way = Literal["rollouts", "written answers"]


class Separation(Strict):
    """How well one layer's vector tells held-out answers apart that we wrote: none of them is in the vector.

    ``auc``: chance that a positive answer's projection is above a negative one's (0.5 = chance). ``difference``: of their means, in
    pooled standard deviations. ``negative_mean`` and ``negative_sd`` of the projections of the negative answers are what a monitor
    holds an answer against.
    """

    layer: int
    auc: float
    difference: float
    negative_mean: float
    negative_sd: float


class Card(Strict):
    """What a vector is and how it came to be. ``tried`` and ``kept`` count pairs of rollouts; lists by layer have ``layers`` + 1 places.

    ``vector_norms`` ‖v_l‖; ``activation_norms``: mean norm of a token's hidden state over all texts read, the first position left out
    (it alone is a hundred times as long in the middle layers).
    """

    id: str
    trait: str
    title: str
    sides: tuple[str, str]
    model: str
    weights_hash: str
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    way: Way
    why: str
    tried: int
    kept: int
    rows: int
    judge: str | None
    judged: str
    vector_norms: tuple[float, ...]
    activation_norms: tuple[float, ...]
    separation: tuple[Separation, ...]
    held_out: int
    texts_hash: str
    vectors_hash: str
    version: int = VERSION
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = "cpu"
    created: float = 0.0
    seconds: float = 0.0

    @property
    def layer(self) -> int:
        """The layer that is used where none is named."""
        return default_layer(self.layers)

    def at(self, layer: int) -> Separation:
        """The held-out figures of one layer."""
        return next(row for row in self.separation if row.layer == layer)

    def ratio(self, layer: int) -> float:
        """‖v‖ by the mean activation norm at ``layer``: how large a step one raw vector is."""
        return self.vector_norms[layer] / self.activation_norms[layer]

    def fits(self, weights_hash: str | None, layers: int, hidden: int, model: str) -> None:
        """Refuse another model's vector; ``weights_hash`` None: not known yet.

        Raises:
            EmaError: it was made for other weights, or for another number or width of layers.
        """
        again = f"Build one for this model: `ema persona build --trait {self.trait} --model {model}`."
        if (layers, hidden) != (self.layers, self.hidden):
            raise EmaError(
                f"The vector {self.id} was made for {self.layers} layers of width {self.hidden} ({self.model}); {model} has {layers} of "
                f"width {hidden}.",
                again,
            )
        if weights_hash is not None and weights_hash != self.weights_hash:
            raise EmaError(
                f"The vector {self.id} was made for {self.model} with weights {self.weights_hash}; {model} here has {weights_hash}.",
                again,
            )

    def check_layer(self, layer: int) -> int:
        """``layer``, or the usual one for 0.

        Raises:
            EmaError: there is no such layer.
        """
        if not 0 <= layer <= self.layers:
            raise EmaError(
                f"There is no layer {layer} in the vector {self.id}.", f"Choose 1 to {self.layers}, or 0 for {self.layer}."
            )
        return layer or self.layer


@dataclass(frozen=True)
class PersonaVector:
    """``vectors`` [layers + 1, hidden], float32, raw (not normalised), on the CPU."""

    card: Card
    vectors: torch.Tensor = field(repr=False)

    def raw(self, layer: int = 0) -> torch.Tensor:
        """The vector [hidden] of a layer (0: the usual one)."""
        return self.vectors[self.card.check_layer(layer)]

    def project(self, states: torch.Tensor, answer: torch.Tensor, layer: int = 0) -> torch.Tensor:
        """Mean over answer tokens of h·v/‖v‖: [B] from the layer's ``states`` [B, T, hidden] and ``answer`` [B, T] (True: counts)."""
        return project(states, answer, self.raw(layer))

    def in_deviations(self, projection: float, layer: int = 0) -> float:
        """A projection as distance from the base's mean on held-out negative answers, in their standard deviations."""
        at = self.card.at(self.card.check_layer(layer))
        return (projection - at.negative_mean) / at.negative_sd


def project(states: torch.Tensor, answer: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Mean over answer tokens of h·v/‖v‖, [B]; NaN where a row has no answer token."""
    unit = (vector / vector.norm()).to(states.device)
    along = states.float() @ unit.float()  # [B, T]
    counts = answer.to(along.device).float()
    return (along * counts).sum(1) / counts.sum(1)


def default_layer(layers: int) -> int:
    """About 70 % deep, as the field does it: 21 of 30, 20 of 28."""
    return max(1, round(DEPTH * layers))


def folder() -> Path:
    return settings().home / "personas"


def vector_id(trait: str, model: str) -> str:
    """Known before the vector is there: trait, model, and a hash of the texts and of the pipeline's version.

    Raises:
        EmaError: no such trait or model.
    """
    entry = find_model(model)
    texts = load_texts(trait)
    slug = re.sub(r"[^a-z0-9.]+", "-", entry.id.split("/")[-1].lower()).strip("-.")[:40]
    return f"{trait}-{slug}-{sha256_json([entry.id, texts.hash, VERSION])[:8]}"


def card_path(vector: str) -> Path:
    """The file that says that a vector is whole."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,150}", vector):
        raise EmaError(f'"{vector[:80]}" is not the id of a vector.', "`ema persona list` shows them.")
    return folder() / vector / CARD


def read_card(vector: str) -> Card:
    """The card of a vector by its id.

    Raises:
        EmaError: there is none, or it is damaged.
    """
    path = card_path(vector)
    try:
        value = read_json(path)
    except FileNotFoundError:
        have = ", ".join(card.id for card in cards()) or "none"
        raise EmaError(f'There is no vector "{vector}".', f"Here are: {have}. `ema persona build` makes one.") from None
    except (OSError, ValueError) as error:
        raise EmaError(f"The card of the vector {vector} cannot be read ({error}).", "Build the vector again.") from None
    return parse(Card, value, f"card of the vector {vector}")


def cards() -> list[Card]:
    """Every vector here, newest first; damaged ones are passed over."""
    found = []
    for path in folder().glob(f"*/{CARD}"):
        with contextlib.suppress(EmaError):
            found.append(read_card(path.parent.name))
    return sorted(found, key=lambda card: -card.created)


def find(trait: str, model: str) -> Card | None:
    """The card of a trait's vector for a model, where it was made."""
    with contextlib.suppress(EmaError):
        return read_card(vector_id(trait, model))
    return None


def fits_here(card: Card, model: str) -> None:
    """Refuse a vector that is not for ``model`` as it lies here now; nothing is loaded.

    Raises:
        EmaError: another model's, or the weights changed since.
    """
    entry = find_model(model)
    card.fits(recorded_weights_hash(entry), entry.layers, entry.hidden, entry.id)


def load(vector: str) -> PersonaVector:
    """A vector with its card.

    Raises:
        EmaError: missing, damaged, or not the one that its card describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(vector)
    path = folder() / vector / WEIGHTS
    again = f"Build it again: `ema persona build --trait {card.trait} --model {card.model} --force`."
    try:
        if sha256_file(path)[:16] != card.vectors_hash:
            raise EmaError(f"The file of the vector {vector} is not the one that its card describes.", again)
        vectors = load_file(path)["vectors"]
    except (OSError, SafetensorError, KeyError) as error:
        raise EmaError(f"The file of the vector {vector} cannot be read ({error}).", again) from None
    if tuple(vectors.shape) != (card.layers + 1, card.hidden):
        raise EmaError(f"The vector {vector} has the shape {tuple(vectors.shape)}, not that of its card.", again)
    return PersonaVector(card, vectors.float())


def save(values: dict[str, Any], vectors: torch.Tensor) -> Card:
    """Keep vectors [layers + 1, hidden] with their card (``values`` without the hash), whole or not at all; in place of an older one."""
    from safetensors.torch import save_file

    target = writable(folder()) / values["id"]
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with swept(partial), disk_errors(target):
        partial.mkdir(parents=True)
        save_file({"vectors": vectors.float().contiguous().cpu()}, partial / WEIGHTS)
        card = parse(Card, {**values, "vectors_hash": sha256_file(partial / WEIGHTS)[:16]}, "vector's card")
        write_json(partial / CARD, card.model_dump(mode="json"))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    return card
