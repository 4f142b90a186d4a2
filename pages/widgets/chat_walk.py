"""Chat along one run: the same question at its base, its checkpoints and its end, or at any strength of its adapter, on a slider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ema_core.chats import walk
from ema_core.chats.broker import broker
from ema_core.chats.view import Chat, Turn, Walk
from ema_core.chats.walk import Stop
from ema_core.errors import EmaError
from ema_core.figures import QUANTITIES
from ema_core.figures.walk import measured, walk_traces
from ema_core.generation.engine import MOST_COLUMNS
from ema_core.generation.model_id import ModelId, is_base
from ema_core.runs import RunDirectory
from ema_core.settings import settings
from pages.widgets import chat_columns, chat_models
from pages.widgets.chrome import act, by_user, plain, show_error
from pages.widgets.live_curve import live_curve
from pages.widgets.run_events import RunEvents
from pages.widgets.run_picker import run_info

BY, ALONG, AT = "by", "along", "at"
MODE, RUN = "chat-mode", "chat-along"
MODES = {"side": "Side by side", "training": "Along a run's training", "strength": "Adapter strength"}
HELP = """**Along a run's training**: the same question at the base, at each checkpoint and at the end, on a slider under the run's curve. \
**Adapter strength**: the answer as the adapter is turned from 0 (the base) to 1 (as trained) and on to 1.5. All with the same seed."""
TITLES = {"general": "General margin", "ce": "Cross-entropy"}


def mode(chat: Chat | None) -> Walk:
    """What the address says, else what the open chat was asked last, else what was chosen last."""
    query = st.query_params
    asked = query.get(BY, "")
    if settings().engine_url or chat_models.PARAM in query:
        return ""
    if not asked:
        asked = chat.turns[-1].question.by if chat and chat.turns else st.session_state.get(MODE, "")
    return "training" if asked == "training" else "strength" if asked == "strength" else ""


def pick_mode(now: Walk) -> None:
    """Side by side, or along one run. Another server than ours has no runs to walk along."""
    if settings().engine_url:
        return
    st.session_state[f"{MODE}-picker"] = now or "side"
    st.segmented_control(
        "Ask", list(MODES), key=f"{MODE}-picker", required=True, format_func=MODES.__getitem__, on_change=_set_mode, help=HELP,
    )  # fmt: skip


@by_user
def _set_mode() -> None:
    wanted = st.session_state[f"{MODE}-picker"]
    if wanted == "side":
        side_by_side(st.session_state.get(chat_models.MEMORY) or chat_models.suggested(chat_models.available()))
    else:
        st.session_state[MODE] = wanted
        st.query_params.pop(chat_models.PARAM, None)
        st.query_params.pop(AT, None)
        st.query_params[BY] = wanted


def side_by_side(models: Sequence[str]) -> None:
    """Leave the walk, with these models as columns."""
    st.session_state[MODE] = ""
    leave()
    chat_models.choose(models)


def leave() -> None:
    """Nothing of a walk stays in the address."""
    for name in (BY, ALONG, AT):
        st.query_params.pop(name, None)


def pick_run(by: Walk, chat: Chat | None) -> tuple[list[str], str]:
    """Which run; returns the models that a question is put to at once, and the run."""
    names = (ModelId.read(model).name for model in chat_models.available())
    options = [name for name in dict.fromkeys(names) if not is_base(name)]
    if not options:
        st.info("No run has an adapter or a checkpoint yet. Train one first, or start the demo on Home.", icon=":material/info:")
        return [], ""
    last = chat.turns[-1].question if chat and chat.turns else None
    asked = (
        st.query_params.get(ALONG) or (last.along if last and last.by == by else "") or st.session_state.get(f"{RUN}-chosen", "")
    )
    run = _known(asked, options) if asked else options[0]
    st.query_params[BY], st.query_params[ALONG] = by, run
    st.session_state[RUN] = st.session_state[f"{RUN}-chosen"] = run
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Run", options, key=RUN, format_func=chat_models.label, on_change=_set_run, width="stretch",
            placeholder="Type to search by name, data set or defense", help="Runs with an adapter or a checkpoint, newest first.",
        )  # fmt: skip
        try:
            stops = walk.stops(run, by)
        except EmaError as error:
            show_error(error.message, error.hint)
            return [], ""
        columns = (
            walk.spread(stops, MOST_COLUMNS)
            if by == "training"
            else [stop.model for stop in stops if stop.place in (0, 0.5, 1, 1.5)]
        )
        st.button(
            "As columns", key="chat-walk-columns", icon=":material/view_column:", on_click=side_by_side, args=(columns,),
            help=f"The same side by side, {len(columns)} columns, evenly from the first stop to the last.",
        )  # fmt: skip
    models = walk.first(stops, by, _model_at(stops, st.query_params.get(AT, "")))
    names_of = ", ".join(stop.label for stop in stops if stop.model in models)
    rest = len(stops) - len(models)
    more = f"; {rest} more when the slider stops there" if rest else ""
    st.caption(plain(f"A question goes to {len(models)} of {len(stops)} stops at once: {names_of}{more}."))
    return models, run


def _known(asked: str, options: Sequence[str]) -> str:
    """The run that the address means; the newest one where there is none like it."""
    if asked in options:
        return asked
    try:
        if (found := RunDirectory.open(ModelId.read(asked).name).id) in options:
            return found
        show_error(
            f"The run {found} has no adapter and no checkpoint yet.", "Wait for its first checkpoint, or choose another one."
        )
    except EmaError as error:
        show_error(error.message, error.hint)
    return options[0]


@by_user
def _set_run() -> None:
    st.query_params[ALONG] = st.session_state[RUN]
    st.query_params.pop(AT, None)


def _model_at(stops: Sequence[Stop], at: str) -> str:
    return next((stop.model for stop in stops if f"{stop.place:g}" == at), "")


def show_walk(chat: Chat, turn: Turn, live: bool = False) -> None:
    """A question's answers along a run. ``live``: the newest question, to which stops that were not drawn yet may join."""
    by, along = turn.question.by, turn.question.along
    chat_columns.asked(turn)
    stops = _all_stops(turn) if live else walk.stops_of(turn)
    if not stops:
        st.caption("Nothing has answered yet.")
        return
    above = st.container()
    chosen = _slider(chat, turn, stops, live)
    if by == "training":
        with above:
            _curve(along, chosen, f"{chat.id}-{turn.number}")
    answers = turn.columns.get(chosen.model)
    key = f"{chat.id}-{turn.number}-walk"
    with st.container(key=f"walk-{key}", gap="xsmall"):
        chat_columns.head(chat, turn, chosen.model, answers, place=0, live=False)
        if answers is None:
            _not_drawn(chat, chosen, live)
        else:
            several = len(answers.samples) > 1
            for sample in answers.samples:
                chat_columns.cell(chat, answers, sample, f"{key}-{sample.k}", f"{sample.k + 1} · {chosen.label}" if several else "")
    _table(turn, stops)
    missing = [stop.model for stop in stops if stop.model not in turn.columns]
    if live and missing:
        st.button(
            f"Draw the other {len(missing)} stops", key="chat-walk-all", icon=":material/density_small:", on_click=act,
            args=(broker.more, chat.id, missing), kwargs={"slot": "chat", "rerun": True},
            help="All with the seed of those that are there; then the slider shows each at once.",
        )  # fmt: skip


