"""What a run is doing, and what was asked of it meanwhile."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Not written by anyone: a run that says it is running while nobody holds its lock."""

    @property
    def active(self) -> bool:
        return self in (Status.QUEUED, Status.RUNNING)

    @property
    def resumable(self) -> bool:
        return self in (Status.PAUSED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED)


class RunState(BaseModel):
    """``state.json``: written by whoever holds the run's lock."""

    model_config = ConfigDict(frozen=True)  # many hold the same one

    status: Status = Status.QUEUED
    attempt: int = 0
    step: int = 0
    total_steps: int | None = None
    activity: str = ""
    error: str = ""
    hint: str = ""
    created: float = 0.0
    started: float | None = None
    updated: float = 0.0
    finished: float | None = None
    seconds: float = 0.0
    probe_seconds: float = 0.0
    """Of ``seconds``, those that live probes took."""
    peak_memory: int = 0
    """Bytes that training took at most: of its process, or of torch's allocator on a GPU. 0: not measured."""
    estimated: dict[str, float] = Field(default_factory=dict)
    """``seconds`` and ``memory`` as they were estimated when the run began."""
    name: str = ""
    recorded: str = ""
    """The recorded study that it came with (``exchange.recorded``); empty for a run of the user's own."""
    owner: str = ""
    """Whose it is in a shared room; "": nobody's in particular. Set when it is made."""
    notes: list[str] = Field(default_factory=list)
    found: dict[str, Any] = Field(default_factory=dict)
    """Hashes of data, weights and adapter, package versions, threads, device: what the numbers depend on."""
