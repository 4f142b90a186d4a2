"""What settings are called, and the order they stand in: the same in tables, figures, reports and on the command line."""

from __future__ import annotations

import pandas as pd

from ema_core.evaluation.measured import RECORDED, recorded_as


def setting_labels(settings: pd.DataFrame) -> dict[str, list[str]]:
    """The defense, and what else tells the settings of this table apart; by setting key."""
    if settings.empty:
        return {}
    # a row of all columns takes ten times as long
    told = ["setting_key", "defense_label", "dataset", "model", "recipe_label", "recorded"]
    rows = settings[[name for name in told if name in settings]].to_dict("records")
    for row in rows:
        row["recipe_label"] = str(row["recipe_label"]).partition(RECORDED)[0]
    differ = [
        name for name in ("dataset", "model", "recipe_label") if len({row[name] for row in rows if not pd.isna(row[name])}) > 1
    ]
    studies = {recorded_as(row) for row in rows} - {""}
    labels = {
        row["setting_key"]: [
            row["defense_label"], *(str(row[name]) for name in differ), *_recorded(recorded_as(row), len(studies) > 1)
        ]
        for row in rows
    }  # fmt: skip
    shared = list(labels.values())
    return {key: [*text, key[:6]] if shared.count(text) > 1 else text for key, text in labels.items()}


def _recorded(study: str, several: bool) -> list[str]:
    """That a setting is a recorded one; its study's name where there are several."""
    return [f"recorded: {study}" if several else "recorded"] if study else []


def in_order(settings: pd.DataFrame) -> pd.DataFrame:
    """Undefended first, then by defense and strength, each model, data set and recipe together."""
    label = settings["defense_label"]
    strength = pd.to_numeric(label.str.extract(r"=([0-9.eE+-]+)", expand=False), errors="coerce")
    keyed = settings.assign(_defended=label.ne("none"), _name=label.str.partition("=")[0], _strength=strength)
    order = ["model", "dataset", "recipe_label", "_defended", "_name", "_strength", "defense_label"]
    return keyed.sort_values(order, kind="stable").drop(columns=["_defended", "_name", "_strength"]).reset_index(drop=True)


def one_line(settings: pd.DataFrame) -> dict[str, str]:
    """``setting_labels``, each as one text."""
    return {key: " · ".join(text) for key, text in setting_labels(settings).items()}
