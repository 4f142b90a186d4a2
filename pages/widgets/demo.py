"""What the demo is and takes, said before it is started: on Home and on Learn."""

from __future__ import annotations

import streamlit as st

from ema_core.evaluation.suites import suites_of
from ema_core.jobs import launch, queue
from ema_core.jobs.forecast import evaluation_takes
from ema_core.runs import RunDirectory, run_ids
from ema_core.shared import mine
from ema_core.training.estimate import Estimate, estimate
from pages.widgets.chrome import duration

WHAT = "Two runs on the same examples in the same order: one undefended, one with a KL penalty of strength 1. Both are evaluated."


@st.cache_data(ttl=60, show_spinner=False)
def demo_estimates() -> tuple[list[Estimate], float]:
    """Of each run's training, and the seconds of both evaluations."""
    asked = [
        (spec, launch.eval_specs(suites_of(spec.dataset), None, "demo", "probe", dataset=spec.dataset))
        for spec in launch.DEMO.values()
    ]
    return [estimate(spec) for spec, _ in asked], sum(evaluation_takes(spec, suites) for spec, suites in asked)


def demo_at_work() -> list[str]:
    """Own runs of the demo that wait or train now."""
    demo, there = {spec.setting.key for spec in launch.DEMO.values()}, set(run_ids())
    jobs = [job for job in queue.jobs() if job.kind == "train" and job.status in ("queued", "running") and mine(job.owner)]
    return [run for job in jobs for run in job.runs if run in there and RunDirectory.open(run).spec.setting.key in demo]


def demo_takes() -> str:
    """How long it trains, by which speed, and what comes after and before it."""
    found, evaluations = demo_estimates()
    each = " + ".join(duration(one.seconds) for one in found)
    basis = "this machine's own speed" if found[0].measured else "two laptop cores"
    before = sum(job.status in ("queued", "running") for job in queue.jobs())
    waits = (
        f" It waits for {before} job{'s' if before != 1 else ''} that {'are' if before != 1 else 'is'} in the queue now."
        if before
        else ""
    )
    return (
        f"Training takes about {each} ({found[0].steps} steps each, from {basis}), the evaluations about {duration(evaluations)} after "
        f"that; longer where other things run.{waits}"
    )
