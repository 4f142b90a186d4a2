"""What happens to a run when the app is killed or told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from ema_core.runs import Status
from tests.browser.conftest import kill_home, start_app
from tests.browser.test_story import until
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = pytest.mark.slow


def test_sigkill_of_the_app_loses_nothing_and_ctrl_c_puts_the_run_back(home: Path) -> None:
    add_tiny(home)
    try:
        app = start_app()
        run, _ = launch.launch_run(tiny_spec(steps=150, batch_size=1, checkpoint_every=50))
        until(lambda: run.state().step >= 2)
        first = worker_status().pid
        os.kill(app.process.pid, signal.SIGKILL)
        app.process.wait(10)
        at = run.state().step
        until(lambda: run.state().step >= at + 3, message="the run must go on without the app")

        app = start_app(app.port)  # the same port: the dead app's page must not hold it
        assert worker_status().pid == first, "the worker that lives must be adopted"
        assert run.state().attempt == 1
        taken = subprocess.run(
            [sys.executable, "-m", "ema_core.cli.main", "app", "--port", str(app.port), "--no-browser"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert taken.returncode == 2 and f"Port {app.port} is taken" in taken.stderr

        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(90) == 0
        assert not worker_status().alive
        assert run.state().status is Status.QUEUED and run.checkpoint_steps()

        app = start_app()
        until(lambda: run.state().status is Status.DONE, 400)
        assert run.state().attempt == 2 and run.state().step == 150
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(90) == 0
    finally:
        kill_home(home)
