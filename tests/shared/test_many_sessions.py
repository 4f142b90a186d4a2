"""Many browsers at one app: every session sees every page, and what one changes all others see."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks import homes
from benchmarks.pages import served
from benchmarks.room import PAGES, Session
from ema_core.files import of_folder
from ema_core.runs import origin_of, run_ids
from ema_core.settings import settings
from ema_core.shared import room

PEOPLE = 8


@pytest.mark.slow
def test_eight_sessions_at_once_see_every_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes.runs(home, 3, 20)
    monkeypatch.setenv("EMA_SHARED", "1")

    async def all_of_them(url: str) -> list[set[str]]:
        people = [Session(url) for _ in range(PEOPLE)]
        await asyncio.gather(*(one.enter() for one in people))
        titles = []
        for page in PAGES:
            await asyncio.gather(*(one.open(page) for one in people))
            assert not any(one.listening.done() for one in people), "a session was shown an exception, or was cut off"
            titles.append({one.title for one in people})
        await asyncio.gather(*(one.leave() for one in people))
        return titles

    with served(home) as (url, _):
        found = asyncio.run(all_of_them(url))
    assert found == [{title} for title in ("EMA Lab", "Learn", "Fine-tune", "Compare", "Samples", "Chat")]


def test_a_folder_is_read_again_only_after_a_name_changed(tmp_path: Path) -> None:
    looks = []

    def names(folder: Path) -> list[str]:
        looks.append(folder)
        return sorted(os.listdir(folder))

    (tmp_path / "one").mkdir()
    assert of_folder(tmp_path, names) == of_folder(tmp_path, names) == ["one"]
    assert len(looks) == 2, "just changed: it may change again within one tick of the clock, so nothing was kept"
    os.utime(tmp_path, ns=(0, 10**18))
    assert of_folder(tmp_path, names) == of_folder(tmp_path, names) == ["one"] and len(looks) == 3
    (tmp_path / "one").rename(tmp_path / "two")
    assert of_folder(tmp_path, names) == ["two"]
    with pytest.raises(FileNotFoundError):
        of_folder(tmp_path / "none", names)


def test_runs_and_hidden_ones_are_seen_although_listings_are_kept(home: Path) -> None:
    assert run_ids() == []
    homes.runs(home, 2, 5)
    old, new = run_ids()
    os.utime(settings().runs, ns=(0, 10**18))  # as if nothing had happened for long
    assert run_ids() == [old, new] and old not in room.hidden_ids()
    room.hide(old)
    assert room.hidden_ids() == {old}
    room.hide(old, hidden=False)
    assert not room.hidden_ids() and origin_of(old) == ("", "")


def test_a_relative_home_is_where_the_process_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_HOME", "lab")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert settings().home == (tmp_path / name / "lab").resolve()
