"""A page opens without torch: nothing that a page needs imports it (DESIGN's list, by subprocess)."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import pages
from ema_core.settings import PROJECT

LIST = [
    "ema_core", "ema_core.api", "ema_core.settings", "ema_core.runs", "ema_core.models", "ema_core.models.catalog", "ema_core.datasets",
    "ema_core.datasets.formats", "ema_core.datasets.encoding", "ema_core.defenses", "ema_core.defenses.registry", "ema_core.defenses.kl",
    "ema_core.defenses.interleaving", "ema_core.training", "ema_core.training.estimate", "ema_core.generation", "ema_core.judging",
    "ema_core.evaluation.metrics", "ema_core.evaluation.scorecard", "ema_core.evaluation.suites", "ema_core.jobs", "ema_core.jobs.queue",
    "ema_core.jobs.launch", "ema_core.jobs.worker", "ema_core.jobs.cells", "ema_core.jobs.studies", "ema_core.jobs.study_status", "ema_core.jobs.siblings", "ema_core.store", "ema_core.store.answers", "ema_core.figures", "ema_core.cli.main",
    "ema_core.cli.samples", "ema_core.chats.broker", "ema_core.chats.keep", "ema_core.chats.judge", "ema_core.chats.log",
    "ema_core.chats.speed", "ema_core.chats.stream", "ema_core.chats.walk", "ema_core.chats.diverge", "ema_core.chats.export",
    "ema_core.chats.prompts", "ema_core.engine.divergence", "ema_core.cli.chats", "ema_core.generation", "ema_core.generation.engine", "ema_core.engine.names",
    "ema_core.personas", "ema_core.personas.build", "ema_core.personas.reading", "ema_core.defenses.persona_steering", "ema_core.jobs.persona",
    "ema_core.cli.persona", "ema_core.chats.monitor", "ema_core.engine.monitor", "ema_core.gap", "ema_core.evaluation.gap", "ema_core.cli.gap", "ema_core.cli.inside", "ema_core.defenses.panels", "ema_core.training.inside", "ema_core.engine.core", "ema_core.engine.server", "ema_core.engine.process",
]  # fmt: skip
PAGES = [name.name for name in pkgutil.walk_packages(pages.__path__, "pages.")]


@pytest.mark.parametrize("modules", [LIST, PAGES], ids=["engine", "pages"])
def test_importing_it_does_not_import_torch(modules: list[str]) -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
        "from ema_core.defenses.registry import all_defenses\n"
        "assert all_defenses() and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, cwd=PROJECT, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_page_holds_no_torch_no_sql_and_no_figure_code() -> None:
    import re

    for path in [PROJECT / "app.py", *(PROJECT / "pages").rglob("*.py")]:
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (torch|transformers|peft|duckdb|plotly\.)", text, re.M), path
        assert not re.search(r"\bSELECT\b.*\bFROM\b", text, re.S), path
