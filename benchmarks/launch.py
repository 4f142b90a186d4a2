"""From launching a run to its first loss: ``python -m benchmarks.launch [--quick] --out FILE``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.frame import Disagree, Row, main, measures, row
from benchmarks.targets import LAUNCH_AGAIN, LAUNCH_FIRST
from benchmarks.work import own_home

WAIT = 120.0


def first_step(run: Any) -> dict[str, Any]:
    """The first step's event, as soon as it is in the run's file."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if run.events_path.exists():
            for line in run.events_path.read_text(encoding="utf-8").splitlines():
                if '"kind": "step"' in line or '"kind":"step"' in line:
                    return json.loads(line)
        time.sleep(0.01)
    raise TimeoutError(f"{run.id} has no step after {WAIT:.0f} s; state: {run.state()}")


def queued(spec: Any) -> tuple[float, float]:
    """Seconds from the launch, as the page does it, to the first loss, and that loss. The run is stopped and over when this returns."""
    from ema_core.jobs import launch

    start = time.perf_counter()
    run, _ = launch.launch_run(spec)
    event = first_step(run)
    seconds = time.perf_counter() - start
    launch.request(run, "stop")
    until = time.monotonic() + WAIT
    while run.state().status.active and time.monotonic() < until:
        time.sleep(0.05)
    return seconds, event["ce"]


def cold(spec: Any) -> tuple[float, float]:
    """The same by ``ema train`` in a new process."""
    from ema_core.runs import RunDirectory, run_ids

    before = set(run_ids())
    words = [sys.executable, "-m", "ema_core.cli.main", *spec.command().split()[1:]]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        while not (new := set(run_ids()) - before):
            if process.poll() is not None:
                raise RuntimeError(f"ema train ended with code {process.returncode}")
            time.sleep(0.01)
        event = first_step(RunDirectory.open(new.pop()))
        return time.perf_counter() - start, event["ce"]
    finally:
        process.terminate()
        process.wait()


@measures(LAUNCH_FIRST, LAUNCH_AGAIN)
def launches(quick: bool) -> list[Row]:
    from ema_core.jobs import launch, queue
    from ema_core.runs import Probes, RunSpec, parse_defense

    first: list[float] = []
    again: list[float] = []
    peer: list[float] = []
    for _ in range(1 if quick else 3):
        with own_home():
            spec = RunSpec(defenses=(parse_defense("kl=1"),), probes=Probes())
            launch.start_worker()
            try:
                launch.wait_for_worker()
                job = queue.enqueue("prepare", {"model": spec.model})
                until = time.monotonic() + WAIT
                while queue.get(job.id).status != "done" and time.monotonic() < until:
                    time.sleep(0.1)
                seconds, loss = queued(spec)
                first.append(seconds)
                other = spec.model_copy(update={"defenses": (parse_defense("kl=0.3"),)})
                again.append(queued(other)[0])
            finally:
                launch.stop_worker()
            seconds, alone = cold(spec)
            peer.append(seconds)
            print(f"  first {first[-1]:.1f} s, again {again[-1]:.1f} s, cold {peer[-1]:.1f} s", file=sys.stderr, flush=True)
            if abs(loss - alone) > 1e-3:
                raise Disagree(f"the first loss is {loss} in the worker and {alone} in a process of its own")
    agrees = (
        f"the first loss of the worker's run and of the cold process's on the same spec differ by no more than 1e-3 ({loss:.4f})"
    )
    note = (
        "kl=1 with live probes, the demo recipe, embedded model. Ours: queued as the page does it, for a worker that has the model in memory, in a "
        "new home; until the step's event is in events.jsonl. Cold: `ema train` in a new process, in the same home afterwards."
    )
    second = f"{note} Second time: another strength on the same model and data."
    return [row(LAUNCH_FIRST, first, peer, "s", note, agrees), row(LAUNCH_AGAIN, again, peer, "s", second, agrees)]


if __name__ == "__main__":
    main(launches)
