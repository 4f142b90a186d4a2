"""Which strength of a defense to take: chosen on half of the pairs, reported on the other half."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from ema_core.evaluation.measured import BENIGN_TASK, Frames, Seeds, Study, difference, over
from ema_core.evaluation.metrics import Estimate
from ema_core.evaluation.scorecard import benign_of_runs, measured_of

KEEP = 0.9
"""Share of the undefended narrow and benign learning that is to be kept, unless the user says otherwise."""


@dataclass(frozen=True)
class Recommendation:
    """``strength`` None: none does, and ``why`` says for what reason. Estimates are of the half that did not choose.

    ``candidates`` is a row a strength, of the choosing half: ``strength, setting_key, general, narrow_kept, benign_kept, keeps``.
    """

    defense: str
    keep: float
    strength: float | None
    setting_key: str | None
    why: str
    general: Estimate | None
    general_undefended: Estimate | None
    narrow_kept: float | None
    benign_kept: float | None
    notes: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...]

    @property
    def words(self) -> str:
        """What to take, or why nothing, with the numbers of the half that did not choose."""
        if self.strength is None or self.general is None or self.general.value is None:
            return f"no strength; {self.why}."
        found, base = self.general, self.general_undefended
        against = f" (undefended {with_interval(base)})" if base and base.value is not None else ""
        kept = [
            f"{share:.0%} of the {name} learning kept"
            for name, share in (("narrow", self.narrow_kept), ("benign", self.benign_kept))
            if share is not None
        ]
        seeds = f"{found.seeds} seed{'' if found.seeds == 1 else 's'}"
        return (
            f"strength {self.strength:g}. General margin {with_interval(found)}{against}, on {found.n // max(1, found.seeds)} pairs × {seeds}; "
            f"{', '.join(kept) or 'how much of the learning it keeps was not measured'}. One half of the pairs chose this strength; these numbers "
            "are of the other half, which the pairs counted here are (margin, no judge)."
        )

    def json(self) -> dict[str, Any]:
        return asdict(self)


def with_interval(found: Estimate) -> str:
    """``+0.034 [−0.095, +0.163]``."""
    if found.value is None:
        return "not measured"
    span = "" if found.low is None or found.high is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.value:+.3f}{span or ' (no interval)'}".replace("-", "−")


def recommend(frames: Frames, defense: str, setting_keys: Any = None, keep: float = KEEP) -> Recommendation:
    """The strength of ``defense`` with the lowest general margin that keeps at least ``keep`` of what the undefended twin
    learned of the narrow behaviour, and of the benign task where that was measured.

    ``frames`` are of one model, data set and recipe; ``setting_keys`` bounds them further. No judge is read: all three are margins.
    """
    study = Study(frames, "")
    runs = study.runs[study.runs["dataset"].ne(BENIGN_TASK)]
    plain = runs[runs["defense_label"].eq("none")]
    own = runs[runs["defense_label"].map(lambda label: alone(label) == defense)]
    if setting_keys is not None:
        own = own[own["setting_key"].isin(setting_keys)]
    twin = _halves(study, plain)
    rows: list[dict[str, Any]] = []
    found: dict[float, dict[str, dict[str, Seeds]]] = {}
    for key, group in own.groupby("setting_key", sort=False):
        halves = _halves(study, group)
        strength = float(str(group["defense_label"].iloc[0]).split(":")[0].rpartition("=")[2])
        general = over(halves["choose"]["general"], "change").value
        row = {"strength": strength, "setting_key": str(key), "label": group["defense_label"].iloc[0], "general": general}
        for name in ("narrow", "benign"):
            row[f"{name}_kept"] = _kept(halves["choose"][name], twin["choose"][name])
        row["keeps"] = (
            row["narrow_kept"] is not None
            and row["narrow_kept"] >= keep
            and (row["benign_kept"] is None or row["benign_kept"] >= keep)
        )
        rows.append(row)
        found[strength] = halves
    rows.sort(key=lambda row: row["strength"])
    return _chosen(defense, keep, rows, found, twin)


def _chosen(
    defense: str, keep: float, rows: list[dict[str, Any]], found: Mapping[float, dict[str, dict[str, Seeds]]], twin: Any
) -> Recommendation:
    notes = []
    measured = [row for row in rows if row["general"] is not None and row["strength"] > 0]
    base = over(twin["choose"]["general"], "change").value
    if measured and all(row["benign_kept"] is None for row in measured):
        notes.append("the benign task was not measured, or not learned by the undefended twin, so it was no condition")
    empty = Recommendation(
        defense, keep, None, None, "", None, over(twin["report"]["general"], "change"), None, None, tuple(notes), tuple(rows)
    )
    if base is None:
        return replace(empty, why="the undefended twin was not measured on general and in-domain pairs")
    if not measured:
        return replace(empty, why=f"no run with {defense} was measured on general pairs")
    learned = over(twin["whole"]["narrow"], "change")
    if learned.value is not None and (learned.value <= 0 or (learned.low is not None and learned.low <= 0)):
        why = f"the undefended twin's narrow margin is {with_interval(learned)}, around or below 0: nothing certain was learned that a strength could keep"
        why += "; and only one strength was tried" if len(measured) == 1 else ""
        return replace(empty, why=why)
    keeps = [row for row in measured if row["keeps"]]
    if not keeps:
        alone = " (only one was tried)" if len(measured) == 1 else ""
        return replace(empty, why=f"no measured strength keeps {keep:.0%} of what the undefended twin learned{alone}")
    if len(measured) == 1:
        why = f"only one strength was tried, {measured[0]['strength']:g}, so there is nothing to choose among; train the recipe with a second one"
        return replace(empty, why=why)
    best = min(keeps, key=lambda row: row["general"])
    if best["general"] >= base:
        return replace(empty, why="none of the strengths that keep enough is less misaligned than the undefended twin")
    report = found[best["strength"]]["report"]
    general = over(report["general"], "change")
    gap = difference(report["general"], twin["report"]["general"], "pair_id", "change")
    if gap.value is None or gap.high is None or gap.high >= 0:
        why = (
            f"none lowers the general margin for certain: the best on the choosing half, {best['strength']:g}, differs from the undefended twin by "
            f"{with_interval(gap) if gap.value is not None else gap.why} on the other half"
        )
        return replace(empty, why=why)
    if general.seeds < 3:
        notes.append("fewer than three seeds: it speaks of these adapters only")
    kept = {name: _kept(report[name], twin["report"][name]) for name in ("narrow", "benign")}
    for name, share in kept.items():
        if share is not None and share < keep:
            notes.append(f"on the half that did not choose, it keeps {share:.0%} of the {name} learning")
    return replace(
        empty, strength=best["strength"], setting_key=best["setting_key"], general=general, narrow_kept=kept["narrow"],
        benign_kept=kept["benign"], notes=tuple(notes),
    )  # fmt: skip


def _halves(study: Study, runs: pd.DataFrame) -> dict[str, dict[str, Seeds]]:
    """The pairs of each criterion: the half that chooses, the half that reports, and all of them."""
    own = measured_of(study, study.seeds(runs))
    whole = {"general": own["general"], "narrow": own["in-domain"], "benign": benign_of_runs(study, runs)[1]}
    halves = {half: {name: _half(seeds, half == "choose") for name, seeds in whole.items()} for half in ("choose", "report")}
    return halves | {"whole": whole}


def _half(seeds: Seeds, first: bool) -> Seeds:
    parts = {}
    for seed, part in seeds.parts.items():
        mine = part.rows["pair_id"].map(_is_first).eq(first)
        parts[seed] = replace(part, rows=part.rows[mine])
    return Seeds(parts, seeds.why)


def _is_first(pair_id: str) -> bool:
    return hashlib.sha256(str(pair_id).encode()).digest()[0] % 2 == 0


def _kept(own: Seeds, twin: Seeds) -> float | None:
    """Mean change as a share of the twin's, over the seeds that both have; None where the twin learned nothing."""
    both = [seed for seed in own.parts if seed in twin.parts]
    if not both:
        return None
    mine, its = (sum(float(side.parts[seed].rows["change"].mean()) for seed in both) / len(both) for side in (own, twin))
    return mine / its if its > 0 else None


def alone(label: str) -> str:
    """The defense of a setting that has one alone, without its strength; its options stay."""
    if label == "none" or " + " in label:
        return ""
    name, _, tail = label.partition("=")
    options = tail.partition(":")[2]
    return f"{name}:{options}" if options else name
