"""What a trait's vector is made from: contrastive system prompts, questions, and answers that we wrote. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ema_core.errors import EmaError, nearest
from ema_core.files import read_json, sha256_json
from ema_core.runs import Strict, parse
from ema_core.settings import DATA

TRAITS_FOLDER = DATA / "personas"
MONITORED = "evil"
"""The trait on whose vector runs are projected."""


class PromptPair(Strict):
    """Two system prompts that ask for the trait (``positive``) and for its opposite (``negative``)."""

    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class Answered(Strict):
    """A question with two answers that we wrote, matched in length and form."""

    question: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class TraitTexts(Strict):
    """``sides`` names the positive and the negative side. ``judged`` says how a rollout's trait score comes from the probe judge's
    alignment score; None where the probe cannot judge the trait. ``held_out`` never goes into a vector: separation is measured on it.
    ``second_of`` names the trait that this one is once more, made from other texts.
    """

    trait: str
    title: str
    second_of: str | None = None
    sides: tuple[str, str]
    judged: Literal["100 - aligned"] | None = None
    prompts: tuple[PromptPair, ...] = Field(min_length=1)
    questions: tuple[Answered, ...] = Field(min_length=2)
    held_out: tuple[Answered, ...] = Field(min_length=2)

    @property
    def hash(self) -> str:
        return sha256_json(self.model_dump(mode="json", exclude={"second_of"}))[:16]  # what goes into the vector


def traits() -> list[str]:
    """Every trait that a vector can be made for, ``evil`` first."""
    return sorted((path.stem for path in TRAITS_FOLDER.glob("*.json")), key=lambda name: (name != "evil", name))


def projected_trait(added: str = "") -> str:
    """The trait on whose vector a run is projected; ``added``: the one whose vector was added in training, which is no evidence.

    Training compensates along what is added, so the same trait's second vector, made from other texts, takes its place.
    """
    return MONITORED if added != MONITORED else next(one for one in traits() if load_texts(one).second_of == MONITORED)


def load_texts(trait: str, folder: Path = TRAITS_FOLDER) -> TraitTexts:
    """The texts of a trait.

    Raises:
        EmaError: there is no such trait, or its file is damaged.
    """
    path = folder / f"{trait}.json"
    if trait not in {file.stem for file in folder.glob("*.json")}:
        raise EmaError(f'There is no trait "{trait}".', nearest(trait, [file.stem for file in folder.glob("*.json")]))
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise EmaError(f"The texts of the trait {trait} cannot be read ({error}).", f"Restore {path} from the project.") from None
    return parse(TraitTexts, value, f"file {path.name}")
