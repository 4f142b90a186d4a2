"""The values of the form of a new run, in the session: its fields, its defaults, and how a run's settings get into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ema_core.defenses.registry import all_defenses
from ema_core.errors import EmaError, nearest
from ema_core.runs import PRESETS, DefenseSpec, RunSpec, parse
from pages.widgets.chrome import by_user
from pages.widgets.probe_form import asked_probes, fill_probes, probe_defaults
from pages.widgets.strength import option_key, set_strength

KEPT = {"persist_state": "session"}
FIELDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "steps": (
        "Steps",
        {"min_value": 1, "max_value": 1_000_000},
        "Optimiser steps. Empty: as many passes over the data as said below.",
    ),
    "epochs": ("Passes over the data", {"min_value": 1, "max_value": 100}, "Used where steps is empty."),
    "batch_size": ("Batch size", {"min_value": 1, "max_value": 1024}, "Sequences a step."),
    "learning_rate": (
        "Learning rate",
        {"min_value": 1e-7, "max_value": 0.1, "step": 1e-5, "format": "%g"},
        "Its peak, after the warm-up.",
    ),
    "rank": ("LoRA rank", {"min_value": 1, "max_value": 512}, "Size of the adapter."),
    "max_length": (
        "Longest example",
        {"min_value": 16, "max_value": 131_072, "step": 16},
        "Tokens; longer ones lose the front of the prompt.",
    ),
    "checkpoint_every": ("Checkpoint every", {"min_value": 1, "max_value": 1_000_000}, "Steps; what a crash loses at most."),
}


def fill_form(spec: RunSpec) -> None:
    """Put a run's settings into the form: a copy to change one thing in.

    Raises:
        EmaError: it has a defense that is not here.
    """
    state = st.session_state
    if unknown := [defense.name for defense in spec.defenses if defense.name not in all_defenses()]:
        raise EmaError(f'The defense "{unknown[0]}" of that run is not here.', nearest(unknown[0], all_defenses()))
    state["form-model"], state["form-dataset"], state["form-pool"] = spec.model, spec.dataset, spec.safe_pool
    state["form-defenses"] = [defense.name for defense in spec.defenses]
    for defense in spec.defenses:
        kind = all_defenses()[defense.name]
        set_strength(kind, defense.strength)
        for name, value in parse(kind.options_type, defense.options, f"options of {defense.name}").model_dump().items():
            state[option_key(kind, name)] = value
    state["form-preset"] = spec.recipe.preset if spec.recipe.preset in PRESETS else "paper"
    for name in FIELDS:
        state[f"form-{name}"] = getattr(spec.recipe, name)
    preset = PRESETS[state["form-preset"]].model_dump()
    state["form-rest"] = {
        name: value for name, value in spec.recipe.model_dump().items() if name not in FIELDS and value != preset[name]
    }
    fill_probes(spec.probes)
    state["form-device"], state["form-gradient-checkpointing"] = spec.device, spec.gradient_checkpointing
    state["form-seed"], state["form-name"], state["form-note"] = spec.seed, "", ""
    state["part"] = "New run"


def form_defaults() -> None:
    spec = RunSpec()
    first: dict[str, Any] = {
        "model": spec.model, "dataset": spec.dataset, "pool": spec.safe_pool, "defenses": ["kl"] if "kl" in all_defenses() else [],
        "preset": "demo", "rest": {}, "seed": spec.seed, "name": "", "note": "", "tags": [], "evaluate": True,
        "device": spec.device, "gradient-checkpointing": spec.gradient_checkpointing, **{name: getattr(PRESETS["demo"], name) for name in FIELDS},
    }  # fmt: skip
    for name, value in first.items():
        st.session_state.setdefault(f"form-{name}", value)
    probe_defaults()


@by_user
def preset_chosen() -> None:
    st.session_state["form-rest"] = {}
    st.session_state["form-device"] = st.session_state["form-gradient-checkpointing"] = "auto"
    for name in FIELDS:
        st.session_state[f"form-{name}"] = getattr(PRESETS[st.session_state["form-preset"]], name)


def form_spec(defenses: Sequence[DefenseSpec]) -> RunSpec:
    """What the form says, checked.

    Raises:
        EmaError: it cannot be run.
    """
    state = st.session_state
    fields = {name: state[f"form-{name}"] for name in FIELDS if name == "steps" or state[f"form-{name}"] is not None}
    recipe = {**PRESETS[state["form-preset"]].model_dump(), **state["form-rest"], **fields}
    value = {
        "model": state["form-model"], "dataset": state["form-dataset"], "safe_pool": state.get("form-pool") or RunSpec().safe_pool,
        "defenses": [defense.model_dump() for defense in defenses], "recipe": recipe, "probes": asked_probes(),
        "seed": state["form-seed"] or 0, "device": state["form-device"], "gradient_checkpointing": state["form-gradient-checkpointing"],
    }  # fmt: skip
    return parse(RunSpec, value, "run")
