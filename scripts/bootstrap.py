"""Prepare this folder for EMA Lab; the Makefile calls it, any Python from 3.11 on runs it, nothing need be installed.

    python3 scripts/bootstrap.py [model] [dev] [chromium] [peers]     packages, and what is named
    python3 scripts/bootstrap.py clean                        remove .venv and caches

A stage leaves a stamp in .venv with a hash of what it depends on and is skipped while that stays the same.
The syntax keeps to what old Pythons parse, so that they get the sentence below and not a SyntaxError.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036
    found = "{}.{}".format(*sys.version_info[:2])
    sys.exit(f"EMA Lab needs Python 3.11 or newer; {sys.executable} is {found}. Name a newer one: make setup PYTHON=python3.12")

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WHEELS = Path(os.environ.get("EMA_WHEELS") or ROOT / "wheels")  # of an offline bundle (ema bundle)
PEERS = ROOT / ".venv-bench"
MODEL = "smollm2-135m"
CACHES = (".venv", ".venv-bench", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".import_linter_cache", "ema_lab.egg-info")


class Failed(Exception):
    """A stage could not be done; the message is for the user."""


def say(text: str) -> None:
    print(text, flush=True)


# --- running things -----------------------------------------------------------------------------------------------


def output_of(*command: str) -> str:
    """What ``command`` prints, or nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def quietly(log: Path, *command: str) -> bool:
    """Run ``command`` with its output added to ``log``; a line of life on the screen while it lasts."""
    start = shown = time.monotonic()
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        while True:
            try:
                return process.wait(timeout=1) == 0
            except subprocess.TimeoutExpired:
                if time.monotonic() - shown > 15:
                    shown = time.monotonic()
                    say(f"    {shown - start:3.0f} s  {last_line(log)[:100]}")
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def is_done(name: str, key: str) -> bool:
    stamp = VENV / f".setup-{name}"
    return stamp.is_file() and stamp.read_text() == key


def stage(name: str, title: str, key: str, *attempts: list) -> None:
    """Do a stage by the first of ``attempts`` that works, unless its stamp says that it is done."""
    stamp, log = VENV / f".setup-{name}", VENV / f".setup-{name}.log"
    if is_done(name, key):
        return
    stamp.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    say(f"==> {title}")
    start = time.monotonic()
    for attempt in attempts:
        if quietly(log, *attempt):
            stamp.write_text(key)
            say(f"    done in {time.monotonic() - start:.0f} s")
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    raise Failed(f"{tail}\n\nThis did not work: {title}. The lines above say why; all of them: {log}")


def key_of(*parts: object) -> str:
    """A hash over texts and the contents of files."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        whole.update(b"\0")
    return whole.hexdigest()


@contextlib.contextmanager
def one_at_a_time():
    """Keep two set-ups in this folder from working on it at once."""
    try:
        import fcntl
    except ImportError:
        raise Failed("EMA Lab runs on Linux and macOS; on Windows use WSL.") from None
    with (ROOT / ".setup-stamp.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("==> another set-up is at work in this folder; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- stages -------------------------------------------------------------------------------------------------------


def virtual_environment() -> str:
    """Make ``.venv``, or keep it if it works and was made for this place; its Python's version."""
    ask = (str(PYTHON), "-c", "import pip, sys; print(sys.version_info >= (3, 11), sys.version.split()[0])")
    works, _, version = output_of(*ask).partition(" ")
    made_for = VENV / ".setup-place"
    if works != "True" or (made_for.is_file() and made_for.read_text() != str(ROOT)):
        say(f"==> virtual environment .venv (Python {platform.python_version()})")
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{done.stdout}{done.stderr}\n.venv could not be made (on Debian it needs: apt install python3-venv).")
        version = platform.python_version()
    if not made_for.is_file():
        made_for.write_text(str(ROOT))
    return version


def installed_torch() -> str:
    return output_of(str(PYTHON), "-c", "from importlib.metadata import version; print(version('torch'))")