def _all_stops(turn: Turn) -> list[Stop]:
    """Those of the run as it is now, and those that answered."""
    found = {stop.model: stop for stop in walk.stops_of(turn)}
    try:
        found |= {stop.model: stop for stop in walk.stops(turn.question.along, turn.question.by)}
    except EmaError:
        pass
    return sorted(found.values(), key=lambda stop: stop.place)


def _slider(chat: Chat, turn: Turn, stops: Sequence[Stop], live: bool) -> Stop:
    by, key = turn.question.by, f"chat-at-{chat.id}-{turn.number}"
    ids = [stop.model for stop in stops]
    labels = {stop.model: stop.label for stop in stops}
    start = st.session_state.get(f"{key}-start")
    if start not in ids:
        as_trained = next((stop.model for stop in stops if stop.place == 1), ids[-1]) if by == "strength" else ids[-1]
        start = st.session_state[f"{key}-start"] = _model_at(stops, st.query_params.get(AT, "") if live else "") or as_trained
    chosen = start
    if len(ids) > 1:  # a value set by session state alone is lost where a second run overtakes the first one in the browser
        chosen = st.select_slider(
            "Step of the training" if by == "training" else "Strength of the adapter (0 is the base, 1 as trained)", ids, start, key=key,
            format_func=labels.__getitem__, on_change=_moved, args=(chat.id, turn, key, tuple(stops), live),
        )  # fmt: skip
    return next(stop for stop in stops if stop.model == chosen)


