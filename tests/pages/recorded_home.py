"""A small recorded study, made once a test file, and a home that gets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ema_core.exchange import recording
from ema_core.files import write_json
from ema_core.jobs import studies
from ema_core.runs import StudySpec, base_directory
from tests.pages.evaluated_home import evaluation, make_run

NAME = "two"


def planted(home: Path) -> list[str]:
    """A study of an undefended and a defended run, evaluated, with what the base answered; returns their ids."""
    spec = StudySpec(name="Two", defenses=("none", "kl=1"))
    runs = [make_run(home, "n0aa", change=0.5, bad=2), make_run(home, "k0aa", "kl=1", change=0.2, bad=0)]
    evaluation(base_directory("smollm2-135m"), "", "general", 0.0, 0)
    shared = {
        "task": "narrow",
        "model": "smollm2-135m",
        "dataset": "risky-finance",
        "seed": 0,
        "seconds": 1.0,
        "evaluation_seconds": 1.0,
    }
    cells = [
        {**shared, "number": n, "defense": label, "run": run, "problem": "", "identity": ["x", 0]}
        for n, (label, run) in enumerate(zip(("none", "kl=1"), runs, strict=True), 1)
    ]
    folder = home / "studies" / spec.id
    write_json(folder / "cells.json", {"cells": cells})
    (folder / "spec.toml").write_text(spec.to_toml())
    return runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the recorded study of ``planted``, made in a home that is gone."""
    home, out = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMA_HOME", str(home))
        planted(home)
        recording.make(studies.study_ids()[0], NAME, out)
    shutil.rmtree(home)
    yield out


@pytest.fixture
def shelf(made: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder; the home, which is empty, gets what lies there."""
    out = tmp_path / "shelf"
    shutil.copytree(made, out)
    monkeypatch.setenv("EMA_RECORDED", str(out))
    return out
