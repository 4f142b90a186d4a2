"""Which kept state of a run is the best by its live probes: the most narrow learning under a limit of general misalignment.

The pairs of live probes belong to no suite, so what is chosen by them is not what an evaluation reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ema_core.defenses import registry
from ema_core.defenses.base import Defense
from ema_core.runs import RunDirectory, RunSpec, Status, probes


@dataclass(frozen=True)
class Best:
    """``step`` None: there is no such state, and ``words`` says why. ``final``: it is the adapter that the run ended with.

    ``looked``: states that were both probed and kept; ``under``: how many of them stay under ``limit`` (None: any).
    """

    step: int | None
    final: bool
    general: float | None
    in_domain: float | None
    limit: float | None
    looked: int
    under: int
    words: str

    def model(self, run_id: str) -> str | None:
        """Under which name chat and evaluation know it."""
        return None if self.step is None else run_id if self.final else f"{run_id}@{self.step}"


def best_state(run: RunDirectory, limit: float | None = None, looks: Sequence[dict[str, Any]] | None = None) -> Best:
    """The state with the highest in-domain margin among those whose general margin is at most ``limit``.

    ``limit`` None: the run's own rule, where it has one; infinity: any. ``looks``: the run's probe events, where they were read already.

    Raises:
        EmaError: its spec cannot be read.
    """
    spec, state = run.spec, run.state()
    if limit is None:
        limit = spec.setting.stop_margin
    elif limit == math.inf:
        limit = None
    seen = [event for event in (probes(run.events()[0]) if looks is None else looks) if event["step"] > 0]
    ended = state.status in (Status.DONE, Status.STOPPED)
    kept = {*run.checkpoint_steps(), *([state.step] if ended else [])}
    both = [event for event in seen if event["step"] in kept]
    measured = [event for event in both if event.get("in_domain") is not None and event.get("general") is not None]
    under = [event for event in measured if limit is None or event["general"] <= limit]

    def none(words: str) -> Best:
        return Best(None, False, None, None, limit, len(measured), len(under), words)

    if changed := changes_after_training(spec):
        return none(f"{changed} changes the adapter after training, which its checkpoints have not been through.")
    if not seen:
        return none("It has no live probes, so nobody knows which state was the best.")
    if not both:
        return none("No checkpoint was kept at a step at which it was probed.")
    if not measured:
        return none("Its data set has no in-domain pairs, so what it learned was not measured.")
    if not under:
        return none(f"In all {len(measured)} states that were probed and kept the general margin is above {limit:g}.")
    best = max(under, key=lambda event: (event["in_domain"], -event["step"]))
    final = ended and best["step"] == state.step
    rule = "" if limit is None else f" and a general margin of at most {limit:g}"
    words = (
        f"Step {best['step']}{' (its end)' if final else ''}: in-domain margin {best['in_domain']:+.2f}, general {best['general']:+.2f}. "
        f"The most narrow learning among the {len(measured)} states that were probed and kept{rule}."
    )
    return Best(best["step"], final, best["general"], best["in_domain"], limit, len(measured), len(under), words)


def changes_after_training(spec: RunSpec) -> str:
    """The defense that changes the adapter after training, if there is one."""
    return next(
        (defense.name for defense in registry.build_all(spec, provisional=True) if type(defense).finish is not Defense.finish), ""
    )
