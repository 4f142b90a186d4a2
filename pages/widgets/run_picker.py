"""Choosing runs: searchable, newest first, any old run; the choice is in the URL (``?run=…&run=…``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import streamlit as st

from ema_core.defenses.persona_steering import projected_on
from ema_core.errors import EmaError
from ema_core.evaluation.measured import BENIGN_TASK
from ema_core.exchange.kept import run_of
from ema_core.files import read_json
from ema_core.personas import MONITORED
from ema_core.runs import BASE, IMPORT, Probes, RunDirectory, origin_of, read_label, run_ids
from ema_core.runs.label import LABEL
from ema_core.settings import settings
from ema_core.shared import current, mine
from ema_core.shared.room import hidden_ids
from ema_core.store.rows import NOT_STATED
from pages.widgets import person
from pages.widgets.chrome import by_user, plain, show_error


@dataclass(frozen=True)
class RunInfo:
    """What changes by hand alone of a run, or of a base. ``problem`` says why its spec cannot be read; ``projected``: ``projected_on``
    it; ``recorded``: the recorded study that it came with."""

    id: str
    name: str = ""
    model: str = ""
    dataset: str = ""
    defense: str = ""
    seed: int = 0
    created: float = 0.0
    problem: str = ""
    probes: Probes | None = None
    projected: str = MONITORED
    recorded: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""

    @property
    def label(self) -> str:
        if self.recorded:
            return f"{self._label} · recorded"
        return self._label

    @property
    def _label(self) -> str:
        if self.defense == "base":
            return f"base · {self.model}"
        if self.id.startswith(IMPORT):
            return " · ".join(
                filter(
                    None, (f"imported · {self.model}", self.dataset, self.defense.removeprefix(NOT_STATED), self.id[len(IMPORT) :])
                )
            )
        return person.whose(self.owner) + " · ".join(filter(None, (self.name, self.id, ", ".join(self.tags))))


def run_info(run_id: str) -> RunInfo:
    """The fixed facts of a run or a base, and what it is called; read once for a version of its spec and its label."""
    if run_id.startswith(IMPORT):
        try:
            return _imported(run_id, str(settings().imports))
        except FileNotFoundError:
            return RunInfo(run_id, problem="the import was undone")
    spec = settings().runs / run_id / ("model.json" if run_id.startswith(BASE) else "spec.json")
    try:
        return _read(str(spec.parent), spec.stat().st_mtime_ns, _version(spec.with_name(LABEL)))
    except OSError:
        return RunInfo(run_id, problem=f"{spec.name} is missing")


@lru_cache(maxsize=8192)
def _imported(run_id: str, folder: str) -> RunInfo:
    """A run of an imported table. Its id goes by the table's content, so what is known of it never changes."""
    part = run_of(run_id)
    if part is None:  # not remembered: it may be put back
        raise FileNotFoundError(run_id)
    return RunInfo(run_id, model=part["model"], dataset=part["dataset"] or "", defense=part["defense"], seed=part["seed"] or 0)


@lru_cache(maxsize=8192)
def _read(path: str, version: int, label_version: int) -> RunInfo:
    run = RunDirectory(settings().runs / path.rsplit("/", 1)[-1])
    if run.id.startswith(BASE):
        try:
            known = read_json(run.path / "model.json")
            return RunInfo(run.id, model=str(known["model"]), defense="base", recorded=str(known.get("recorded") or ""))
        except (OSError, ValueError, KeyError, TypeError):
            return RunInfo(run.id, problem="model.json is damaged")
    try:
        spec, state, label = run.spec, run.state(), read_label(run)
        projected = projected_on(spec)
    except EmaError as error:
        return RunInfo(run.id, problem=error.message)
    defense = NOT_STATED if "imported" in state.found else spec.defense_label
    return RunInfo(
        run.id, label.name or "", spec.model, spec.dataset, defense, spec.seed, state.created, probes=spec.probes,
        projected=projected, recorded=state.recorded, tags=label.tags, owner=state.owner,
    )  # fmt: skip


