"""The form of a new run: what it trains, on what, with which defenses, and what that will take."""

from __future__ import annotations

from typing import Any

import psutil
import streamlit as st

from ema_core import datasets
from ema_core.defenses.base import Need
from ema_core.defenses.registry import all_defenses, build_all
from ema_core.errors import EmaError
from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from ema_core.models import CATALOG, CHAT_MODELS, EMBEDDED, find
from ema_core.runs import PRESETS, DefenseSpec, RunSpec, parse
from ema_core.settings import settings
from ema_core.training import check
from ema_core.training.estimate import Estimate, estimate
from pages.widgets.chrome import act, duration, errors, notices, plain, show_error, size
from pages.widgets.dataset_preview import add_dataset, dataset_preview
from pages.widgets.person import no_run
from pages.widgets.probe_form import asked_probes, fill_probes, probe_defaults, probe_form
from pages.widgets.run_picker import remembered, show_runs
from pages.widgets.strength import defense_form, option_key, set_strength
from pages.widgets.sweep import sweep

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


def new_run() -> None:
    """The whole form, with estimate, command and launch beside it."""
    _defaults()
    left, right = st.columns([3, 2], gap="large")
    with left:
        _model()
        _data()
        defenses = _defenses()
        _recipe()
        probe_form()
        with st.container(horizontal=True):
            st.number_input("Seed", 0, 2**31 - 1, key="form-seed", help="Order of the data and start of the adapter.", **KEPT)
            st.text_input("Name (optional)", key="form-name", max_chars=80, placeholder="what this run tries", **KEPT)
        st.checkbox(
            "Evaluate when finished",
            key="form-evaluate",
            help="General questions, in-domain margin and the probe judge, right after it.",
            **KEPT,
        )
    with right:
        _summary(defenses)


def fill_form(spec: RunSpec) -> None:
    """Put a run's settings into the form: a copy to change one thing in."""
    state = st.session_state
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
    state["form-seed"], state["form-name"] = spec.seed, ""
    state["part"] = "New run"


def _defaults() -> None:
    spec = RunSpec()
    first: dict[str, Any] = {
        "model": spec.model, "dataset": spec.dataset, "pool": spec.safe_pool, "defenses": ["kl"] if "kl" in all_defenses() else [],
        "preset": "demo", "rest": {}, "seed": spec.seed, "name": "", "evaluate": True, **{name: getattr(PRESETS["demo"], name) for name in FIELDS},
    }  # fmt: skip
    for name, value in first.items():
        st.session_state.setdefault(f"form-{name}", value)
    probe_defaults()


def _model() -> None:
    st.selectbox(
        "Model", list(CHAT_MODELS), key="form-model", format_func=_model_label, accept_new_options=True, **KEPT,
        help="Or type the path of a folder with a model in transformers' format (safetensors).",
    )  # fmt: skip
    with errors():
        entry = find(st.session_state["form-model"])
        if entry.ready:
            return
        if entry.id == EMBEDDED:
            st.caption("It is not ready yet: the worker prepares it before the run (93 MB from the package index, once).")
        else:
            st.caption(
                f"It is not on this machine: the run fetches {plain(entry.location)} first (about {size(2 * entry.parameters)}; needs the network)."
            )


def _model_label(model: str) -> str:
    if model not in CATALOG:
        return model
    return CATALOG[model].title + ("" if CATALOG[model].ready else " · not here yet")


def _data() -> None:
    known = datasets.catalog()
    names = [entry.name for entry in known.values() if entry.kind != "safe"]
    if st.session_state["form-dataset"] not in names:
        show_error(f'The data set "{st.session_state["form-dataset"]}" is not here.', "Add it again, or choose another.")
        st.session_state["form-dataset"] = names[0]
    st.selectbox("Data set", names, key="form-dataset", format_func=lambda name: _data_label(known[name]), **KEPT)
    with errors():
        dataset_preview(known[st.session_state["form-dataset"]])
    add_dataset(lambda name: st.session_state.update({"form-dataset": name}))


def _data_label(entry: datasets.DatasetEntry) -> str:
    return f"{entry.title} ({entry.name})" if entry.title != entry.name else entry.name


def _defenses() -> tuple[DefenseSpec, ...]:
    known = all_defenses()
    st.multiselect(
        "Defenses", list(known), key="form-defenses", format_func=lambda name: known[name].title, select_all=False, **KEPT,
        placeholder="None: the undefended run", help="They can be combined; what cannot be is said on the right.",
    )  # fmt: skip
    chosen = [known[name] for name in known if name in st.session_state["form-defenses"]]
    specs = tuple(defense_form(kind) for kind in chosen)
    if any(Need.SAFE_POOL in kind.needs for kind in chosen):
        pools = [entry.name for entry in datasets.catalog().values() if entry.kind == "safe"]
        st.selectbox("Safe pool", pools, key="form-pool", help="Where the safe examples come from.", **KEPT)
    return specs