def torch_attempts(pin: str, gpu: bool, installed: str) -> tuple:
    """The title of the torch stage and its commands, best first.

    ``===`` means exactly this text: plain ``2.13.0`` is the CUDA build on Linux, and ``==`` would also take ``+cpu``.
    """
    if offline():
        return f"PyTorch {pin} from {WHEELS}", [[*PIP, f"torch=={pin}"]]
    plain, exact, cpu = [*PIP, f"torch=={pin}"], [*PIP, f"torch==={pin}"], [*PIP, f"torch=={pin}+cpu"]
    if installed.split("+")[0] == pin and not (gpu and installed.endswith("+cpu")):
        return f"PyTorch {installed}", [plain]  # a build that does; never taken away, it may have been chosen by hand
    if gpu:
        return f"PyTorch {pin} for the NVIDIA GPU (some 3 GB)", [exact, plain]
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        there = [*cpu, "--extra-index-url", CPU_INDEX, "--retries", "1", "--timeout", "20"]
        return f"PyTorch {pin}, CPU build (some 200 MB)", [cpu, there, plain]
    return f"PyTorch {pin}", [plain]


def offline() -> bool:
    """Do the packages lie beside us, so that no index is asked?"""
    return any(WHEELS.glob("*.whl"))


def use_wheels() -> None:
    """Set pip to the packages of an offline bundle, after they were held against its list.

    A copy that lost something on its way, or is for another Python, is found out before anything is installed.
    """
    os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=WHEELS.resolve().as_uri())
    card = WHEELS / "bundle.json"
    if not card.is_file():
        return  # a folder of wheels that somebody put together by hand
    told = json.loads(card.read_text())
    here = "{}.{}".format(*sys.version_info[:2]), platform.system().lower(), platform.machine()
    if here != (told["python"], told["system"], told["machine"]):
        for_, is_ = (f"Python {one[0]} on {one[1]}, {one[2]}" for one in ((told["python"], told["system"], told["machine"]), here))
        raise Failed(
            f"The packages in {WHEELS} are for {for_}; this is {is_}. Name the other Python: make app PYTHON=python{told['python']}"
        )
    key = key_of(card)
    if is_done("wheels", key):
        return
    say(f"==> {len(told['files'])} packages in {WHEELS}: are they whole?")
    for name, file in told["files"].items():
        path = WHEELS / name
        if not path.is_file() or path.stat().st_size != file["bytes"] or sha256_of(path) != file["sha256"]:
            raise Failed(f"{path} is {'damaged' if path.exists() else 'missing'}. Copy the bundle again.")
    VENV.mkdir(exist_ok=True)
    (VENV / ".setup-wheels").write_text(key)