def _version(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def newest_first() -> list[str]:
    """In a shared room one's own stand first, and what the instructor has hidden is left out."""
    ids = run_ids()[::-1]
    if current() is None:
        return ids
    hidden = hidden_ids()
    return sorted((run_id for run_id in ids if run_id not in hidden), key=lambda run_id: not mine(origin_of(run_id)[0]))


def own_or_all(ids: list[str]) -> list[str]:
    """Of these runs the acting person's, where the room is shared and there are any."""
    return ids if current() is None else [run_id for run_id in ids if mine(origin_of(run_id)[0])] or ids


def own_first(ids: Sequence[str]) -> list[str]:
    """What a first visit chooses from: the user's own runs; recorded ones where there are no others. Siblings on the benign task, which
    measure something of another run, come last."""
    chosen = [run_id for run_id in ids if not run_info(run_id).recorded] or list(ids)
    return sorted(chosen, key=lambda run_id: run_info(run_id).dataset == BENIGN_TASK)


def pick_runs(
    label: str = "Runs", *, key: str = "runs", param: str = "run", default: Callable[[list[str]], Sequence[str]] | None = None,
    only: Callable[[str], bool] | None = None, max_selections: int | None = None, help: str | None = None, also: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """A multiselect over all runs; returns the ids chosen.

    The URL parameter ``param`` (repeated, or with commas) is the truth; a visit without it gets the session's last choice under
    ``key``, a first one what ``default`` takes from the ids (newest first). An id's unambiguous beginning or end will do. ``also``
    are ids of answers without a run directory.
    """
    options = [run_id for run_id in newest_first() if only is None or only(run_id)] + list(also)
    memory, widget = f"{key}-chosen", f"{key}-picker"
    asked = [part for value in st.query_params.get_all(param) for part in value.split(",") if part]
    if not asked:
        if memory not in st.session_state:
            st.session_state[memory] = list(default(options)) if default else []
        asked = st.session_state[memory]
    chosen = list(dict.fromkeys(found for found in (_known(text, options) for text in asked) if found))
    _remember(chosen, memory, param)
    st.session_state[widget] = chosen  # always: a widget that was away for a while comes back empty in the browser otherwise
    options = tagged(options, key, chosen)
    st.multiselect(
        label, options, key=widget, format_func=lambda run_id: run_info(run_id).label, max_selections=max_selections, help=help,
        select_all=False, on_change=_changed, args=(widget, memory, param),
        placeholder="Type to search by name, data set or defense" if options else "No run yet", disabled=not options,
    )  # fmt: skip
    return chosen


def tagged(options: Sequence[str], key: str, chosen: Sequence[str]) -> list[str]:
    """Those with all tags of a filter, which stands there once a run has a tag; what is chosen stays among them."""
    tags = sorted({tag for run_id in options for tag in run_info(run_id).tags}, key=str.casefold)
    if not tags:
        return list(options)
    wanted = set(
        st.pills(
            "Only runs with the tag", tags, selection_mode="multi", key=f"{key}-tags", persist_state="session", format_func=plain,
            help="Narrows what the list below offers; what is chosen there stays. Tags are given under Name, tags and notes of a run.",
        )
    )  # fmt: skip
    return [run_id for run_id in options if run_id in chosen or wanted <= set(run_info(run_id).tags)]


def show_runs(ids: Sequence[str], *, key: str = "runs", param: str = "run") -> None:
    """Choose runs from code: in a callback, or before ``pick_runs`` stands on the page."""
    _remember(list(ids), f"{key}-chosen", param)


def remembered(key: str = "runs") -> list[str]:
    """The session's last choice."""
    return list(st.session_state.get(f"{key}-chosen", []))


def run_link(run_id: str, label: str = "") -> None:
    """A link to the run's curves on Fine-tune."""
    info = run_info(run_id)
    query = {"run": run_id, "part": "Runs"}
    text = f"{label or info.name or info.id}{' · recorded' if info.recorded else ''}"
    st.page_link("pages/fine_tune.py", label=plain(text), icon=":material/show_chart:", query_params=query, help="")


def _known(text: str, options: Sequence[str]) -> str | None:
    if text in options:
        return text
    try:
        run_id = RunDirectory.open(text).id
    except EmaError as error:
        show_error(error.message, error.hint)
        return None
    if run_id not in options:
        show_error(f"The run {run_id} cannot be chosen here.")
        return None
    return run_id


@by_user
def _changed(widget: str, memory: str, param: str) -> None:
    _remember(st.session_state[widget], memory, param)


def _remember(chosen: list[str], memory: str, param: str) -> None:
    st.session_state[memory] = chosen
    if st.query_params.get_all(param) != chosen:
        if chosen:
            st.query_params[param] = chosen
        else:
            st.query_params.pop(param, None)
