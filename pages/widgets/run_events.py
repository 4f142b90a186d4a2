"""A run's events as they grow: only what is new is read, by byte offset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ema_core.runs import RunDirectory, steps

Event = dict[str, Any]


@dataclass
class RunEvents:
    """What was read of one run so far. ``steps`` holds each step once, in order; ``finish`` what defenses reported.

    ``table`` and ``penalties`` are the same as figures want it; ``facts`` are further columns of every row.
    """

    run_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    steps: list[Event] = field(default_factory=list)
    finish: list[Event] = field(default_factory=list)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    penalties: pd.DataFrame = field(default_factory=pd.DataFrame)

    def advance(self, run: RunDirectory) -> bool:
        """Read what was written since the last call; True if there was anything."""
        try:
            size = run.events_path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self.offset:  # not the file that was read
            self.offset, self.steps, self.finish = 0, [], []
        if size == self.offset:
            return False
        new, self.offset = run.events(self.offset)
        if any(event.get("kind") == "step" for event in new):
            self.steps = steps(self.steps + new)
            self._tables()
        self.finish += [event for event in new if event.get("kind") == "finish"]
        return bool(new)

    @property
    def last(self) -> Event:
        """The newest step's event, or an empty one."""
        return self.steps[-1] if self.steps else {}

    @property
    def defense_label(self) -> str:
        return str(self.facts.get("defense_label", ""))

    def _tables(self) -> None:
        self.table = pd.DataFrame(self.steps).drop(columns="penalties", errors="ignore").assign(run_id=self.run_id, **self.facts)
        rows = [
            {"step": event["step"], "defense": name, **values}
            for event in self.steps
            for name, values in event.get("penalties", {}).items()
        ]
        self.penalties = pd.DataFrame(rows).assign(run_id=self.run_id, **self.facts) if rows else pd.DataFrame()
