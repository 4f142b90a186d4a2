"""Choosing who is asked: base models and runs, a run at a checkpoint or with less of its adapter. In the URL as ``?m=…&m=…``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import RECORDED_HINT
from ema_core.generation.engine import BASE_MODEL, MOST_COLUMNS, Capabilities
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.models import CATALOG, CHAT_MODELS, EMBEDDED
from ema_core.models.adapters import WEIGHTS
from ema_core.runs import RunDirectory, Status
from ema_core.settings import settings
from pages.widgets.chrome import by_user, plain, show_error
from pages.widgets.engine_panel import served
from pages.widgets.run_picker import newest_first, run_info

MEMORY, PARAM, WIDGET = "chat-models", "m", "chat-models-picker"
MOST_STRENGTH = 2.0
FINAL = 0
"""Stands for the final adapter among checkpoint steps."""


def label(model: str) -> str:
    """What a model is called where there is room for a line."""
    if settings().engine_url:
        return model
    one = ModelId.read(model)
    if is_base(one.name):
        return f"base · {base_model(one.name)}"
    info = run_info(one.name)
    if not info.defense:
        return model
    who = info.name or (info.defense if info.defense != "none" else "undefended")
    return " · ".join(part for part in (who, f"seed {info.seed}", one.name[-4:], one.state) if part)


def available() -> list[str]:
    """Everything that can be asked: base models that are here, then runs with an adapter, newest first.

    A run that is still in training stands for its newest checkpoint.
    """
    if url := settings().engine_url:
        return served(url)[0]
    bases = [BASE_MODEL, *(f"{BASE_MODEL}:{name}" for name in CHAT_MODELS if CATALOG[name].ready and name != EMBEDDED)]
    return bases + [model for model in map(_answering, newest_first()) if model]


def _answering(run_id: str) -> str:
    run = RunDirectory(settings().runs / run_id)
    if (run.adapter / WEIGHTS).exists():
        return run_id
    saved = run.checkpoint_steps()
    return str(ModelId(run_id, saved[-1])) if saved else ""


def suggested(options: Sequence[str]) -> list[str]:
    """Base, undefended twin and defended run, of the newest defended run that is done; without one, what there is."""
    if settings().engine_url:
        return list(options[:3])
    done = [name for name in options if not is_base(name) and RunDirectory(settings().runs / name).state().status is Status.DONE]
    defended = [run_id for run_id in done if (facts := _facts(run_id)) and facts[0]]
    return beside(defended[0], done) if defended else beside(done[0], done) if done else list(options[:1])


def beside(run_id: str, others: Sequence[str]) -> list[str]:
    """A run with what it is to be read beside: its base, and its undefended twin where that is among ``others``."""
    model, twin = run_info(run_id).model, undefended_twin(run_id, others)
    base = [BASE_MODEL] if model == EMBEDDED else [f"{BASE_MODEL}:{model}"] if model in CATALOG and CATALOG[model].ready else []
    return [*base, *([twin] if twin else []), run_id]


def undefended_twin(run_id: str, others: Sequence[str]) -> str:
    """The first undefended run among ``others`` of the same model, data, recipe and seed; "" of an undefended one, or where there is none."""
    facts = _facts(run_id)
    if not facts or not facts[0]:
        return ""
    return next((other for other in others if (found := _facts(other)) and not found[0] and found[1:] == facts[1:]), "")


def _facts(run_id: str) -> tuple[bool, str, int] | None:
    """Is it defended; what it shares with its twin."""
    spec = settings().runs / run_id / "spec.json"
    try:
        return _read_facts(run_id, str(spec), spec.stat().st_mtime_ns)
    except (EmaError, OSError):
        return None


@lru_cache(maxsize=8192)
def _read_facts(run_id: str, path: str, version: int) -> tuple[bool, str, int]:
    run = RunDirectory(settings().runs / run_id)
    spec = run.spec
    return bool(spec.defenses), spec.setting.undefended.key + run.state().recorded, spec.seed


def pick_models(able: Capabilities, of_chat: Sequence[str]) -> list[str]:
    """The picker with one small menu a run; returns up to six model ids. ``of_chat``: what the open chat was asked of last."""
    options = available()
    if url := settings().engine_url:
        with st.container():
            if problem := served(url)[1]:
                st.warning(plain(problem), icon=":material/cloud_off:")
    asked = st.query_params.get_all(PARAM)
    if not asked:
        asked = list(of_chat) or st.session_state.get(MEMORY) or suggested(options)
    chosen = list(dict.fromkeys(found for found in (_known(text, options, able) for text in asked) if found))
    if len(chosen) > MOST_COLUMNS:
        st.warning(f"At most {MOST_COLUMNS} models at once: the first {MOST_COLUMNS} are taken.", icon=":material/info:")
        chosen = chosen[:MOST_COLUMNS]
    choose(chosen)
    st.session_state[WIDGET] = chosen  # always: a widget that was away for a while comes back empty in the browser otherwise
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.multiselect(
            "Models to ask", list(dict.fromkeys([*options, *chosen])), key=WIDGET, format_func=label, max_selections=MOST_COLUMNS,
            select_all=False, on_change=_changed, placeholder="Type to search by name, data set or defense", width="stretch", wrap=True,
            help="Base models that are here, and runs with an adapter, newest first. The address of this page keeps the choice.",
        )  # fmt: skip
        st.button(
            "Suggest", key="chat-suggest", icon=":material/auto_awesome:", on_click=_suggest, args=(options,),
            help="Base, undefended twin and defended run, of the newest defended run that is done.",
        )  # fmt: skip
    runs = [model for model in chosen if not is_base(ModelId.read(model).name)]
    if runs and not settings().engine_url:
        with st.container(horizontal=True, key="chat-states", gap="small"):
            for place, model in enumerate(chosen):
                if model in runs:
                    _state(place, model, chosen)
    elif runs and not able.scale:
        st.caption(f"Checkpoints and adapter strengths cannot be chosen: {plain(able.why_not)}.")
    return chosen


def _known(text: str, options: Sequence[str], able: Capabilities) -> str | None:
    """The model that an id of the URL means; a run's unambiguous beginning or end will do."""
    if text in options:
        return text
    one = ModelId.read(text)
    if settings().engine_url or is_base(one.name):
        show_error(f'There is no model "{text[:200]}" to ask here.', "Choose one of the list.")
        return None
    try:
        run = RunDirectory.open(one.name)
    except EmaError as error:
        show_error(error.message, error.hint)
        return None
    saved = run.checkpoint_steps()
    state = run.state()
    if (state.recorded or state.status is Status.DONE) and not saved and not (run.adapter / WEIGHTS).exists():
        how = "was recorded" if state.recorded else "is here"
        show_error(f"The run {run.id} {how} without its adapter, so nobody can ask it.", RECORDED_HINT)
        return None
    if one.step is None and not (run.adapter / WEIGHTS).exists():
        show_error(f"The run {run.id} has no adapter yet.", "Choose one of its checkpoints, or wait for its end.")
        return None
    if one.step is not None and one.step not in saved:
        show_error(f"The run {run.id} has no checkpoint at step {one.step}.", f"It has: {', '.join(map(str, saved)) or 'none'}.")
        return None
    return str(ModelId(run.id, one.step, min(4.0, one.scale)))


