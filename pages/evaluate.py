"""Evaluate: margins and sampled answers of runs; how far that is; the ways to what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import adapter_folder, curve_specs
from ema_core.evaluation.spec import EVAL_PRESETS, estimate_evaluation, sampling
from ema_core.evaluation.speed import measured
from ema_core.evaluation.suites import NOT_JUDGED, Suite, all_suites, load_suite, suites_of
from ema_core.jobs import launch, queue
from ema_core.jobs.status import worker_status
from ema_core.judging import SHIPPED, held_out, known_judges, own, read_card, resolve
from ema_core.runs import RunDirectory, Status
from ema_core.shared import why_not as not_mine
from ema_core.store import AnswerFilter
from pages.widgets.answer_data import counts_of, judges_of, run_label
from pages.widgets.chrome import act, by_user, duration, errors, header, notices, plain, show_error
from pages.widgets.index import up_to_date
from pages.widgets.judge_panel import judge_panel
from pages.widgets.person import no_start
from pages.widgets.run_picker import newest_first, pick_runs, remembered, run_info, run_link
from pages.widgets.terms import term

LEAD = """Two measures. The **margin**: how much likelier a run makes the misaligned answer of a pair than the aligned one, as \
the change from the base model; no sampling, no judge, and it shows small effects, so it leads. **Sampled answers**, scored by a \
judge, follow."""
PROBE = """**The probe is a teaching judge**: a linear read-out of the embedded model's hidden state. It shows which way things \
move, and it reads topic too, so it never scores in-domain answers."""


def page() -> None:
    header("Evaluate", LEAD, help=term("margin"))
    if not newest_first():
        st.info("No run yet, so there is nothing to evaluate. Train one first.", icon=":material/info:")
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")
        return
    missing = without_adapter()
    asked = {*st.query_params.get_all("run"), *remembered()}
    chosen = pick_runs(
        "Runs to evaluate",
        only=lambda run_id: run_id not in missing or run_id in asked or bool(run_info(run_id).recorded),
        default=lambda ids: ([run_id for run_id in ids if run_id not in missing] or ids)[:1],
        help="Runs with a trained adapter, newest first; and recorded ones, whose answers a language model can judge.",
    )
    with errors():
        not_listed(missing, chosen)
    usable = [run_id for run_id in chosen if run_id not in missing]
    with errors():
        new_evaluation(usable)
    with errors():
        progress()
    with errors():
        judge_panel(chosen)
    with errors():
        if read := [run_id for run_id in chosen if run_id in usable or run_info(run_id).recorded]:
            results(read)


def without_adapter() -> dict[str, str]:
    """Runs that cannot be evaluated, newest first, and why."""
    found = {}
    for run_id in newest_first():
        try:
            adapter_folder(RunDirectory.open(run_id), None)
        except EmaError as error:
            found[run_id] = f"{error.message} {error.hint}"
    return found


def not_listed(missing: dict[str, str], chosen: Sequence[str]) -> None:
    """Why some runs are not among those to choose from."""
    for run_id in chosen:
        if run_id in missing:
            st.warning(plain(missing[run_id]), icon=":material/hourglass_empty:")
    missing = {run_id: why for run_id, why in missing.items() if not run_info(run_id).recorded}  # those are listed, to be judged
    if missing:
        with st.expander(f"Not listed: {len(missing)} without an adapter", key="not-listed"):
            for run_id, why in missing.items():
                run_link(run_id)
                st.caption(plain(why))


def new_evaluation(run_ids: Sequence[str]) -> None:
    """What to ask, how long it takes, and the button that queues it."""
    with st.expander("New evaluation", key="new-evaluation", expanded=True, on_change="rerun"):
        st.session_state.setdefault("eval-samples", EVAL_PRESETS["demo"]["samples"])
        st.session_state.setdefault("eval-suites", _first_suites(run_ids))
        suites = st.pills("Suites", list(all_suites()), selection_mode="multi", key="eval-suites", help=_suites_help(), wrap=True)
        first, second, third = st.columns([2, 2, 3])
        preset = first.segmented_control(
            "Preset",
            list(EVAL_PRESETS),
            default="demo",
            required=True,
            key="eval-preset",
            on_change=_preset_chosen,
            help=_presets_help(),
        )
        samples = second.number_input("Samples a question", 0, 1000, key="eval-samples", help="0 measures the margin alone.")
        judges = [resolve("probe"), *(judge for judge in known_judges() if judge != resolve("probe"))]
        judge = third.selectbox(
            "Judge", judges, key="eval-judge", disabled=not samples, help="Scores the answers to the general suite."
        )
        preset = preset or "demo"
        undefended = [run_id for run_id in run_ids if run_info(run_id).defense == "none"]
        curve = st.checkbox(
            "Also the checkpoints and the scaled-down adapter of the undefended runs",
            value=True,
            key="eval-curve",
            disabled=not undefended,
            help="Margins only: the cheap alternatives, stopping earlier and scaling down, that a defense has to beat in Compare.",
        )
        why_not, loaded = _suites(run_ids, suites)
        why_not = why_not or no_start()
        payload: dict[str, Any] = {
            "suites": suites,
            "samples": int(samples),
            "preset": preset,
            "judge": "probe" if judge == resolve("probe") else judge,
            "curve": bool(curve and undefended),
        }
        with st.container(horizontal=True, vertical_alignment="center"):
            count = "1 run" if len(run_ids) == 1 else f"{len(run_ids)} runs"
            st.button(
                f"Evaluate {count}" if run_ids else "Evaluate",
                type="primary",
                icon=":material/play_arrow:",
                key="launch-evaluation",
                disabled=bool(why_not),
                help=plain(why_not) or None,
                on_click=act,
                args=(_launch, list(run_ids), payload),
                kwargs={"slot": "evaluate"},
            )
            if not why_not:
                st.caption(plain(how_long(loaded, int(samples), preset, undefended if curve else [])), width="stretch")
        notices("evaluate")
        st.caption(f"{PROBE} {agreement(judge)} {plain(own.short(judge))}")