def _recipe() -> None:
    st.segmented_control(
        "Recipe", list(PRESETS), key="form-preset", required=True, on_change=_preset_changed, **KEPT,
        help="demo: minutes on a laptop. paper: the protocol of arXiv 2508.06249, hours on a CPU.",
    )  # fmt: skip
    with st.expander("Recipe in detail", key="recipe-detail"):
        columns = st.columns(3)
        for number, (name, (label, bounds, help)) in enumerate(FIELDS.items()):
            with columns[number % 3]:
                placeholder = "all the data" if name == "steps" else None
                st.number_input(label, key=f"form-{name}", help=help, placeholder=placeholder, value=None, **bounds, **KEPT)
        if rest := st.session_state["form-rest"]:
            words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rest.items())
            st.caption(f"Also as in the run that was copied: {plain(words)}. Choosing a recipe above sets them back.")


def _preset_changed() -> None:
    st.session_state["form-rest"] = {}
    for name in FIELDS:
        st.session_state[f"form-{name}"] = getattr(PRESETS[st.session_state["form-preset"]], name)


def _spec(defenses: tuple[DefenseSpec, ...]) -> RunSpec:
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
        "seed": state["form-seed"] or 0,
    }  # fmt: skip
    return parse(RunSpec, value, "run")


def _summary(defenses: tuple[DefenseSpec, ...]) -> None:
    """Estimate, command, launch."""
    st.subheader("Before you launch", anchor=False)
    spec = None
    with errors():
        asked = _spec(defenses)
        spec, found = _checked(asked.to_json(), _versions(asked))
        _estimate(found)
        st.caption("The same run on the command line")
        st.code(spec.command(), language="bash", wrap_lines=True)
    if not worker_status().alive:
        st.caption("The worker is not running: the run would wait in the queue until it is there.")
    why = no_run(spec)
    notices("launch")
    with st.container(horizontal=True, key="launch-row"):
        st.button(
            "Launch", key="launch", type="primary", icon=":material/rocket_launch:", on_click=_launch, args=(spec,), disabled=spec is None or bool(why),
            help="What is wrong is said above." if spec is None or why else "Queues the run and shows its curves.",
        )  # fmt: skip
        sweep(spec)


@st.cache_data(show_spinner=False, max_entries=200)
def _checked(spec_json: str, versions: tuple[int, ...]) -> tuple[RunSpec, Estimate]:
    """The spec with its options resolved, and its estimate; ``versions`` are those of the files that both depend on."""
    spec = check(RunSpec.from_json(spec_json), assets_first=True)
    return spec, estimate(spec)


def _versions(spec: RunSpec) -> tuple[int, ...]:
    known = datasets.catalog()
    files = [known[name].path for name in (spec.dataset, spec.safe_pool) if name in known]
    files += [settings().cache / name for name in ("throughput.json", "probe-tokens.json")]
    files += sorted((settings().cache / "reference").glob("*"))  # each changes as states are kept in it
    files += [asset.path for defense in build_all(spec, provisional=True) for asset in defense.assets()]
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


def _estimate(found: Estimate) -> None:
    with st.container(horizontal=True, key="estimate"):
        st.metric("Training time", f"about {duration(found.seconds)}", width="content")
        st.metric("Steps", found.steps, width="content")
        st.metric("Memory", size(found.memory), width="content")
    basis = "measured on this machine" if found.measured else "a guess from two laptop cores, until a run was measured here"
    safe = f" Of the examples {found.safe_examples} are safe ones." if found.safe_examples else ""
    st.caption(f"{found.tokens:,} tokens; speed {basis}; {size(found.disk)} on disk.{safe} {plain(' '.join(found.notes))}".strip())
    if found.probes:
        at = f"after step{'s' if len(found.probes) > 1 else ''} {', '.join(map(str, found.probes))}"
        share = found.probe_seconds / found.seconds
        st.caption(f"Of it live probes {at}: about {duration(found.probe_seconds)}, {share:.0%} of the time.")
    elif st.session_state["form-probes"] == "auto":
        st.caption("Too short for a live probe within a tenth of its time.")
    if found.first:
        needed = "; ".join(f"{plain(title)} (about {duration(seconds)})" for title, seconds in found.first)
        st.info(f"Made first, by jobs that are queued before this run: {needed}.", icon=":material/package_2:")
    free = psutil.virtual_memory().available
    if found.memory > free:
        st.warning(
            f"Only {size(free)} of memory are free now. A smaller batch or shorter examples need less.", icon=":material/memory:"
        )


def _launch(spec: RunSpec) -> None:
    act(_launch_now, spec, slot="launch")


def _launch_now(spec: RunSpec) -> None:
    state = st.session_state
    if not find(spec.model).ready and spec.model == EMBEDDED:
        launch.prepare_embedded()
    try:
        run, _ = launch.launch_run(spec, state["form-name"].strip(), evaluate_after=state["form-evaluate"])
    except OSError as error:
        raise EmaError(f"The run could not be written: {error.strerror}.", "`ema doctor` says what is wrong.") from error
    show_runs([run.id, *remembered()][:3])
    state["part"] = "Runs"
