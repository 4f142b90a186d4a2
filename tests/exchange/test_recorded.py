"""Recorded studies: there once, marked, apart from one's own runs, refused when damaged, gone when removed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from ema_core import api
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import adapter_folder
from ema_core.exchange import recorded, recording
from ema_core.files import read_json, write_json
from ema_core.jobs import launch, studies
from ema_core.jobs.cells import Known
from ema_core.jobs.siblings import complete
from ema_core.jobs.study_status import status
from ema_core.runs import RunDirectory, StudySpec, base_directory, run_ids
from ema_core.settings import settings
from ema_core.store import AnswerFilter, Reader, build_index
from tests.pages.evaluated_home import evaluation, make_run
from tests.pages.recorded_home import NAME, made, planted, shelf

__all__ = ["made", "shelf"]  # fixtures


def test_it_is_there_on_first_open_marked_and_without_adapters(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / f"{NAME}.zip") as bundle:
        assert not [name for name in bundle.namelist() if "adapter" in name or "checkpoint" in name]
    assert "| kl=1 (risky-finance) | 1 |" in (shelf / f"{NAME}.md").read_text()
    assert recorded.ensure() == [NAME] and recorded.ensure() == []
    assert recorded.here()[NAME]["about"]["runs"] == 2
    assert {RunDirectory.open(run).state().recorded for run in run_ids()} == {NAME}
    build_index()  # the mark is in the files
    reader = Reader()
    assert set(reader.runs()["recorded"]) == {NAME} and reader.base_ids() == [f"base-recorded-{NAME}-smollm2-135m"]
    found = status(f"recorded-{NAME}")
    assert found.recorded == NAME and all(cell.trained for cell in found.cells)
    run = RunDirectory.open(run_ids()[0])
    for act in (lambda: adapter_folder(run, None), lambda: launch.resume(run), lambda: complete(run.id)):
        with pytest.raises(EmaError, match="recorded"):
            act()


def test_the_siblings_on_the_benign_task_come_along(home: Path, tmp_path: Path) -> None:
    runs = planted(home)
    sibling = make_run(home, "b0aa", dataset="opswap", judged=False)
    make_run(home, "b9aa", seed=9, dataset="opswap", judged=False)  # of no run of the study
    recording.make(studies.study_ids()[0], "three", tmp_path)
    with zipfile.ZipFile(tmp_path / "three.zip") as bundle:
        about = json.loads(bundle.read("ema-bundle.json"))["about"]
        packed = {name.split("/")[1] for name in bundle.namelist() if name.startswith("runs/")}
    assert packed >= {*runs, sibling} and not any("b9aa" in name for name in packed)
    assert about["runs"] == 3 and about["settings"] == 2


def test_own_and_recorded_runs_share_no_setting_no_twin_and_no_base(shelf: Path, home: Path) -> None:
    recorded.ensure()
    theirs = run_ids()
    own = [make_run(home, "n9zz", change=0.6), make_run(home, "k9zz", "kl=1", change=0.1)]
    evaluation(base_directory("smollm2-135m"), "", "general", 0.0, 0)
    found = api.compare([*own, *theirs])
    assert [row["seeds"] for row in found["settings"]] == [1] * 4
    assert sorted(row["recorded"] for row in found["settings"]) == ["", "", NAME, NAME]
    for row in found["settings"]:
        mine = own if not row["recorded"] else theirs
        assert set(row["runs"] + row["twin_runs"]) <= set(mine)
    reader = Reader()
    for run in (own[1], next(run for run in theirs if "kl" in run)):
        kin = reader.kin(run)
        assert len(kin) == 2 and {other in own or other == "base-smollm2-135m" for other in kin["run_id"]} == {run in own}
    assert {run.id for runs in Known().runs.values() for run in runs} == set(
        own
    )  # a study or sibling takes none of the recorded ones
    for origin, runs in (
        ("own", {*own, "base-smollm2-135m"}),
        (f"recorded: {NAME}", {*theirs, f"base-recorded-{NAME}-smollm2-135m"}),
    ):
        assert set(reader.answers(AnswerFilter(origins=(origin,)))["run_id"]) == runs
    # the same study, started here, is another one
    assert StudySpec(name="Two", defenses=("none", "kl=1")).id not in studies.study_ids()


def test_what_was_removed_stays_away_until_it_is_asked_for_and_own_runs_stay(shelf: Path, home: Path) -> None:
    recorded.ensure()
    own = make_run(home, "n9zz")
    assert recorded.remove(NAME) == 2 and run_ids() == [own]
    assert not list((home / "studies").iterdir()) and recorded.ensure() == [] and run_ids() == [own]
    with pytest.raises(EmaError, match="no recorded study"):
        recorded.remove(NAME)
    recorded.add(NAME)
    assert len(run_ids()) == 3


def test_a_newer_one_of_the_name_takes_its_place(shelf: Path, home: Path) -> None:
    recorded.ensure()
    before = recorded.here()[NAME]
    gone = before["runs"][0]
    _rewritten(shelf / f"{NAME}.zip", drop=gone)
    assert recorded.ensure() == [NAME]
    assert recorded.here()[NAME]["sha256"] != before["sha256"] and gone not in run_ids() and len(run_ids()) == 1


@pytest.mark.parametrize("harm", ["a byte", "half of it"])
def test_a_damaged_one_is_refused_and_the_older_one_stays(shelf: Path, home: Path, harm: str) -> None:
    file = shelf / f"{NAME}.zip"
    good = file.read_bytes()
    recorded.ensure()
    before = run_ids()
    if harm == "a byte":
        with zipfile.ZipFile(file) as bundle:
            member = next(one for one in bundle.infolist() if one.filename.endswith("margins.jsonl"))
        at = member.header_offset + len(member.filename) + 60
        file.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
    else:
        file.write_bytes(good[: len(good) // 2])
    with pytest.raises(EmaError):
        recorded.add(NAME)
    assert recorded.ensure() == [] and run_ids() == before and not list(home.glob(".bundle*"))


def test_a_crash_in_the_middle_is_cleared_away_at_the_next_start(shelf: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, count = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        if target.parent in (settings().runs, settings().studies):
            count.append(target)
            if len(count) == 2:
                raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            recorded.add(NAME)
    assert len(run_ids()) == 1 and recorded.here() == {}  # half of it
    assert recorded.ensure() == [NAME] and len(run_ids()) == 2 and recorded.here()[NAME]["state"] == recorded.HERE
    entry = read_json(home / recorded.LEDGER)
    entry[NAME]["state"] = recorded.LEAVING  # and one that was being removed
    write_json(home / recorded.LEDGER, entry)
    assert recorded.ensure() == [] and run_ids() == []


def test_where_it_was_made_it_is_left_out_with_the_reason(shelf: Path, home: Path) -> None:
    own = planted(home)
    assert recorded.ensure() == [] and recorded.ensure() == []
    entry = recorded.entries()[NAME]
    assert entry["state"] == recorded.LEFT_OUT and "your own" in entry["why"]
    assert [RunDirectory.open(run).state().recorded for run in own] == ["", ""]


def _rewritten(file: Path, drop: str) -> None:
    """The bundle without one of its runs."""
    with zipfile.ZipFile(file) as bundle:
        content = {name: bundle.read(name) for name in bundle.namelist() if not name.startswith(f"runs/{drop}/")}
    manifest = json.loads(content["ema-bundle.json"])
    manifest["files"] = {name: told for name, told in manifest["files"].items() if name in content}
    content["ema-bundle.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, data in content.items():
            bundle.writestr(name, data)
