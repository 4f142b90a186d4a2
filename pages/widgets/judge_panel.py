"""Having a language model judge answers that are there: which one, what it costs before, how far it is, what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.suites import KEPT, RULE_SCORED, all_suites
from ema_core.jobs import queue
from ema_core.jobs.judging import Asked, estimate, launch_judging
from ema_core.jobs.status import worker_status
from ema_core.judging import LlmJudgeId, complete
from ema_core.judging.judge_id import ENGINE, OPENAI_URL, configured_model, configured_url, server_name
from ema_core.judging.keys import key_state
from ema_core.judging.prices import Prices, prices_for
from ema_core.judging.report import Estimate, dollars
from ema_core.judging.rubrics import rubric_ids
from ema_core.runs import BASE, answering_ids
from pages.widgets.asset_jobs import progress
from pages.widgets.chrome import act, ago, duration, errors, notices, plain, show_error
from pages.widgets.person import no_start
from pages.widgets.run_picker import run_info

LEAD = """A language model reads each answer under a rubric, a question of its own for each, and gives it a number: the mean over the \
probabilities of its first token. It judges answers that are there; nothing is sampled again, and no reply is paid for twice. Absolute \
numbers depend on the judge: never mix two judges in one comparison."""
FIRST_LIMIT = 1.0


def judge_panel(run_ids: Sequence[str]) -> None:
    """The whole part for these runs: the choice, the estimate and the button; below them jobs at work, and what the last one did."""
    with st.expander("Judge with a language model", key="judge-panel", icon=":material/gavel:", on_change="rerun") as opened:
        if opened.open:
            st.markdown(LEAD)
            with errors():
                _form(run_ids)
    progress("judge", _what, "Judging ended")
    with errors():
        _last()
    notices("judge")


def _what(job: queue.Job) -> str:
    return str(job.payload.get("judge", "a judge"))


def _form(run_ids: Sequence[str]) -> None:
    judge = _judge()
    if judge is None:
        return
    prices, given = _prices(judge)
    limit = _limit(prices)
    suites = [name for name in (*all_suites(), KEPT) if name not in RULE_SCORED]
    chosen = st.pills("Answers to", suites, selection_mode="multi", default=["general"], key="judge-suites", wrap=True)
    beside = st.checkbox(
        "Also the base's answers",
        value=True,
        key="judge-base",
        help="Rates of a run are read against the base under the same judge.",
    )
    names = [*run_ids, *(_bases(run_ids) if beside else [])]
    asked = Asked(tuple(names), str(judge), tuple(chosen), limit, *given)
    why = "" if run_ids else "Choose a run first."
    why = why or ("" if chosen else "Choose a suite first.")
    found, before = (None, 0) if why else estimate(asked)
    if found is not None and not found.answers:
        why = (
            f"This judge has judged all {before:,} answers." if before else "There are no answers to judge yet; sample some first."
        )
    why = why or no_start()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"Judge {found.answers:,} answers" if found and found.answers else "Judge", key="launch-judging", icon=":material/gavel:",
            disabled=bool(why), help=plain(why) or None, on_click=act, args=(launch_judging, asked),
            kwargs={"slot": "judge", "done": "It is in the queue; progress stands below."},
        )  # fmt: skip
        st.caption(plain(why or _words(found, before, limit)) if why or found else "", width="stretch")
    if not worker_status().alive:
        st.caption("No worker is running (the sidebar starts one): the job would wait in the queue.")


def _judge() -> LlmJudgeId | None:
    """Server, model, rubrics and repeat as chosen; what is wrong with them is said here. The key is never shown, only whether it is set."""
    servers = {"openai": OPENAI_URL, "our engine": ""}
    try:
        if named := configured_url():
            servers = {server_name(named): named} | servers
    except EmaError as error:
        show_error(error.message, error.hint)
    first, second, third, fourth = st.columns([2, 3, 2, 1])
    server = first.selectbox("Server", list(servers), key="judge-server", help="EMA_JUDGE_URL adds another one.")
    ours = not servers[server]
    model = second.text_input(
        "Judge model", value="base" if ours else configured_model() or "gpt-4o", key=f"judge-model-{server}", max_chars=200,
        help="A model of the engine: base, or a run's id." if ours else "As the server calls it; EMA_JUDGE_MODEL sets the first one.",
    )  # fmt: skip
    rubrics = third.selectbox(
        "Rubrics", rubric_ids(), key="judge-rubrics", help="Files of yours: EMA_HOME/rubrics, or `ema judge run --rubrics`."
    )
    repeat = fourth.number_input(
        "Repeat", 1, 99, key="judge-repeat", help="2 repeats it on purpose, as a judge of its own: how much does it vary?"
    )
    if not ours:
        st.caption(f":material/key: {plain(key_state(servers[server]))}")
    try:
        name = f"{ENGINE}:{model.strip()}" if ours else f"openai:{model.strip()}"
        found = complete(name, url=servers[server], rubrics=rubrics, repeat=int(repeat))
    except EmaError as error:
        show_error(error.message, error.hint)
        return None
    st.caption(f"Its scores stand under **{plain(found)}**.")
    return found


def _prices(judge: LlmJudgeId) -> tuple[Prices | None, tuple[float | None, float | None]]:
    """What is known, and what the user gave in its place."""
    if judge.server == ENGINE or (known := prices_for(judge.url, judge.model)):
        return (None if judge.server == ENGINE else known), (None, None)
    st.caption("No price is known for this model there. With prices the cost is counted and can be limited.")
    first, second, _ = st.columns([2, 2, 3])
    into = first.number_input("USD for a million tokens in", 0.0, 1e5, value=None, key="judge-price-in")
    out = second.number_input("USD for a million tokens out", 0.0, 1e5, value=None, key="judge-price-out")
    if into is None or out is None:
        return None, (None, None)
    return prices_for(judge.url, judge.model, into, out), (into, out)


def _limit(prices: Prices | None) -> float | None:
    """The spending limit; none where nothing is paid or no price is known."""
    if prices is None or not (prices.tokens_in or prices.tokens_out):
        return None
    limit = st.number_input(
        "Spending limit, USD", 0.01, 1e4, value=FIRST_LIMIT, key="judge-limit", width=200,
        help="Nothing is asked that would take the cost further; what was judged by then is kept.",
    )  # fmt: skip
    return float(limit)


def _bases(run_ids: Sequence[str]) -> list[str]:
    """The bases of these runs' models that have answered."""
    there = {name for name in answering_ids() if name.startswith(BASE)}
    wanted = {(info.model, info.recorded) for info in map(run_info, run_ids)}
    return sorted(name for name in there if ((info := run_info(name)).model, info.recorded) in wanted)


def _words(found: Estimate | None, before: int, limit: float | None) -> str:
    """The estimate in a sentence or two."""
    if found is None:
        return ""
    cost = "the cost is not known" if found.usd is None else f"about {dollars(found.usd)} ({found.price})"
    kept = f", {found.kept:,} replies are kept from before" if found.kept else ""
    over = " That is more than the limit: it will end early, and can go on." if limit and found.usd and found.usd > limit else ""
    judged = f" {before:,} answers are judged already." if before else ""
    return (
        f"{found.calls:,} questions to the judge{kept}, about {found.tokens_in:,} tokens, {cost}, about {duration(found.seconds)}."
        f"{judged}{over}"
    )


def _last() -> None:
    """What the last job that ended well did, and the way to its scores."""
    done = [job for job in queue.jobs() if job.kind == "judge" and job.status == "done"]
    if not done:
        return
    job = max(done, key=lambda one: one.finished or 0)
    st.caption(f"Judged by {plain(_what(job))} {ago(job.finished or 0)}: {plain(job.activity)}.")
    st.page_link(
        "pages/samples.py", label="Read these answers with its scores", icon=":material/forum:",
        query_params={"run": job.runs, "judge": _what(job)},
    )  # fmt: skip
