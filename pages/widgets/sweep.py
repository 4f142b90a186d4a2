"""A study over strengths, seeds and data sets, from what the form of a run says: all its cells are shown before any is queued."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from ema_core import datasets
from ema_core.defenses.registry import all_defenses, find
from ema_core.errors import EmaError
from ema_core.evaluation.spec import EVAL_PRESETS, Preset
from ema_core.jobs import launch, studies
from ema_core.jobs.siblings import TASK
from ema_core.jobs.status import worker_status
from ema_core.models import EMBEDDED
from ema_core.runs import MANY_RUNS, RunDirectory, RunSpec, StudyEvaluation, StudySpec, options_text, parse
from ema_core.settings import settings
from pages.widgets.answer_links import address
from pages.widgets.chrome import act, duration, errors, notices, plain
from pages.widgets.form_fill import KEPT, form_defaults, form_spec
from pages.widgets.person import no_start
from pages.widgets.strength import option_key

MOST_SEEDS = 5
TABLE_HEIGHT = 320


def to_sweep() -> None:
    """From the form of a run: its defenses and its data are what is swept at first."""
    state = st.session_state
    state["part"] = "Sweep"
    if state["form-defenses"]:
        state["sweep-defenses"] = list(state["form-defenses"])
    state["sweep-datasets"] = [state["form-dataset"]]


def sweep_part() -> None:
    """What is swept on the left, what that comes to on the right."""
    form_defaults()
    left, right = st.columns([2, 3], gap="large")
    wanted = None
    with left, errors():
        wanted = _asked(form_spec(()))
    with right:
        st.subheader("What it comes to", anchor=False)
        ready = False
        with errors():
            ready = wanted is not None and _preview(wanted)
        if not worker_status().alive:
            st.caption("The worker is not running: the runs would wait in the queue until it is there.")
        notices("sweep")
        no = no_start()
        st.button(
            "Queue the sweep", key="queue-sweep", type="primary", icon=":material/playlist_add:", on_click=act, args=(_queue, wanted),
            kwargs={"slot": "sweep"}, disabled=not ready or bool(no),
            help=no or "Queues what is not there yet, and goes to the study's page." if ready else "What is wrong is said on this page.",
        )  # fmt: skip


def _asked(base: RunSpec) -> StudySpec:
    """The builder's fields.

    Raises:
        EmaError: nothing to sweep, or a strength that is not a number.
    """
    known = all_defenses()
    state = st.session_state
    state.setdefault("sweep-defenses", list(state["form-defenses"]) or ["kl"])
    state.setdefault("sweep-datasets", [state["form-dataset"]])
    st.multiselect(
        "Defenses", list(known), key="sweep-defenses", format_func=lambda name: known[name].title, select_all=False, **KEPT,
        help="Each by itself, at each of its strengths. The undefended twin of every seed and data set is always among the runs. "
        "Combinations: a study file (`ema study run`).",
    )  # fmt: skip
    strengths = {name: _strengths(name) for name in known if name in state["sweep-defenses"]}
    narrow = [entry.name for entry in datasets.catalog().values() if entry.kind == "narrow"]
    state["sweep-datasets"] = [name for name in state["sweep-datasets"] if name in narrow]
    st.multiselect(
        "Data sets", narrow, key="sweep-datasets", select_all=False, help="Narrow ones: the harm that is taught.", **KEPT
    )
    st.slider("Seeds", 1, MOST_SEEDS, key="sweep-seeds", help="A difference gets a mark from three seeds on.", **KEPT)
    missing = TASK not in datasets.catalog()
    st.checkbox(
        "Benign sibling of each run", key="sweep-benign", disabled=missing, **KEPT,
        help=f"The data set {TASK} is not here." if missing else f"Trains each on {TASK}, too: is a benign task still learned?",
    )  # fmt: skip
    preset: Preset = "paper" if base.recipe.preset == "paper" else "demo"
    st.number_input(
        "Samples a question", 0, 1000, EVAL_PRESETS[preset]["samples"], key=f"sweep-samples-{preset}", **KEPT,
        help="Each run is evaluated, which often takes longer than its training. 0: margins alone, without answers and judge.",
    )  # fmt: skip
    if not strengths:
        raise EmaError("No defense is chosen.", "Choose at least one.")
    if not state["sweep-datasets"]:
        raise EmaError("No data set is chosen.", "Choose at least one.")
    suggested = _suggested(list(strengths), state["sweep-datasets"])
    st.text_input(
        "Name of the study",
        key="sweep-name",
        max_chars=80,
        placeholder=suggested,
        help="A study of the same name and cells goes on.",
        **KEPT,
    )
    length = f"{base.recipe.steps} steps" if base.recipe.steps else f"{base.recipe.epochs} passes over the data"
    st.caption(
        f"All else as under **New run**: {plain(base.model)}, recipe {base.recipe.preset}, {length}, batch {base.recipe.batch_size}, "
        f"learning rate {base.recipe.learning_rate:g}, first seed {base.seed}, live probes {'auto' if base.probes else 'none'}."
    )
    texts = tuple(text for name, values in strengths.items() for text in _texts(name, values))
    samples = state[f"sweep-samples-{preset}"]
    return StudySpec(
        name=state["sweep-name"].strip() or suggested, models=(base.model,), datasets=tuple(state["sweep-datasets"]),
        seeds=tuple(range(base.seed, base.seed + int(state["sweep-seeds"]))), defenses=("none", *texts), recipe=base.recipe,
        probes="auto" if base.probes else "none", stop_margin=base.setting.stop_margin, safe_pool=base.safe_pool, device=base.device,
        benign=TASK if state["sweep-benign"] and not missing else None,
        evaluation=StudyEvaluation(preset=preset, samples=None if samples == EVAL_PRESETS[preset]["samples"] else samples),
    )  # fmt: skip


def _strengths(name: str) -> list[float | str]:
    info = find(name).strength_info
    grid = sorted({*info.grid} - {0.0})
    options = sorted({*grid, info.default, *([info.paper] if info.paper else [])} - {0.0})
    return st.multiselect(
        f"Strengths of {name}", options, default=grid, key=f"sweep-strengths-{name}", accept_new_options=True, select_all=False, wrap=True,
        format_func=lambda value: f"{value:g}" if isinstance(value, float) else str(value), **KEPT,
        help=f"{plain(info.meaning)}. Others can be typed in.",
    )  # fmt: skip


def _texts(name: str, values: list[float | str]) -> list[str]:
    """The defense as a study names it, with the options that the form has for it."""
    kind = find(name)
    strengths = sorted({_number(value) for value in values})
    if not strengths:
        raise EmaError("No strength is chosen.", f"Choose at least one of {name}, or leave the defense out.")
    fields = kind.options_type.model_fields
    chosen = {field: st.session_state[option_key(kind, field)] for field in fields if option_key(kind, field) in st.session_state}
    found = parse(kind.options_type, chosen, f"options of {name}").model_dump()
    options = options_text({field: value for field, value in found.items() if value != fields[field].default})
    return [f"{name}={strengths}" + (f":{options}" if options else "")]


def _number(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise EmaError(f'"{value}" is not a strength.', "Write a number with a decimal point.") from None


def _suggested(defenses: list[str], names: list[str]) -> str:
    what = ", ".join(defenses) if len(defenses) <= 3 else f"{len(defenses)} defenses"
    return f"{what} by strength, {names[0] if len(names) == 1 else f'{len(names)} data sets'}"[:80]


def _preview(wanted: StudySpec) -> bool:
    """Counts, time and a row a cell; True where it can be queued."""
    count = wanted.count(studies.usual_strengths)
    if count > MANY_RUNS:
        raise EmaError(
            f"This comes to {count:,} runs, more than {MANY_RUNS:,}.",
            "Take fewer, or write it as a study file (`ema study run --yes`).",
        )
    with st.spinner("Planning the runs …", show_time=True):
        found = _planned(wanted.to_toml(), _version())
    twins = sum(cell.defense == "none" for cell in found.cells)
    there = len(found.cells) - len(found.new) - len(found.problems)
    there_already = f", {there} there already" if there else ""
    st.markdown(
        f"**{len(found.cells)} runs**, {twins} of them undefended{there_already}. About **{duration(found.seconds)}** with the evaluations."
    )
    table = pd.DataFrame([_row(cell) for cell in found.cells])
    table = table.drop(columns=[name for name in ("Data", "Task", "Why not") if table[name].nunique() == 1])
    if table["There"].isna().all():
        table = table.drop(columns=["There"])
    st.dataframe(
        table, hide_index=True, key="sweep-cells", height=TABLE_HEIGHT, placeholder="",
        column_config={
            "#": st.column_config.NumberColumn("#", width=40),
            "Defense": st.column_config.TextColumn("Defense", width=150),
            "Data": st.column_config.TextColumn("Data", width=120),
            "Seed": st.column_config.NumberColumn("Seed", width=50),
            "What happens": st.column_config.TextColumn("What happens", width=130),
            "Takes": st.column_config.TextColumn("Takes", width=130, help="Training + evaluation, about; nothing where the run is there."),
            "There": st.column_config.LinkColumn("There", display_text="curves", width=70),
        },
    )  # fmt: skip
    if found.first:
        st.caption(
            "Made first: " + "; ".join(f"{plain(title)} (about {duration(seconds)})" for title, seconds in found.first) + "."
        )
    st.caption(
        "A run with the same settings and seed is taken as it is, whoever made it; its evaluation is done where it is missing. Undefended runs come first."
    )
    if found.problems:
        bad = found.problems[0]
        raise EmaError(f"{len(found.problems)} of {len(found.cells)} cells cannot be run. {bad.label}: {bad.problem}")
    return True


def _row(cell: studies.Cell) -> dict[str, Any]:
    state = RunDirectory(settings().runs / cell.run).state().status if cell.run else None
    done = "cannot be run" if cell.problem else f"reused ({state})" if state else "new"
    seconds = "" if cell.run or cell.problem else f"{duration(cell.seconds)} + {duration(cell.evaluation_seconds)}"
    return {
        "#": cell.number, "Defense": cell.defense, "Data": cell.dataset, "Seed": cell.seed, "What happens": done, "Takes": seconds,
        "There": address("fine-tune", run=cell.run, part="Runs") if cell.run else None, "Task": cell.task, "Why not": cell.problem,
    }  # fmt: skip


@st.cache_data(show_spinner=False, max_entries=50)
def _planned(toml: str, version: tuple[int, ...]) -> studies.Plan:
    """``version``: of the runs and the measured speed."""
    return studies.plan(StudySpec.from_toml(toml))


def _version() -> tuple[int, ...]:
    files = (settings().runs, settings().cache / "throughput.json")
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


def _queue(wanted: StudySpec) -> None:
    if EMBEDDED in wanted.models:
        launch.prepare_embedded()
    st.session_state["queued-study"] = studies.start(wanted)
