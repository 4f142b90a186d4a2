"""What the documentation says: its examples run, its links lead somewhere, and its reference is what the code is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted([PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").rglob("*.md")])
EXAMPLE = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.S)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def examples() -> list[tuple[str, str, str]]:
    found = []
    for page in PAGES:
        for number, match in enumerate(EXAMPLE.finditer(page.read_text(encoding="utf-8")), start=1):
            found.append((f"{page.relative_to(PROJECT)}-{number}", *match.groups()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), [pytest.param(*rest, id=name) for name, *rest in examples()])
def test_an_example_does_what_it_says(language: str, code: str, home: Path, tmp_path: Path) -> None:
    words = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=400, env={**os.environ, **paths})
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip() and "Traceback" not in done.stderr


def test_there_are_examples_in_the_how_tos_and_the_tutorial() -> None:
    names = {name.rpartition("-")[0] for name, *_ in examples()}
    assert {f"docs/how-to/own-{one}.md" for one in ("data", "model", "defense", "judge")} | {"docs/tutorial.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, missing


def test_the_reference_is_what_the_code_is() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_defense_has_a_page_with_formula_price_and_evidence() -> None:
    from ema_core.defenses.registry import all_defenses

    for name in (name for name, kind in all_defenses().items() if kind.__module__.startswith("ema_core.")):
        text = (PROJECT / "docs" / "defenses" / f"{name}.md").read_text(encoding="utf-8")
        assert all(f"## {part}" in text for part in ("Facts", "Its price", "The evidence", "What to look at")), name
