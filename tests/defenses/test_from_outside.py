"""A defense of somebody else's package: one file and an entry point, and it is everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ema_core.settings import PROJECT
from tests.training.tiny import add_tiny

pytestmark = pytest.mark.slow
FILE = """
from ema_core.defenses.base import Cost, Defense, Strength
from ema_core.defenses.registry import register


@register
class Calm(Defense):
    name, title, reference = "calm", "Small hidden states", "a test"
    summary, fails = "Pulls the final states to zero.", "Blunt: the narrow task suffers, too."
    cost = Cost(time="Next to none.", memory="None.")
    strength_info = Strength(
        meaning="weight of the mean square", default=0.1, paper=None, grid=(0.01, 0.1, 1.0), low=0.01, high=1.0, limit=100, scale="log"
    )

    def penalty(self, step):
        return step.hidden.float().pow(2).mean()
"""
IN_THE_APP = """
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file(sys.argv[1], default_timeout=120)
app.switch_page("pages/fine_tune.py").run()
assert not app.exception, app.exception
(choice,) = [box for box in app.multiselect if box.key == "form-defenses"]
assert "Small hidden states" in choice.options, choice.options
choice.set_value(["calm"]).run()
assert not app.exception, app.exception
assert any("Small hidden states" in mark.value for mark in app.markdown)
assert any("--defense calm=0.1" in code.value for code in app.code)
assert "torch" not in sys.modules
"""


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the package is installed, as far as Python can tell."""
    (tmp_path / "calm_package.py").write_text(FILE)
    about = tmp_path / "calm_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: calm-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ema.defenses]\ncalm = calm_package\n")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"}


def python(*words: str, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=PROJECT, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_it_is_listed_offered_in_the_app_and_trains(outside: dict[str, str], home: Path) -> None:
    ema = ("-m", "ema_core.cli.main")
    listed = {row["name"]: row for row in json.loads(python(*ema, "defenses", "--json", env=outside))["defenses"]}
    assert {"calm", "kl", "kl-safe", "ldifs", "inoculation"} <= set(listed)
    assert listed["calm"]["cost"] == {"time": "Next to none.", "memory": "None.", "assets": "none"}
    python("-c", IN_THE_APP, str(PROJECT / "app.py"), env=outside)
    add_tiny(home)
    words = ["--dataset", "tiny", "--steps", "2", "--batch-size", "2", "--rank", "4", "--defense", "calm=0.1", "--json"]
    result = json.loads(python(*ema, "train", *words, env=outside))
    assert result["state"] == "done" and result["penalties"]["calm"]["raw"] > 0, result


def test_one_that_cannot_be_imported_is_named(outside: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "calm_package.py").write_text("import a_module_that_is_not_there\n")
    done = subprocess.run(
        [sys.executable, "-m", "ema_core.cli.main", "defenses"], capture_output=True, text=True, cwd=PROJECT, env=outside
    )
    assert done.returncode == 2 and "calm_package" in done.stderr and "a_module_that_is_not_there" in done.stderr
    assert "Traceback" not in done.stderr