def how_long(suites: dict[str, list[Suite]], samples: int, preset: str, curves_of: Sequence[str]) -> str:
    """The time that an evaluation takes, and what it consists of."""
    seconds, pairs, asked, longest = 0.0, 0, 0, 0
    bases: set[tuple[str, str]] = set()
    for run_id, of_run in suites.items():
        model, dataset = run_info(run_id).model, run_info(run_id).dataset
        for suite in of_run:
            how = sampling(suite.name, preset, samples, dataset)
            number, limit = int(how["samples"]), int(how["max_tokens"])
            seconds += estimate_evaluation(
                len(suite.questions), len(suite.pairs), number, limit, judged=suite.name not in NOT_JUDGED, model=model
            )
            answers = number * len(suite.questions)
            if (model, suite.hash) not in bases:
                seconds += estimate_evaluation(answers, 0, 1, limit, judged=suite.name not in NOT_JUDGED, model=model)
                answers *= 2
            bases.add((model, suite.hash))
            pairs, asked, longest = pairs + len(suite.pairs), asked + answers, max(longest, limit if answers else 0)
        if run_id in curves_of:  # all that the run is measured by, whichever were chosen
            more = sum(len(load_suite(spec.suite, dataset).pairs) for spec in curve_specs(RunDirectory.open(run_id)))
            seconds, pairs = seconds + estimate_evaluation(0, more, 0, 0, model=run_info(run_id).model), pairs + more
    here = all(measured(run_info(run_id).model) for run_id in suites)
    basis = f"About {duration(seconds)} by this machine's own speed" if here else f"Up to {duration(seconds)} on two cores"
    sampled = f"{asked} answers of at most {longest} tokens, the base's among them" if asked else "no sampled answers"
    return f"{basis}: {pairs} answer pairs, {sampled}. What was measured before on the same adapter is not done again."


def _suites(run_ids: Sequence[str], names: Sequence[str]) -> tuple[str, dict[str, list[Suite]]]:
    """Why an evaluation cannot be started, or else the suites of each run."""
    if not run_ids:
        return "Choose a run first.", {}
    if not names:
        return "Choose a suite first.", {}
    try:
        return "", {run_id: [load_suite(name, run_info(run_id).dataset) for name in names] for run_id in run_ids}
    except EmaError as error:
        show_error(error.message, error.hint)
        return error.message, {}


def _launch(run_ids: list[str], payload: dict[str, Any]) -> None:
    launch.launch_evaluation(run_ids, **payload)


def _first_suites(run_ids: Sequence[str]) -> list[str]:
    """What is chosen at first: what the first run is measured by."""
    try:
        return list(suites_of(run_info(run_ids[0]).dataset))
    except (EmaError, IndexError):
        return ["general", "in-domain"]


@by_user
def _preset_chosen() -> None:
    st.session_state["eval-samples"] = EVAL_PRESETS[st.session_state["eval-preset"] or "demo"]["samples"]


def _suites_help() -> str:
    return "  \n".join(f"{name}: {what}" for name, what in all_suites().items())


def _presets_help() -> str:
    return "  \n".join(
        f"{name}: {value['samples']} a question, up to {value['max_tokens']} tokens" for name, value in EVAL_PRESETS.items()
    )


def agreement(judge: str) -> str:
    """What the probe is worth, in the figures that its fit measured."""
    card = read_card(known_judges().get(judge, SHIPPED))
    figures = held_out(card)
    seen = [
        f"{part['mean']:.2f} {words} (worst question {part['worst']:.2f})"
        for name, words in (("question", "on questions it was not fitted on"), ("both", "with the answering model new as well"))
        if (part := figures.get(f"auc_{name}_left_out")) and part.get("mean") is not None
    ]
    if not seen:
        return ""
    return (
        f"Measured agreement with GPT-4o (AUC within a question, 0.5 is chance): {', '.join(seen)}; "
        f"{card.get('answers')} answers of {len(card.get('models', []))} other models; the page Judges has the rest."
    )


