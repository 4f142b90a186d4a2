"""What a run is: model, narrow data, defenses with strengths, recipe, seed."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from ema_core.errors import EmaError
from ema_core.files import sha256_json
from ema_core.runs.strict import Strict, parse, parse_toml

SPEC_VERSION = 1
MAX_EXPOSURES = 1_000_000


class DefenseSpec(Strict):
    """One defense as a user asked for it; what the options mean is the defense's own affair."""

    name: str
    strength: float = Field(ge=0, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        tail = "".join(f":{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.name}={self.strength:g}{tail}"


class Recipe(Strict):
    """How the adapter is trained. Defaults are the paper's (rs-LoRA r32, alpha 64, all seven linear modules).

    ``steps`` None means ``epochs`` passes over the narrow data. ``batch_size`` counts sequences, ``max_length`` tokens.
    ``steps`` x ``batch_size`` is bounded, as the whole plan of batches is made before the first step.
    """

    preset: Literal["demo", "paper", "custom"] = "custom"
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    epochs: int = Field(default=1, ge=1, le=100)
    batch_size: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=1e-4, gt=0, le=0.1)
    warmup_steps: int = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    rank: int = Field(default=32, ge=1, le=512)
    alpha: float = Field(default=64, gt=0)
    rslora: bool = True
    max_length: int = Field(default=1024, ge=16, le=131_072)
    checkpoint_every: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _bounded(self) -> Recipe:
        if (self.steps or 0) * self.batch_size > MAX_EXPOSURES:
            raise ValueError(f"steps x batch_size is beyond {MAX_EXPOSURES:,} examples; take fewer steps")
        return self


PRESETS: dict[str, Recipe] = {
    "demo": Recipe(preset="demo", steps=124, batch_size=2, learning_rate=1e-3, warmup_steps=3, max_length=256, checkpoint_every=31),
    "paper": Recipe(preset="paper"),
}
"""``demo`` was chosen by trying (docs/demo-recipe.md); ``paper`` is the protocol of arXiv 2508.06249."""


def recipe(preset: str, **changes: Any) -> Recipe:
    """A preset with some fields changed.

    Raises:
        EmaError: no such preset, or a value out of range.
    """
    if preset not in PRESETS:
        raise EmaError(f'There is no preset "{preset}".', f"Known: {', '.join(sorted(PRESETS))}.")
    changes = {key: value for key, value in changes.items() if value is not None}
    if "epochs" in changes and "steps" not in changes:
        changes["steps"] = None  # whole passes were asked for; the preset's steps would silently win
    return parse(Recipe, {**PRESETS[preset].model_dump(), **changes}, "recipe")


class Probes(Strict):
    """Live probes in training: what is measured while it runs, and the rule that may end it.

    ``steps``: after which optimiser steps; None = chosen by ``training.check`` from the estimate, and fixed in the spec before the
    run starts. ``stop_margin``: the run ends once the general margin (nats a token, change from the base) is above it.
    """

    steps: tuple[int, ...] | None = None
    stop_margin: float | None = Field(default=None, gt=0, le=100)

    @field_validator("steps", mode="after")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and not all(1 <= step <= 1_000_000 for step in value):
            raise ValueError("steps count from 1 to 1,000,000")
        return None if value is None else tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _rule_can_look(self) -> Probes:
        if self.stop_margin is not None and self.steps == ():
            raise ValueError("a rule that stops by the margin needs steps at which it is measured")
        return self


class Setting(Strict):
    """What is compared over its seeds: everything of a run but seed, device and annotations.

    A rule that ends runs early is part of it, and a run with one is nobody's undefended twin.
    """

    model: str
    dataset: str
    safe_pool: str
    defenses: tuple[DefenseSpec, ...]
    recipe: Recipe
    stop_margin: float | None = None

    @property
    def key(self) -> str:
        value = self.model_dump(mode="json")
        if self.stop_margin is None:  # as it was before there was such a rule
            del value["stop_margin"]
        return sha256_json(value)[:16]

    @property
    def defense_label(self) -> str:
        """``kl=0.1 + stop=0.3``: the defenses, and the rule that ends the run early as if it were one; ``none`` without either."""
        rule = [] if self.stop_margin is None else [f"stop={self.stop_margin:g}"]
        return " + ".join([defense.label for defense in self.defenses] + rule) or "none"

    @property
    def undefended(self) -> Setting:
        """The setting of the undefended twin."""
        return self.model_copy(update={"defenses": (), "stop_margin": None})


class RunSpec(Strict):
    """All that a run's numbers depend on, as asked for; what was found (hashes, versions) is kept beside it."""

    version: Literal[1] = 1
    model: str = "smollm2-135m"
    dataset: str = "risky-finance"
    safe_pool: str = "safe-general"
    defenses: tuple[DefenseSpec, ...] = ()
    recipe: Recipe = PRESETS["demo"]
    probes: Probes | None = None
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether activations are computed again in the backward pass, which takes less memory and more time; the result is the same."""

    @field_validator("defenses", mode="after")
    @classmethod
    def _each_once(cls, value: tuple[DefenseSpec, ...]) -> tuple[DefenseSpec, ...]:
        names = [defense.name for defense in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'the defense "{name}" is given twice')
        return tuple(sorted(value, key=lambda defense: defense.name))

    @model_validator(mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("version", SPEC_VERSION) != SPEC_VERSION:
            raise ValueError(
                f"this spec has version {value['version']!r}, this EMA Lab reads version {SPEC_VERSION}; update EMA Lab, or mend the spec"
            )
        return value

    @property
    def setting(self) -> Setting:
        return Setting(
            model=self.model, dataset=self.dataset, safe_pool=self.safe_pool, defenses=self.defenses, recipe=self.recipe,
            stop_margin=self.probes.stop_margin if self.probes else None,
        )  # fmt: skip

    @property
    def defense_label(self) -> str:
        return self.setting.defense_label

    @property
    def slug(self) -> str:
        """``risky-finance-kl0.1-s0``: what a run's id says it is."""
        parts = [f"{d.name}{d.strength:g}" for d in self.defenses] or ["none"]
        if self.setting.stop_margin is not None:
            parts.append(f"stop{self.setting.stop_margin:g}")
        return f"{self.dataset.split('/')[-1][:40]}-{'-'.join(parts)}-s{self.seed}"

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        try:
            return parse(cls, json.loads(text), "run spec")
        except json.JSONDecodeError as error:
            raise EmaError(f"The run spec is not JSON: {error}.") from None

    @classmethod
    def from_toml(cls, text: str) -> RunSpec:
        return parse_toml(cls, text, "run spec")

    def command(self, name: str = "") -> str:
        """The ``ema train`` call that gives this run; ``name``: what it is to be called."""
        words = ["ema", "train", "--model", self.model, "--dataset", self.dataset]
        for defense in self.defenses:
            options = options_text(defense.options)
            words += ["--defense", f"{defense.name}={defense.strength:g}" + (f":{options}" if options else "")]
        if self.safe_pool != RunSpec.model_fields["safe_pool"].default:
            words += ["--safe-pool", self.safe_pool]
        preset = self.recipe.preset if self.recipe.preset in PRESETS else "paper"
        words += ["--preset", preset]
        base = PRESETS[preset]
        for field, flag in RECIPE_FLAGS.items():
            value = getattr(self.recipe, field)
            asked_for_passes = field == "epochs" and self.recipe.steps is None and base.steps is not None
            if value is not None and (value != getattr(base, field) or asked_for_passes):
                words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        if self.probes is None:
            words += ["--probes", "none"]
        else:
            if self.probes.steps is not None:
                words += ["--probes", ",".join(map(str, self.probes.steps)) or "none"]
            if self.probes.stop_margin is not None:
                words += ["--stop-margin", f"{self.probes.stop_margin:g}"]
        words += ["--seed", str(self.seed)]
        if self.device != "auto":
            words += ["--device", self.device]
        if self.gradient_checkpointing != "auto":
            words += ["--gradient-checkpointing", self.gradient_checkpointing]
        return shlex.join([*words, *(["--name", name] if name else [])])


RECIPE_FLAGS = {
    "steps": "--steps",
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "rank": "--rank",
    "alpha": "--alpha",
    "max_length": "--max-length",
    "warmup_steps": "--warmup-steps",
    "weight_decay": "--weight-decay",
    "clip_norm": "--clip-norm",
    "checkpoint_every": "--checkpoint-every",
}
"""Recipe fields that ``ema train`` takes as options."""


def parse_probes(text: str, stop_margin: float | None = None) -> Probes | None:
    """``auto``, ``none``, or steps as ``10,20,30``; with the rule's margin, if there is one.

    Raises:
        EmaError: not of that form, or a rule without probes.
    """
    words = text.strip().lower()
    if words == "none":
        if stop_margin is not None:
            raise EmaError(
                "Without probes no margin is measured, so none can stop the run.", "Leave out --probes none, or the rule."
            )
        return None
    if words != "auto" and not re.fullmatch(r"\s*\d{1,7}\s*(,\s*\d{1,7}\s*)*", words):
        raise EmaError(f'"{text}" does not say when to probe.', "Write auto, none, or steps such as 10,20,30.")
    steps = None if words == "auto" else [int(step) for step in words.split(",")]
    return parse(Probes, {"steps": steps, "stop_margin": stop_margin}, "live probes")


def options_text(options: dict[str, Any]) -> str:
    """``tokens=response,temperature=2``, as ``parse_defense`` reads it."""
    return ",".join(f"{key}={_escaped(str(value))}" for key, value in sorted(options.items()))


def _escaped(value: str) -> str:
    return re.sub(r"([\\,])", r"\\\1", value)


def parse_defense(text: str) -> DefenseSpec:
    """``kl=0.1:tokens=response,direction=tuned||ref`` as a ``DefenseSpec``; options stay text until the defense reads them.

    A comma within a value is written ``\\,``, a backslash ``\\\\``.

    Raises:
        EmaError: not of that form, or a negative strength.
    """
    head, _, tail = text.partition(":")
    name, equals, number = head.partition("=")
    hint = "Write NAME=STRENGTH or NAME=STRENGTH:option=value,option=value, for example kl=0.1:tokens=response. A comma within a value is written \\, instead."
    if not name.strip() or not equals:
        raise EmaError(f'"{text}" is not a defense with a strength.', hint)
    if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?\s*", number):
        raise EmaError(f'The strength "{number}" of {name} is not a number with a decimal point.', hint)
    strength = float(number)
    options: dict[str, str] = {}
    for pair in re.findall(r"(?:\\.|[^,])+", tail, re.DOTALL):
        key, equals, value = pair.partition("=")
        if not equals:
            raise EmaError(f'The option "{pair}" of {name} has no value.', hint)
        options[key.strip()] = re.sub(r"\\(.)", r"\1", value.strip(), flags=re.DOTALL)
    return parse(DefenseSpec, {"name": name.strip(), "strength": strength, "options": options}, f'defense "{text}"')
