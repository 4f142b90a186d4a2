"""What changes from one run's settings to another's, field by field, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ema_core.runs.spec import DefenseSpec, Recipe, RunSpec

NOTHING = "none"
OFF = "off"
RECIPE_WORDS = {"rslora": "rs-LoRA scaling", "rank": "LoRA rank", "alpha": "LoRA alpha", "epochs": "passes over the data"}


@dataclass(frozen=True)
class Change:
    """``old`` and ``new`` as a reader writes them."""

    field: str
    old: str
    new: str


def differences(old: RunSpec, new: RunSpec) -> list[Change]:
    """Fields that differ, in the order of the form. Steps of live probes that were chosen by themselves count as ``auto``."""
    pairs: list[tuple[str, Any, Any]] = [("model", old.model, new.model), ("data set", old.dataset, new.dataset)]
    pairs += _defenses(old, new)
    pairs.append(("safe pool", old.safe_pool, new.safe_pool))
    pairs += [
        (RECIPE_WORDS.get(name, name.replace("_", " ")), getattr(old.recipe, name), getattr(new.recipe, name))
        for name in Recipe.model_fields
        if name != "preset" and not (name == "epochs" and old.recipe.steps is not None and new.recipe.steps is not None)
    ]
    pairs += [
        ("live probes after steps", _probed(old), _probed(new)),
        ("stop above margin", old.setting.stop_margin, new.setting.stop_margin),
        ("seed", old.seed, new.seed),
        ("device", old.device, new.device),
        ("gradient checkpointing", old.gradient_checkpointing, new.gradient_checkpointing),
    ]
    return [Change(field, _words(field, one), _words(field, other)) for field, one, other in pairs if one != other]


def _defenses(old: RunSpec, new: RunSpec) -> list[tuple[str, Any, Any]]:
    """A defense that comes or goes is one line, else its strength and each option that differs have one."""
    before = {defense.name: defense for defense in old.defenses}
    after = {defense.name: defense for defense in new.defenses}
    found: list[tuple[str, Any, Any]] = []
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            found.append((name, _whole(one), _whole(other)))
            continue
        found.append((f"{name}: strength", one.strength, other.strength))
        options = sorted({*one.options, *other.options})
        found += [(f"{name}: {option.replace('_', ' ')}", one.options.get(option), other.options.get(option)) for option in options]
    return found


def _whole(defense: DefenseSpec | None) -> str:
    return OFF if defense is None else f"strength {defense.strength:g}"


def _probed(spec: RunSpec) -> str:
    return NOTHING if spec.probes is None else "auto" if spec.probes.steps is None else ", ".join(map(str, spec.probes.steps))


def _words(field: str, value: Any) -> str:
    if value is None:
        return {"steps": "by passes", "stop above margin": "never"}.get(field, NOTHING)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