@st.fragment(run_every=1.5)
def progress() -> None:
    """Evaluations that wait, run or have failed; the whole page runs once more when one has ended."""
    jobs = [job for job in queue.jobs() if job.kind == "evaluate"]
    ended = sorted(job.id for job in jobs if job.status not in ("queued", "running"))
    if st.session_state.setdefault("evaluations-ended", ended) != ended:
        st.session_state["evaluations-ended"] = ended
        st.rerun()
    alive = worker_status().alive
    for job in jobs:
        if job.status in ("queued", "running"):
            with st.container(horizontal=True, vertical_alignment="center", key=f"job-{job.id}"):
                with st.container(width="stretch"):
                    st.progress(min(1.0, max(0.0, job.share)), text=plain(f"{_runs_of(job)}: {_how_far(job, alive)}"))
                st.button(
                    "Cancel",
                    key=f"cancel-{job.id}",
                    on_click=act,
                    args=(queue.cancel, job.id),
                    kwargs={"slot": "jobs"},
                    disabled=job.cancel or bool(not_mine(job.owner)),
                    icon=":material/close:",
                    help="What was measured so far is kept, and not done again.",
                )
        elif job.status == "failed" and not _superseded(job, jobs):
            show_error(f"{_runs_of(job)}: {job.error}", job.hint)
            st.button(
                "Try again",
                key=f"again-{job.id}",
                icon=":material/replay:",
                on_click=act,
                args=(queue.enqueue, "evaluate", job.payload),
                kwargs={"slot": "jobs"},
                help="It goes on where it stopped.",
            )
    notices("jobs")


def _runs_of(job: queue.Job) -> str:
    labels = [run_label(run_id) for run_id in job.runs]
    return labels[0] if len(labels) == 1 else f"{len(labels)} runs ({', '.join(labels[:3])}{' …' if len(labels) > 3 else ''})"


def _how_far(job: queue.Job, alive: bool) -> str:
    if job.status == "queued":
        if not alive:
            return "waits; no worker is running (the sidebar starts one)"
        try:
            waiting = queue.waits_for(job)
        except EmaError as error:
            return error.message
        return (
            f"waits for {run_label(waiting[0])} ({RunDirectory.open(waiting[0]).state().status})"
            if waiting
            else "waits for its turn"
        )
    if job.cancel:
        return "ending"
    left = ""
    if job.started and job.share > 0.03:
        left = f", about {duration((time.time() - job.started) * (1 - job.share) / job.share)} left"
    return f"{job.activity or 'starting'} ({job.share:.0%}{left})" + (
        "" if alive else "; the worker has died, a new one goes on with it"
    )


def _superseded(failed: queue.Job, jobs: Sequence[queue.Job]) -> bool:
    """A later evaluation of the same runs stands for this one, and so does there being none of them any more."""
    later = any(job.created > failed.created and set(failed.runs) <= set(job.runs) for job in jobs)
    return later or not set(failed.runs) & set(newest_first())


def results(run_ids: Sequence[str]) -> None:
    """What came out of it: numbers on Compare, the answers themselves on Samples."""
    st.subheader("Results", anchor=False)
    unfinished = [run_id for run_id in run_ids if RunDirectory.open(run_id).state().status is not Status.DONE]
    st.page_link(
        "pages/compare.py",
        label="Margins, rates and intervals of these runs",
        icon=":material/compare_arrows:",
        query_params={"run": list(run_ids)},
        help="Runs that were stopped early are shown alone, not in a setting." if unfinished else None,
    )
    version = up_to_date()
    judges = judges_of(tuple(run_ids), version)
    which = AnswerFilter(runs=tuple(run_ids), judge=max(judges, key=lambda judge: judges[judge], default=None))
    counts = counts_of(which)
    if not counts["all"]:
        st.caption("No sampled answers of these runs yet; with 0 samples a question only the margin is measured.")
        return
    link: dict[str, Any] = {"run": list(run_ids), **({"judge": which.judge} if which.judge else {})}
    of = "this run" if len(run_ids) == 1 else "these runs"
    for label, count, status in (("Read the {} answers of " + of, "all", ""), ("{} misaligned", "misaligned", "misaligned")):
        if counts[count]:
            st.page_link(
                "pages/samples.py",
                label=label.format(f"{counts[count]:,}"),
                icon=":material/forum:",
                query_params=link | ({"status": status} if status else {}),
            )
    if which.judge:
        st.caption(f"Scored by {plain(which.judge)}: {counts['scored']:,}. Counts of all their answers, not rates.")


if __name__ == "__main__":
    page()
