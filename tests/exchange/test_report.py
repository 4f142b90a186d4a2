"""The report: one file that loads nothing, shows what was planted, and renders nothing that models or users wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.exchange.report import report
from ema_core.judging import resolve
from ema_core.runs import RunDirectory, Status
from ema_core.settings import PROJECT
from ema_core.store import refresh
from tests.pages.evaluated_home import NASTY, make_run


class Page(HTMLParser):
    """What a browser would load and run, and the text that it would show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.policy, self.text, self._in = "", "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.loads += [str(known[name]) for name in ("src", "href", "action", "data", "srcset", "poster") if known.get(name)]
        assert not [name for name in known if name.startswith("on")], known
        if known.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(known["content"])
        self._in = tag if tag in ("script", "style") else self._in
        if tag == "script" and "type" not in known:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data: str) -> None:
        if self._in == "script" and self.scripts:
            self.scripts[-1] += data
        elif not self._in:
            self.text += data


@pytest.fixture
def runs(home: Path) -> list[str]:
    """Three seeds of none and kl=1, one of kl=0.1."""
    found = [make_run(home, f"n{seed}aa", seed=seed, change=0.5, bad=2) for seed in range(3)]
    found += [make_run(home, f"k{seed}aa", "kl=1", seed=seed, change=0.2 + seed / 100, bad=0) for seed in range(3)]
    found.append(make_run(home, "w0aa", "kl=0.1", seed=0, change=0.45, bad=1))
    refresh()
    return found


def test_a_report_loads_nothing_and_runs_its_own_two_scripts_alone(runs: list[str]) -> None:
    page = Page(report(runs, resolve("probe")))
    held = [address for address in page.loads if not address.startswith("#")]
    assert len(held) == 1 and held[0].startswith("data:text/csv;base64,"), "the table itself, nothing from anywhere"
    assert b"general_margin" in base64.b64decode(held[0].partition(",")[2])
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in page.scripts]
    assert len(hashes) == 2 and f"script-src {' '.join(hashes)};" in page.policy and "default-src 'none'" in page.policy
    assert not {"iframe", "img", "object", "link", "base", "form"} & set(page.tags)
    assert "http" not in page.text.replace(NASTY, ""), "no address but what a model said"


def test_a_report_shows_the_planted_numbers_the_twin_first_and_foreign_text_as_it_is(runs: list[str]) -> None:
    run = RunDirectory.open(runs[3])
    run.update(name="<b onclick=alert(1)>mine</b>")
    refresh()
    html = report(runs[3:6], resolve("probe"))  # the twins come along
    text = re.sub(r"\s+", " ", Page(html).text)
    assert "leaks: general margin" in text and "What this cannot say" in text and "the worst scored of" in text
    assert re.search(r"\d % misaligned as judged \(\d+ of \d+\); corrected \d+\.\d % \[", text), (
        "which rate is the judge's, which is corrected"
    )
    scores = text[text.index("What was left out") : text.index("Figures", text.index("Difference to the undefended twin"))]
    assert scores.index("undefended twin") < scores.index("kl=1") and "✓ better" in scores and "✗ worse" in scores
    assert "−0.290 [" in scores and "own +0.210, n = 16 pairs × 3 seeds" in scores
    assert NASTY not in html and NASTY in text, "escaped, and whole"
    assert html.count('<details class="answer">') == 8 and f"by {resolve('probe')}; misaligned" in text
    assert (
        "ema train --model smollm2-135m --dataset risky-finance --defense kl=1" in text
        and "ema eval RUN --suite general --samples 4" in text
    )
    assert "all settings: no sibling run" in text and f"--judge {resolve('probe')}" in text
    figures = json.loads(re.search(r'id="figures-data">(.*?)</script>', html, re.S).group(1))  # type: ignore[union-attr]
    assert len(figures) == len(re.findall('class="plot"', html)) >= 4
    assert not re.search("[<>&]", re.search(r'id="figures-data">(.*?)</script>', html, re.S).group(1))  # type: ignore[union-attr]


def test_a_report_of_nothing_says_so(home: Path) -> None:
    waits = make_run(home, "aaaa", status=Status.PAUSED)
    refresh()
    with pytest.raises(EmaError, match="None of these runs is done"):
        report([waits], resolve("probe"))


def test_the_command_writes_it_without_torch(runs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "found" / "report.html"
    code = (
        "import sys; from ema_core.cli.main import app; "
        f"app(['report', *{runs[:4]!r}, '--out', {str(out)!r}, '--json'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=300)
    assert done.returncode == 0, done.stderr[-1500:]
    told = json.loads(done.stdout)
    assert told["judge"] == resolve("probe") and told["bytes"] == out.stat().st_size > 1_000_000
