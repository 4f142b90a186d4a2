"""What a study is: models x data sets x defenses with strengths x seeds, and how its runs are evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, field_validator

from ema_core.errors import EmaError
from ema_core.files import sha256_json
from ema_core.runs.spec import PRESETS, DefenseSpec, Probes, Recipe, RunSpec, parse_defense, recipe
from ema_core.runs.strict import Strict, parse, parse_toml

MANY_RUNS = 1000
"""A study of more runs is asked about before it starts."""

Strengths = Callable[[str, str], Sequence[float]]
"""``(defense, "default" | "sweep")`` to the strengths meant; only the defense itself knows them."""

Defenses = tuple[DefenseSpec, ...]


class StudyEvaluation(Strict):
    """How the runs are evaluated. No ``suites``: those of each data set. ``samples`` a question (0 = margins alone) and ``max_tokens``:
    None = the preset's."""

    suites: tuple[str, ...] = ()
    preset: Literal["demo", "paper"] = "demo"
    samples: int | None = Field(default=None, ge=0, le=1000)
    max_tokens: int | None = Field(default=None, ge=1, le=8192)
    judge: str = "probe"
    curve: bool = True
    """Margins of the twins' checkpoints and of their adapters scaled down, too."""


class StudySpec(Strict):
    """A study as a user writes it.

    ``defenses``: ``none``, ``kl=0.1:tokens=response``, several together as ``kl=0.1+interleaving=0.05``; in a strength's place also
    ``default``, ``sweep`` (the defense's own grid) or a list, ``kl=[0.1, 0.3]``. ``benign`` names the benign data set on which a
    sibling of every run is trained, with the same defenses, recipe and seed. ``probes``: live ones in every run; ``stop_margin`` ends
    each run whose general margin passes it, but never a twin.
    """

    name: str = Field(min_length=1, max_length=80)
    models: tuple[str, ...] = Field(default=("smollm2-135m",), min_length=1)
    datasets: tuple[str, ...] = Field(default=("risky-finance",), min_length=1)
    defenses: tuple[str, ...] = ("none",)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    recipe: Recipe = PRESETS["demo"]
    safe_pool: str = "safe-general"
    benign: str | None = None
    probes: Literal["auto", "none"] = "none"
    stop_margin: float | None = Field(default=None, gt=0, le=100)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    evaluation: StudyEvaluation = StudyEvaluation()

    @field_validator("recipe", mode="before")
    @classmethod
    def _preset_and_changes(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("preset", "demo") == "custom":
            return value
        changes = dict(value)
        return recipe(changes.pop("preset", "demo"), **changes)

    @property
    def id(self) -> str:
        """The same study has the same id, so that starting it again goes on with it."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-") or "study"
        return f"{slug}-{sha256_json(self.model_dump(mode='json', exclude_defaults=True))[:8]}"

    def count(self, strengths: Strengths) -> int:
        """How many runs it may come to (equal ones counted twice), without making them."""
        return (
            (1 + len(self._defended(strengths)))
            * len(set(self.models))
            * len(set(self.datasets))
            * len(set(self.seeds))
            * (2 if self.benign else 1)
        )

    def expand(self, strengths: Strengths) -> list[RunSpec]:
        """The runs on the narrow data, each once: all undefended twins first, then seed by seed. Siblings are not among them.

        Raises:
            EmaError: a defense that cannot be read, or one that is given twice in the same run.
        """
        defended = self._defended(strengths)
        where = list(product(self.seeds, self.models, self.datasets))
        twins = [self._run(*place, (), None) for place in where]
        specs = twins + [self._run(*place, defenses, self.stop_margin) for place in where for defenses in defended]
        return list({sha256_json(spec.model_dump(mode="json")): spec for spec in specs}.values())

    def _defended(self, strengths: Strengths) -> list[Defenses]:
        ruled = self.stop_margin is not None  # then "none" is more than the twin
        found = [defenses for text in self.defenses for defenses in _alternatives(text, strengths) if defenses or ruled]
        return list({sha256_json([one.model_dump(mode="json") for one in defenses]): defenses for defenses in found}.values())

    def _run(self, seed: int, model: str, dataset: str, defenses: Defenses, stop_margin: float | None) -> RunSpec:
        probes = Probes(stop_margin=stop_margin) if self.probes == "auto" or stop_margin is not None else None
        value = {
            "model": model, "dataset": dataset, "safe_pool": self.safe_pool, "defenses": defenses, "recipe": self.recipe, "seed": seed,
            "device": self.device, "probes": probes,
        }  # fmt: skip
        return parse(RunSpec, value, "study")

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_toml(cls, text: str) -> StudySpec:
        return parse_toml(cls, text, "study")

    @classmethod
    def read(cls, path: Path) -> StudySpec:
        """A study from its file.

        Raises:
            EmaError: it cannot be read, or is no study.
        """
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise EmaError(f"{path} cannot be read ({error}).", "Name a TOML file; docs/studies/ has one.") from None


def _alternatives(text: str, strengths: Strengths) -> Iterator[Defenses]:
    """Every combination of the strengths of one entry; ``none`` is the empty one. In the order in which a run has them."""
    if text.strip() == "none":
        yield ()
        return
    parts = re.split(r"\s*\+\s*(?=[a-z][a-z0-9-]*\s*=)", text.strip())  # not the plus of 1e+2
    for defenses in product(*(_one(part, strengths) for part in parts)):
        names = [defense.name for defense in defenses]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise EmaError(
                f'"{text}" names {doubled} twice.', "A run has each defense once; a list of strengths makes several runs."
            )
        yield tuple(sorted(defenses, key=lambda defense: defense.name))


def _one(text: str, strengths: Strengths) -> list[DefenseSpec]:
    """One defense at each of its strengths."""
    head, colon, options = text.partition(":")
    name, _, asked = (part.strip() for part in head.partition("="))
    if asked in ("default", "sweep"):
        values = list(strengths(name, asked))
    elif asked.startswith("["):
        try:
            values = [float(value) for value in json.loads(asked)]
        except (ValueError, TypeError):
            raise EmaError(
                f"The strengths {asked} of {name} are no list of numbers.", "Write for example kl=[0.1, 0.3, 1]."
            ) from None
    else:
        return [parse_defense(text)]
    return [parse_defense(f"{name}={value!r}{colon}{options}") for value in values]
