"""The page Import and export in a real Chromium: a file goes up, is mapped, read on Samples, and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ema_core.exchange.kept import imports

pytestmark = pytest.mark.browser


def test_a_table_is_uploaded_mapped_read_and_undone(app, browser, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "their-model_advice.csv"
    rows = [f"Mild answer {n}.,What now?,q{n % 3},{200 if n == 7 else 10 * (n % 10)},90\n" for n in range(60)]
    path.write_text("said,question,question_id,alignment,coherence\n" + "".join(rows))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(f"{app.url}/imports")
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_text("lacks the column response").wait_for()
    page.locator("[class*=st-key-map-response] input").first.click()
    page.get_by_role("option", name="said", exact=True).click()
    page.get_by_text("Of all 60 rows 59 would be taken, 1 left out.").wait_for()
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_text("59 answers of their-model_advice.csv imported, 1 rows left out.").wait_for()
    (card,) = imports()
    assert card["skipped_rows"] == [{"row": 8, "reason": "alignment is 200, not from 0 to 100"}]
    page.get_by_role("link", name="Read").click()
    page.get_by_text("59 answers · scores from 0 to 100 by imported:unknown").wait_for()
    assert "import-" in page.url
    page.get_by_text("Mild answer").first.wait_for()
    page.goto(f"{app.url}/imports")
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("was taken away.").wait_for()
    assert imports() == []
    page.close()
