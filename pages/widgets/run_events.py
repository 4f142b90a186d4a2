"""A run's events as they grow: only what is new is read, by byte offset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ema_core.personas import MONITORED
from ema_core.runs import RunDirectory, probes, steps

Event = dict[str, Any]


@dataclass
class RunEvents:
    """What was read of one run so far. ``steps`` and ``probes`` hold each step once, in order; ``finish`` what defenses reported.

    ``table``, ``penalties`` and ``probe_table`` are the same as figures want it; ``facts`` are further columns of every row.
    ``probed``: the run has live probes; ``stop_margin``: the margin that ends it; ``projected``: the trait on whose
    vector it is projected. An older event without a trait was projected on evil, whatever was added.
    """

    run_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    probed: bool = False
    stop_margin: float | None = None
    projected: str = MONITORED
    offset: int = 0
    steps: list[Event] = field(default_factory=list)
    probes: list[Event] = field(default_factory=list)
    finish: list[Event] = field(default_factory=list)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    penalties: pd.DataFrame = field(default_factory=pd.DataFrame)
    probe_table: pd.DataFrame = field(default_factory=pd.DataFrame)

    def advance(self, run: RunDirectory) -> bool:
        """Read what was written since the last call; True if there was anything."""
        try:
            size = run.events_path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self.offset:  # not the file that was read
            self.offset, self.steps, self.finish, self.table, self.penalties = 0, [], [], pd.DataFrame(), pd.DataFrame()
            self.probes, self.probe_table = [], pd.DataFrame()
        if size == self.offset:
            return False
        new, self.offset = run.events(self.offset)
        if added := steps(new):
            if self.steps and added[0]["step"] <= self.steps[-1]["step"]:  # a later attempt, from a checkpoint on
                added = steps(self.steps + new)
                self.steps, self.table, self.penalties = [], pd.DataFrame(), pd.DataFrame()
            self.steps = self.steps + added
            self._add_rows(added)
        if any(event.get("kind") == "probe" for event in new):
            self.probes = probes(self.probes + new)
            rows = [{key: value for key, value in event.items() if key != "answers"} for event in self.probes]
            rows = [row if row.get("trait", MONITORED) == self.projected else {**row, "projection": None} for row in rows]
            self.probe_table = self._joined(pd.DataFrame(), rows)
        self.finish += [event for event in new if event.get("kind") == "finish"]
        return bool(new)

    @property
    def last(self) -> Event:
        """The newest step's event, or an empty one."""
        return self.steps[-1] if self.steps else {}

    @property
    def defense_label(self) -> str:
        return str(self.facts.get("defense_label", ""))

    @property
    def name(self) -> str:
        """What a reader calls the run: its name, else defenses and seed, and the end of its id."""
        own = self.facts.get("name") or f"{self.defense_label} · seed {self.facts.get('seed', 0)}"
        return f"{own} · {self.run_id[-4:]}{' · recorded' if self.facts.get('recorded') else ''}"

    def _add_rows(self, added: list[Event]) -> None:
        rows = [
            {"step": event["step"], "defense": name, **values}
            for event in added
            for name, values in event.get("penalties", {}).items()
        ]
        self.table = self._joined(
            self.table, [{key: value for key, value in event.items() if key != "penalties"} for event in added]
        )
        self.penalties = self._joined(self.penalties, rows)

    def _joined(self, frame: pd.DataFrame, rows: list[Event]) -> pd.DataFrame:
        if not rows:
            return frame
        more = pd.DataFrame(rows).assign(run_id=self.run_id, **self.facts)
        return more if frame.empty else pd.concat([frame, more], ignore_index=True)