@by_user
def _moved(chat_id: str, turn: Turn, key: str, stops: tuple[Stop, ...], live: bool) -> None:
    """The slider stands elsewhere: what is drawn there is shown, what is not is drawn now."""
    chosen = next(stop for stop in stops if stop.model == st.session_state[key])
    if not live:
        return
    st.query_params[AT] = f"{chosen.place:g}"
    if chosen.model not in turn.columns:
        act(broker.more, chat_id, [chosen.model], slot="chat")


def _not_drawn(chat: Chat, stop: Stop, live: bool) -> None:
    st.caption("This stop has not answered this question.")
    if live:
        st.button(
            f"Draw it at {plain(stop.label)}", key="chat-walk-draw", icon=":material/play_arrow:", on_click=act,
            args=(broker.more, chat.id, [stop.model]), kwargs={"slot": "chat", "rerun": True},
        )  # fmt: skip


def _curve(run_id: str, stop: Stop, key: str) -> None:
    """The run's loss or general margin, and where on it the shown answer is from."""
    events = _events(run_id)
    if events is None or events.table.empty:
        return
    tables = {"general": events.probe_table, "ce": events.table}
    known = [name for name in TITLES if name in tables[name].columns and tables[name][name].notna().any()]
    if not known:
        return
    shown = known[0]
    if len(known) > 1:
        shown = st.segmented_control(
            "Curve", known, default=known[0], required=True, key=f"chat-curve-{key}", format_func=TITLES.__getitem__,
        ) or known[0]  # fmt: skip
    traces = walk_traces(tables[shown], shown, stop.place)  # type: ignore[arg-type]
    live_curve(traces, key=f"walk-curve-{key}", view=shown, y_title=QUANTITIES[shown].split(" (")[0], height=220, raw=shown == "ce")
    st.caption(plain(f"The dotted line is the answer shown: {stop.label}; {_there(traces, shown)}."))


def _there(traces: list[dict[str, Any]], shown: str) -> str:
    """What the curve says at the answer's own step; nothing is read off between two measurements."""
    curve, name = traces[0], TITLES[shown].lower()
    found = measured(curve, traces[1]["x"][0])
    if found is None and shown == "general":
        return f"the {name} was measured at the steps {', '.join(map(str, curve['x']))}, not here"
    if found is None:
        return f"no {name} was taken here"
    value, low, high = found
    interval = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    unit = (
        "nats a token against the base, by live probes; the band is the 95 % interval for questions like these"
        if shown == "general"
        else "nats a response token, smoothed"
    )
    return f"{name} {value:.2f}{interval} {unit}"


def _events(run_id: str) -> RunEvents | None:
    """The run's events, read on from where the last look ended."""
    held = st.session_state.get("chat-walk-events")
    if held is None or held.run_id != run_id:
        info = run_info(run_id)
        if info.problem:
            return None
        facts = {"name": info.name or chat_models.label(run_id), "defense_label": info.defense, "seed": info.seed}
        held = st.session_state["chat-walk-events"] = RunEvents(run_id, facts, projected=info.projected)
    held.advance(RunDirectory(settings().runs / run_id))
    return held


def _table(turn: Turn, stops: Sequence[Stop]) -> None:
    """All stops at a look: what each said first, and what it was judged."""
    rows = []
    for stop in stops:
        column = turn.columns.get(stop.model)
        sample = column.samples[0] if column else None
        score = sample.score if sample else None
        row = {"Stop": stop.label, "Aligned": score.aligned if score else None, "Coherent": score.coherent if score else None}
        if sample and sample.projection:
            row[f"{sample.projection.trait} (SD)"] = sample.projection.deviations
        rows.append({**row, "Answer": " ".join(sample.text.split()) if sample else "not drawn"})
    several = turn.question.samples > 1
    with st.expander(f"All {len(rows)} stops in a table", key=f"walk-table-{turn.number}"):
        scored = any(row["Aligned"] is not None for row in rows)
        order = [name for name in ("Stop", "Aligned", "Coherent") if scored or name == "Stop"]
        more = sorted({name for row in rows for name in row} - {"Stop", "Aligned", "Coherent", "Answer"})
        st.dataframe(
            rows, hide_index=True, column_order=[*order, *more, "Answer"], key=f"walk-rows-{turn.number}",
            column_config={"Aligned": st.column_config.NumberColumn(format="%.0f"), "Coherent": st.column_config.NumberColumn(format="%.0f"),
                           **{name: st.column_config.NumberColumn(format="%+.1f") for name in more}},
        )  # fmt: skip
        if several:
            st.caption("The first answer of each stop.")