def _state(place: int, model: str, chosen: Sequence[str]) -> None:
    """Checkpoint and adapter strength of one column."""
    one = ModelId.read(model)
    run = RunDirectory(settings().runs / one.name)
    steps = [FINAL] if (run.adapter / WEIGHTS).exists() else []
    steps += sorted(run.checkpoint_steps(), reverse=True)
    step_key, scale_key = f"chat-step-{place}-{one.name}", f"chat-scale-{place}-{one.name}"
    st.session_state[step_key], st.session_state[scale_key] = one.step or FINAL, one.scale
    info = run_info(one.name)
    short = info.name or (info.defense if info.defense != "none" else "undefended")
    state = one.state or "final adapter"
    with st.popover(f"{plain(short)}: {state}", icon=":material/tune:", key=f"chat-state-{place}"):
        args = (place, list(chosen), step_key, scale_key)
        st.selectbox(
            "Checkpoint", steps, key=step_key, on_change=_set_state, args=args,
            format_func=lambda step: f"step {step}" if step else "final adapter",
        )  # fmt: skip
        st.slider(
            "Adapter strength", 0.0, max(MOST_STRENGTH, one.scale), key=scale_key, step=0.05, on_change=_set_state, args=args,
            help="1 is as trained, 0 is the base model. Scaling down is the cheap alternative that a defense has to beat.",
        )  # fmt: skip
        st.button(
            "Second column of this run", key=f"chat-second-{place}", icon=":material/add_column_right:", on_click=_second,
            args=(place, list(chosen)), disabled=len(chosen) >= MOST_COLUMNS,
            help="With half the strength, to start from." if len(chosen) < MOST_COLUMNS else f"{MOST_COLUMNS} columns are the most.",
        )  # fmt: skip


def choose(models: Sequence[str]) -> None:
    """Choose from code: in a callback, or before ``pick_models`` stands on the page."""
    st.session_state[MEMORY] = list(models)
    if st.query_params.get_all(PARAM) != list(models):
        if models:
            st.query_params[PARAM] = list(models)
        else:
            st.query_params.pop(PARAM, None)


@by_user
def _changed() -> None:
    choose(st.session_state[WIDGET])


def _suggest(options: Sequence[str]) -> None:
    choose(suggested(options))


@by_user
def _set_state(place: int, chosen: list[str], step_key: str, scale_key: str) -> None:
    one = ModelId.read(chosen[place])
    chosen[place] = str(ModelId(one.name, st.session_state[step_key] or None, round(st.session_state[scale_key], 2)))
    choose(list(dict.fromkeys(chosen)))


def _second(place: int, chosen: list[str]) -> None:
    one = ModelId.read(chosen[place])
    for scale in (0.5, 0.25, 0.75, 1.5, 1.0):
        new = str(ModelId(one.name, one.step, scale))
        if new not in chosen:
            choose([*chosen[: place + 1], new, *chosen[place + 1 :]])
            return
