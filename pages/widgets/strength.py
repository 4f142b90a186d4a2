"""One defense in a form: a slider for its strength that marks the paper's value, a field for an exact one, its options."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin

import streamlit as st
from pydantic.fields import FieldInfo

from ema_core.defenses.base import Defense, Strength
from ema_core.runs import DefenseSpec
from pages.widgets.chrome import by_user, plain

_DECADE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


def marks(info: Strength) -> list[float]:
    """The slider's places: 0 (no defense), then from ``low`` to ``high``, with every value that the defense names."""
    named = {info.low, info.high, info.default, *info.grid} | ({info.paper} if info.paper is not None else set())
    if info.scale == "log":
        decades = range(math.floor(math.log10(info.low)), math.ceil(math.log10(info.high)) + 1)
        fine = {float(f"{mantissa * 10.0**decade:.3g}") for decade in decades for mantissa in _DECADE}
    else:
        step = _round_step(info.high / 60)
        fine = {float(f"{step * i:.6g}") for i in range(1, math.floor(info.high / step) + 1)}
    return [0.0, *sorted(named - {0.0} | {value for value in fine if info.low <= value <= info.high})]


def _round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * mantissa for mantissa in (1, 2, 5, 10) if power * mantissa >= least)


def nearest_mark(info: Strength, value: float) -> float:
    """Where the slider stands for an exact value."""
    places = marks(info)
    if info.scale == "log" and value > 0:
        return min(places[1:], key=lambda mark: abs(math.log(mark / value)))
    return min(places, key=lambda mark: abs(mark - value))


def defense_form(kind: type[Defense]) -> DefenseSpec:
    """Slider, exact value and options of one defense; the values outlive a page change."""
    info = kind.strength_info
    slider, exact = f"slider-{kind.name}", f"strength-{kind.name}"
    st.session_state.setdefault(exact, float(info.default))
    st.session_state.setdefault(slider, nearest_mark(info, st.session_state[exact] or 0.0))
    with st.container(border=True, key=f"defense-{kind.name}"):
        st.markdown(f"**{plain(kind.title)}**")
        st.caption(f"{plain(kind.summary)} ({plain(kind.reference)})")
        wide, narrow = st.columns([3, 1], vertical_alignment="bottom")
        with wide:
            st.select_slider(
                f"Strength of {kind.name}", marks(info), key=slider, format_func=lambda value: _mark_label(info, value),
                on_change=_from_slider, args=(kind,), help=_help(kind), persist_state="session",
            )  # fmt: skip
        with narrow:
            st.number_input(
                f"Exact strength of {kind.name}", 0.0, float(info.limit), key=exact, format="%g", step=float(info.low), on_change=_from_exact,
                args=(kind,), persist_state="session",
            )  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="center"):
            if info.paper is not None:
                st.button(
                    f"Paper: {info.paper:g}", key=f"paper-{kind.name}", on_click=set_strength, args=(kind, info.paper), type="tertiary",
                    icon=":material/menu_book:", help="Take the value that the paper recommends.",
                )  # fmt: skip
            st.caption(f"Means: {plain(info.meaning)}. 0 is exactly no defense.")
        cost = kind.cost
        st.caption(
            f"Time: {plain(cost.time)} Memory: {plain(cost.memory)} Needs first: {plain(cost.assets)}. Fails: {plain(kind.fails)}".replace(
                "..", "."
            )
        )
        options = {}
        with st.container(horizontal=True):
            for name, field in kind.options_type.model_fields.items():
                options[name] = _option(kind, name, field)
    return DefenseSpec(name=kind.name, strength=float(st.session_state[exact] or 0.0), options=options)


def set_strength(kind: type[Defense], value: float) -> None:
    st.session_state[f"strength-{kind.name}"] = float(value)
    st.session_state[f"slider-{kind.name}"] = nearest_mark(kind.strength_info, value)


def option_key(kind: type[Defense], field: str) -> str:
    return f"option-{kind.name}-{field}"


@by_user
def _from_slider(kind: type[Defense]) -> None:
    st.session_state[f"strength-{kind.name}"] = float(st.session_state[f"slider-{kind.name}"])


@by_user
def _from_exact(kind: type[Defense]) -> None:
    set_strength(kind, float(st.session_state[f"strength-{kind.name}"] or 0.0))


def _mark_label(info: Strength, value: float) -> str:
    return f"{value:g} (paper)" if value == info.paper else f"{value:g} (none)" if value == 0 else f"{value:g}{info.unit}"


def _help(kind: type[Defense]) -> str:
    info = kind.strength_info
    usual = ", ".join(f"{value:g}" for value in info.grid)
    return f"{plain(info.meaning)}. Usual values: {usual}. When it fails: {plain(kind.fails)}"


def _option(kind: type[Defense], name: str, field: FieldInfo) -> Any:
    """A widget for an option by its type; what it returns is validated by the defense's own model."""
    label, key = f"{kind.name}: {name.replace('_', ' ')}", option_key(kind, name)
    help = plain(field.description or "") or None
    st.session_state.setdefault(key, field.default)
    if get_origin(field.annotation) is Literal:
        return st.selectbox(label, get_args(field.annotation), key=key, persist_state="session", help=help)
    if field.annotation is bool:
        return st.checkbox(label, key=key, persist_state="session", help=help)
    if field.annotation in (int, float):
        low = next((field.annotation(m.ge) for m in field.metadata if hasattr(m, "ge")), None)
        high = next((field.annotation(m.le) for m in field.metadata if hasattr(m, "le")), None)
        return st.number_input(
            label, low, high, key=key, persist_state="session", format="%g" if field.annotation is float else None, help=help
        )
    return st.text_input(label, key=key, persist_state="session", help=help)
