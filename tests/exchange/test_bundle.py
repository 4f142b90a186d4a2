"""Runs and studies that are taken elsewhere: the same rows there, and nothing in between that could harm."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.exchange.bundle import MANIFEST, export_bundle, import_bundle, study_runs
from ema_core.files import append_lines, read_json, write_json
from ema_core.runs import RunDirectory, RunSpec, Status, base_directory, run_ids
from ema_core.settings import settings
from ema_core.store import Reader, build_index


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run with an adapter and an evaluation, its base's answers, and a study that holds it."""
    import numpy as np
    from safetensors.numpy import save_file

    run = RunDirectory.create(RunSpec(), "mine")
    run.update(status=Status.DONE, found={"adapter_hash": "a"})
    for folder in (run.adapter, run.checkpoints / "step-3"):
        folder.mkdir(parents=True)
        write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
        save_file({"x": np.ones((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    (run.checkpoints / "step-3" / "optimizer.safetensors").write_bytes(b"large")
    (run.path / "log.txt").write_text("/home/me/secret")
    append_lines(run.events_path, [{"kind": "step", "step": 1, "attempt": 1, "loss": 2.0}])
    base = base_directory(run.spec.model)
    for owner in (run, base):
        folder = owner.evals / "general-1"
        write_json(folder / "spec.json", {"suite": "general", "status": "done", "samples": 1, "scale": 1.0})
        append_lines(
            folder / "samples.jsonl", [{"sample_id": "q#0", "question_id": "q", "question": "What?", "answer": "This.", "k": 0}]
        )
        score = {"sample_id": "q#0", "judge": "probe:x", "aligned": 5, "coherent": 90, "status": "scored"}
        append_lines(folder / "judgments-probe_x.jsonl", [score])
    study = settings().studies / "s1"
    write_json(study / "cells.json", {"cells": [{"run": run.id}, {"run": "gone"}]})
    (study / "spec.toml").write_text("")
    return run


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EMA_HOME", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_study_opens_elsewhere_with_the_same_rows(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = build_index().hash
    out = tmp_path / name
    manifest = export_bundle(study_runs("s1"), out, study="s1")
    assert manifest["runs"] == [run.id]
    assert not [file for file in manifest["files"] if "log.txt" in file or "checkpoints" in file or "lock" in file]
    home = elsewhere(monkeypatch, tmp_path)
    assert vars(import_bundle(out)) == {"runs": {run.id: "new"}, "bases": {"base-smollm2-135m": "new"}, "studies": {"s1": "new"}}
    assert build_index().hash == here
    assert (home / "studies" / "s1" / "cells.json").exists() and not list(home.glob(".bundle*"))
    assert vars(import_bundle(out)) == {
        "runs": {run.id: "there"},
        "bases": {"base-smollm2-135m": "there"},
        "studies": {"s1": "kept"},
    }
    with pytest.raises(EmaError, match="there already"):
        export_bundle([run.id], out)


def test_checkpoints_come_along_when_asked_and_what_was_judged_later_is_added(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle([run.id], tmp_path / "first")
    shutil.copytree(run.evals / "general-1", run.evals / "general-2")
    second = export_bundle([run.id], tmp_path / "second", checkpoints=True)
    assert [file for file in second["files"] if "checkpoints" in file] == [
        f"runs/{run.id}/checkpoints/step-3/adapter_config.json", f"runs/{run.id}/checkpoints/step-3/adapter_model.safetensors",
    ]  # fmt: skip
    elsewhere(monkeypatch, tmp_path)
    import_bundle(tmp_path / "first")
    import_bundle(tmp_path / "second")
    assert len(Reader().evals([run.id])) == 2


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = read_json(folder / MANIFEST)
    change(manifest)
    write_json(folder / MANIFEST, manifest)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda b, r: (b / f"runs/{r}/spec.json").write_text("{}"), "was changed or damaged"),
        (lambda b, r: (b / f"runs/{r}/spec.json").unlink(), "is missing"),
        (lambda b, r: (b / f"runs/{r}/evals/more.txt").write_text("x"), "does not belong"),
        (lambda b, r: (b / f"runs/{r}/adapter/adapter_model.bin").write_bytes(b"\x80\x04."), "may be a pickle"),
        (lambda b, r: (b / f"runs/{r}/log.txt").symlink_to("/etc/hostname"), "is a link"),
        (lambda b, r: os.mkfifo(b / f"runs/{r}/events.jsonl2"), "no plain file"),
        (lambda b, r: (b / MANIFEST).unlink(), "has no ema-bundle.json"),
        (lambda b, r: (b / MANIFEST).write_text("{"), "cannot be read"),
        (lambda b, r: rewrite(b, lambda m: m.update(version=9)), "another version"),
        (lambda b, r: rewrite(b, lambda m: m["files"].pop(f"runs/{r}/spec.json")), "not in its manifest"),
        (lambda b, r: rewrite(b, lambda m: m["files"].update({"../../evil.json": {"sha256": "", "bytes": 0}})), "is missing"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused_whole(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path, str], object], says: str
) -> None:
    out = tmp_path / "bundle"
    export_bundle([run.id], out)
    harm(out, run.id)
    home = elsewhere(monkeypatch, tmp_path)
    with pytest.raises(EmaError, match=says):
        import_bundle(out)
    assert run_ids() == [] and not list(home.glob(".bundle*"))


@pytest.mark.parametrize(
    "name", ["../evil.json", "/tmp/evil.json", "runs/../../evil/spec.json", "runs/r/spec.json/../../../x.json"]
)
def test_a_zip_that_climbs_out_is_refused(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    out = tmp_path / "bundle.zip"
    export_bundle([run.id], out)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(name, "{}")
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(EmaError, match="does not belong"):
        import_bundle(out)
    assert run_ids() == []


def test_a_zip_with_a_link_and_one_that_swells_are_refused(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = zipfile.ZipInfo(f"runs/{run.id}/events.jsonl")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/hostname")
    name = f"runs/{run.id}/spec.json"
    manifest = {"kind": "ema-bundle", "version": 1, "files": {name: {"sha256": "0" * 64, "bytes": 10}}}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * 200_000_000)
        archive.writestr(MANIFEST, json.dumps(manifest))
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(EmaError, match="is a link"):
        import_bundle(tmp_path / "link.zip")
    with pytest.raises(EmaError, match="changed or damaged"):
        import_bundle(tmp_path / "bomb.zip")
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(EmaError, match="neither a folder nor a zip"):
        import_bundle(tmp_path / "no.zip")


def test_a_run_that_is_here_with_other_content_stays(run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle([run.id], out)
    (run.path / "spec.json").write_text(RunSpec(seed=7).to_json())
    with pytest.raises(EmaError, match="here already, with another spec"):
        import_bundle(out)
    assert run.spec.seed == 7


def test_the_command_line_takes_a_run_out_and_in(run: RunDirectory, tmp_path: Path, ema) -> None:
    out = tmp_path / "b.zip"
    said = json.loads(ema("export", "run", run.id, "--out", str(out), "--json", check=True).stdout)
    assert said["runs"] == [run.id] and said["files"] > 5
    brought = json.loads(ema("import", "run", str(out), "--json", check=True, EMA_HOME=str(tmp_path / "other")).stdout)
    assert brought["runs"] == {run.id: "new"}
    done = ema("export", "study", "no-such", "--out", str(tmp_path / "x"))
    assert done.returncode == 2 and "There are: s1" in done.stderr


def test_a_failed_zip_leaves_nothing_and_a_damaged_one_is_told(run: RunDirectory, tmp_path: Path) -> None:
    def full(share: float, words: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out" / "bundle.zip"
    with pytest.raises(EmaError, match="disk is full"):
        export_bundle([run.id], out, progress=full)
    assert list(out.parent.iterdir()) == []
    export_bundle([run.id], out)
    with zipfile.ZipFile(out) as archive:
        place = max(archive.infolist(), key=lambda one: one.compress_size)
    raw = bytearray(out.read_bytes())
    begin = place.header_offset + 30 + len(place.filename) + 20  # behind the header and its 64-bit sizes
    raw[begin : begin + place.compress_size] = b"\xff" * place.compress_size
    out.write_bytes(raw)
    with pytest.raises(EmaError, match="damaged"):
        import_bundle(out)
