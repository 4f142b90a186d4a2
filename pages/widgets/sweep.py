"""From the form of one run to a study over its defense's strength: which strengths, how many seeds, how long, queue it."""

from __future__ import annotations

import streamlit as st

from ema_core import datasets
from ema_core.defenses.registry import find
from ema_core.errors import EmaError
from ema_core.evaluation.spec import EVAL_PRESETS, Preset
from ema_core.jobs import launch, studies
from ema_core.jobs.siblings import TASK
from ema_core.models import EMBEDDED
from ema_core.runs import DefenseSpec, RunSpec, StudyEvaluation, StudySpec, options_text
from ema_core.settings import settings
from pages.widgets.chrome import act, duration, errors, notices, plain
from pages.widgets.person import no_start

MOST_SEEDS = 5
KEPT = {"persist_state": "session"}


def sweep(spec: RunSpec | None) -> None:
    """A popover beside Launch; off, with the reason, where the form has not one defense."""
    why = "What is wrong is said above." if spec is None else None
    if spec is not None and len(spec.defenses) != 1:
        why = "Choose exactly one defense: its strength is what is swept."
    with st.popover(
        "Sweep this strength", icon=":material/grid_view:", key="sweep", disabled=why is not None,
        help=why or "The same run at several strengths and seeds, with their undefended twins, as one study.",
    ):  # fmt: skip
        if spec is not None and why is None:
            _sweep(spec, spec.defenses[0])
    notices("sweep")


def _sweep(spec: RunSpec, defense: DefenseSpec) -> None:
    info = find(defense.name).strength_info
    grid = sorted({*info.grid} - {0.0})
    options = sorted({*grid, info.default, *([info.paper] if info.paper else [])} - {0.0})
    st.multiselect(
        f"Strengths of {defense.name}", options, default=grid, key=f"sweep-strengths-{defense.name}",
        format_func=lambda value: f"{value:g}" if isinstance(value, float) else str(value), accept_new_options=True, select_all=False,
        help=f"{plain(info.meaning)}. Others can be typed in.", **KEPT,
    )  # fmt: skip
    st.slider("Seeds", 1, MOST_SEEDS, key="sweep-seeds", help="A difference gets a mark from three seeds on.", **KEPT)
    missing = TASK not in datasets.catalog()
    st.checkbox(
        "Benign sibling of each run", key="sweep-benign", disabled=missing, **KEPT,
        help=f"The data set {TASK} is not here." if missing else f"Trains each on {TASK}, too: is a benign task still learned?",
    )  # fmt: skip
    preset: Preset = "paper" if spec.recipe.preset == "paper" else "demo"
    st.number_input(
        "Samples a question", 0, 1000, EVAL_PRESETS[preset]["samples"], key=f"sweep-samples-{preset}", **KEPT,
        help="Each run is evaluated, which often takes longer than its training. 0: margins alone, without answers and judge.",
    )  # fmt: skip
    wanted = None
    with errors():
        wanted = _study(spec, defense, preset, bool(st.session_state["sweep-benign"]) and not missing)
        runs, twins, there, seconds = _size(wanted.to_toml(), _version())
        there_already = f", {there} there already" if there else ""
        st.markdown(
            f"**{runs} runs**, {twins} of them undefended{there_already}. About **{duration(seconds)}** with the evaluations."
        )
    st.button(
        "Queue the sweep", key="queue-sweep", type="primary", icon=":material/playlist_add:", on_click=act, args=(_queue, wanted),
        kwargs={"slot": "sweep"}, disabled=wanted is None or bool(no := no_start()), help=no or None,
    )  # fmt: skip


def _study(spec: RunSpec, defense: DefenseSpec, preset: Preset, benign: bool) -> StudySpec:
    """What the popover says.

    Raises:
        EmaError: a strength that is not a number, or none.
    """
    strengths = sorted({_number(value) for value in st.session_state[f"sweep-strengths-{defense.name}"]})
    if not strengths:
        raise EmaError("No strength is chosen.", "Choose at least one.")
    options, samples = options_text(defense.options), st.session_state[f"sweep-samples-{preset}"]
    seeds = range(spec.seed, spec.seed + int(st.session_state["sweep-seeds"]))
    return StudySpec(
        name=f"{defense.name} by strength, {spec.dataset}"[:80], models=(spec.model,), datasets=(spec.dataset,), seeds=tuple(seeds),
        defenses=("none", f"{defense.name}={strengths}" + (f":{options}" if options else "")), recipe=spec.recipe,
        probes="auto" if spec.probes else "none", stop_margin=spec.setting.stop_margin, safe_pool=spec.safe_pool, device=spec.device,
        benign=TASK if benign else None,
        evaluation=StudyEvaluation(preset=preset, samples=None if samples == EVAL_PRESETS[preset]["samples"] else samples),
    )  # fmt: skip


def _number(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise EmaError(f'"{value}" is not a strength.', "Write a number with a decimal point.") from None


@st.cache_data(show_spinner=False, max_entries=50)
def _size(toml: str, version: tuple[int, ...]) -> tuple[int, int, int, float]:
    """Runs, undefended ones, those that are there already; seconds of what is new. ``version``: of the runs and the measured speed.

    Raises:
        EmaError: a cell that cannot be run.
    """
    found = studies.plan(StudySpec.from_toml(toml))
    if bad := found.problems:
        raise EmaError(f"{bad[0].label}: {bad[0].problem}")
    twins = sum(cell.defense == "none" for cell in found.cells)
    return len(found.cells), twins, len(found.cells) - len(found.new), found.seconds


def _version() -> tuple[int, ...]:
    files = (settings().runs, settings().cache / "throughput.json")
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


def _queue(wanted: StudySpec) -> None:
    if EMBEDDED in wanted.models:
        launch.prepare_embedded()
    st.session_state["queued-study"] = studies.start(wanted)