def sha256_of(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def packages() -> str:
    """Everything that the app needs, but for the model; the key that later stages build on."""
    version = virtual_environment()
    requirements = ROOT / "requirements.txt"
    pin = next(line[7:] for line in requirements.read_text().split() if line.startswith("torch=="))
    gpu = "GPU" in output_of("nvidia-smi", "-L")
    key = key_of(version, pin, gpu)
    if not is_done("torch", key):
        title, attempts = torch_attempts(pin, gpu, installed_torch())
        stage("torch", title, key, *attempts)
        if gpu and installed_torch().endswith("+cpu"):
            say("    Only the CPU build could be had: the GPU will not be used.")
    key = key_of(key, requirements)
    stage("packages", "packages of requirements.txt", key, [*PIP, "-r", str(requirements)])
    stage("project", "the ema command", key_of(key, ROOT / "pyproject.toml"), [*PIP, "--no-deps", "-e", str(ROOT)])
    return key


def development(key: str) -> None:
    file = ROOT / "requirements-dev.txt"
    command = [*PIP, "-r", str(file), "-c", str(ROOT / "requirements.txt")]
    stage("dev", "packages of requirements-dev.txt", key_of(key, file), command)


def model() -> None:
    """The embedded model; ``ema`` itself checks the hash, shows progress and goes on where it stopped."""
    if subprocess.call([str(VENV / "bin" / "ema"), "model", "fetch", MODEL], cwd=ROOT):
        raise Failed(f"The model {MODEL} could not be prepared. The lines above say why; .venv/bin/ema doctor says more.")


def find_chromium() -> str:
    """A Chromium that starts: the system's, else Playwright's own."""
    ask = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and output_of(path, "--version"):
            return path
    path = output_of(str(PYTHON), "-c", ask)
    return path if path and output_of(path, "--version") else ""


def chromium() -> None:
    """Find or fetch the browser of the browser tests; without one they skip, and fail where ``CI`` is set."""
    log, path = VENV / ".setup-chromium.log", find_chromium()
    if not path:
        log.unlink(missing_ok=True)
        say("==> Chromium for the browser tests, from Playwright")
        quietly(log, str(PYTHON), "-m", "playwright", "install", "chromium")
        path = find_chromium()
    root = os.geteuid() == 0
    if not path and (root or os.environ.get("CI")) and shutil.which("apt-get"):
        say("==> Chromium for the browser tests, from the system's packages")
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        apt = ["apt-get"] if root else ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]
        if shutil.which(apt[0]) and quietly(log, *apt, "update"):
            quietly(log, *apt, "install", "-y", "chromium")
        path = find_chromium()
    if path:
        return say(f"==> browser for the tests: {path}")
    fate = "FAIL, since CI is set" if os.environ.get("CI") else "SKIP"
    say("!" * 80)
    say(f"!! No Chromium: the browser tests will {fate}.")
    say("!! Install one (apt install chromium, or Google Chrome), then run this again.")
    say(f"!! The last attempt ended with: {last_line(log)[:200]}")
    say("!" * 80)


def peers(key: str) -> None:
    """What the benchmarks compare with, in ``.venv-bench``, which sees the packages of ``.venv``: both sides use the same torch."""
    file, python = ROOT / "benchmarks" / "requirements-peers.txt", PEERS / "bin" / "python"
    key = key_of(key, file)
    if is_done("peers", key) and output_of(str(python), "-c", "import trl; print(trl.__version__)"):
        return
    (VENV / ".setup-peers").unlink(missing_ok=True)
    output_of(str(PYTHON), "-m", "venv", "--clear", str(PEERS))
    ask = ("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    own, shared = output_of(str(python), *ask), output_of(str(PYTHON), *ask)
    if not (own and shared):
        raise Failed(f"The environment {PEERS} could not be made.")
    (Path(own) / "ema-lab.pth").write_text(shared + "\n")
    command = [str(python), *PIP[1:], "-r", str(file), "-c", str(ROOT / "requirements.txt")]
    stage("peers", "packages of benchmarks/requirements-peers.txt", key, command)


def clean() -> None:
    """Remove what this script and the checks made; refuse if the user's own folders lie inside."""
    doomed = [ROOT / name for name in CACHES]
    doomed += [p for p in ROOT.rglob("__pycache__") if VENV not in p.parents]
    for variable in ("EMA_HOME", "EMA_MODELS"):
        own = Path(os.environ.get(variable) or "/").expanduser().resolve()
        inside = [folder for folder in doomed if folder == own or folder in own.parents]
        if inside:
            raise Failed(f"{variable} lies in {inside[0]}, which would be removed. Move it first.")
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)
    say("==> removed .venv and caches; runs and models stay where they are")


def main(wanted: list) -> None:
    unknown = set(wanted) - {"model", "dev", "chromium", "peers", "clean"}
    if unknown:
        raise Failed(f"Unknown: {', '.join(sorted(unknown))}. {__doc__}")
    with one_at_a_time():
        if "clean" in wanted:
            return clean()
        if offline():
            use_wheels()
        key = packages()
        if "dev" in wanted:
            development(key)
        if "chromium" in wanted:
            chromium()
        if "peers" in wanted:
            peers(key)
        say("==> packages are ready")
    if "model" in wanted:  # outside the lock: it takes longer and guards itself
        model()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except Failed as failure:
        sys.exit(f"\n{failure}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where this left off.")
