"""``ema judge``: fit a probe, hold a judge against labels, have answers judged, say who judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, duration, emit, ends_on_signal
from ema_core.errors import EmaError

app = typer.Typer(no_args_is_help=True, help="Judges.")


@command(app, "fit")
def fit_judge(
    files: Annotated[
        list[Path], typer.Argument(help="Judged CSV or JSONL files: response, question, question_id, aligned, coherent.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the head; without it nothing that is shipped is replaced.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the probe judge on judged answers, cross-validated by whole questions."""
    from ema_core.judging.fit import fit
    from ema_core.settings import settings, writable

    target = writable(out or settings().home / "judges" / "probe")
    report = fit(files, progress=Bar(), out=target)
    emit({"folder": str(target), **report.json()}, as_json, lambda: typer.echo(report.text()))


@command(app, "check")
def check_judge(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled CSV or JSONL files: response, question, question_id, aligned, coherent.")
    ],
    judge: Annotated[str, typer.Option(help='A judge\'s id; "probe" is the shipped one.')] = "probe",
    as_json: Json = False,
) -> None:
    """Hold a judge against labelled answers: how it orders them within each question, and how it counts."""
    from ema_core.judging.check import check, keep

    report = check(judge, files, progress=Bar())
    keep(report)
    emit(report.json(), as_json, lambda: typer.echo(report.text()))


@command(app, "own")
def judge_own(
    judge: Annotated[str, typer.Option(help='A judge\'s id; "probe" is the shipped one.')] = "probe",
    again: Annotated[bool, typer.Option("--again", help="Score them again though their scores are kept.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a judge against labelled answers of the embedded model itself: does it hold there? Its rates are corrected with the result."""
    from ema_core.judging import open_judge, own, resolve

    name = resolve(judge)
    if again or own.scored(name) is None:
        own.keep(name, open_judge(name).judge(own.items(), Bar()))
    found = own.figures(name)
    emit(found, as_json, lambda: typer.echo(own.in_words(found).replace("**", "")))


@command(app, "run")
def run_judge(
    runs: Annotated[list[str], typer.Argument(help="Runs, bases (base-…) and imported runs (import-…) whose answers are judged.")],
    judge: Annotated[
        str, typer.Option(help="openai:MODEL, engine:MODEL, HOST:PORT/MODEL, a probe; llm is EMA_JUDGE_MODEL at EMA_JUDGE_URL.")
    ] = "llm",
    model: Annotated[str, typer.Option(help="The judge's model, in the place of EMA_JUDGE_MODEL.")] = "",
    url: Annotated[str, typer.Option(help="The server's address (…/v1), in the place of EMA_JUDGE_URL.")] = "",
    rubrics: Annotated[
        str,
        typer.Option(help="A YAML file of rubrics, or a name: v1 (alignment, coherence), in-domain-v1, one of EMA_HOME/rubrics."),
    ] = "",
    repeat: Annotated[
        int, typer.Option(min=1, max=99, help="Judge again on purpose: 2 is a judge of its own, with :r2 behind.")
    ] = 1,
    suite: Annotated[
        list[str] | None, typer.Option(help="Only answers to these suites; by default all that this judge scores.")
    ] = None,
    limit_usd: Annotated[
        float | None, typer.Option(min=0, help="Spend no more than this this time; what was judged is kept.")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="US dollars for a million tokens in, where none or another is known.")
    ] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="The same for tokens out.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for a reply before it is asked again.")] = 60.0,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and ask nothing.")] = False,
    queued: Annotated[bool, typer.Option("--queue", help="Leave it to the worker.")] = False,
    as_json: Json = False,
) -> None:
    """Have a judge score answers that are there already. Going on is the same command once more: nothing is paid for twice."""
    from ema_core.jobs import judging
    from ema_core.judging import complete, is_llm, resolve

    llm = is_llm(judge)
    name = str(complete(judge, url, model, rubrics, repeat)) if llm else resolve(judge)
    if not llm and (rubrics or repeat > 1 or url or model):
        raise EmaError(f"{name} is a probe: it has no rubrics, server or repeats.", "Leave those out, or name a language model.")
    asked = judging.Asked(tuple(dict.fromkeys(runs)), name, tuple(suite or ()), limit_usd, price_in, price_out, timeout)
    if estimate:
        found, before = judging.estimate(asked)
        told = {"judge": name, "before": before, **vars(found)}
        return emit(told, as_json, lambda: typer.echo(estimate_text(told)))
    if queued:
        job = judging.launch_judging(asked)
        return emit({"job": job.id, "judge": name}, as_json, lambda: typer.echo(f"queued as {job.id}"))
    interrupted = ends_on_signal("ending; replies that are on their way are kept")
    done = judging.judge_answers(asked, progress=Bar(), interrupted=interrupted)
    emit(done, as_json, lambda: typer.echo(done_text(done)))
    if done["stopped"] == "cancelled":
        raise typer.Exit(130)


@command(app, "list")
def list_judges(as_json: Json = False) -> None:
    """The judges that can be asked here, the rubrics there are, and who has judged what."""
    from ema_core.judging import known_judges
    from ema_core.judging.judge_id import FORMS, OPENAI_URL, configured_model, configured_url
    from ema_core.judging.keys import key_state
    from ema_core.judging.rubrics import rubric_ids
    from ema_core.store import Reader, refresh

    refresh()
    judged = Reader().opinions()
    url = configured_url() or OPENAI_URL
    found = {
        "probes": list(known_judges()), "server": url, "model": configured_model() or None, "key": key_state(url), "rubrics": rubric_ids(),
        "judged": judged,
    }  # fmt: skip

    def text() -> None:
        typer.echo(f"probes: {', '.join(known_judges())}")
        typer.echo(f"language models: {FORMS}\n  server {url}, model {configured_model() or 'not named'}; {key_state(url)}")
        typer.echo(f"rubrics: {', '.join(rubric_ids())}")
        for judge, count in judged.items():
            typer.echo(f"  {count:8,} answers judged by {judge}")

    emit(found, as_json, text)


def estimate_text(told: dict[str, Any]) -> str:
    """What judging would take, in two lines."""
    from ema_core.judging.report import dollars

    cost = (
        f"no cost in money is known ({told['price']})" if told["usd"] is None else f"about {dollars(told['usd'])} ({told['price']})"
    )
    return (
        f"{told['judge']}: {told['answers']:,} answers to judge, {told['before']:,} are judged already\n"
        f"{told['calls']:,} questions to the judge ({told['kept']:,} replies are kept from before), about {told['tokens_in']:,} tokens; "
        f"{cost}; about {duration(told['seconds'])}"
    )


def done_text(done: dict[str, Any]) -> str:
    """What judging did: counts, cost, and why answers have no score."""
    counts = ", ".join(f"{count:,} {status}" for status, count in done["statuses"].items()) or "nothing new"
    lines = [f"{done['judge']}: {done['words']} ({counts}); {done['before']:,} were judged before; {duration(done['seconds'])}"]
    if done["calls"]:
        lines.append(
            f"{done['calls']:,} questions asked, {done['retries']:,} of them again; {done['kept']:,} replies kept from before"
        )
    if done["readouts"].get("parsed"):
        lines.append(
            f"{done['readouts']['parsed']:,} scores are numbers parsed from the text: one token of this model is no number"
        )
    if len(done["answered_by"]) > 1:
        lines.append(f"answered by several models: {', '.join(done['answered_by'])}")
    lines += [f"  {count:,} x {reason}" for reason, count in done["reasons"].items()]
    if done["stopped"]:
        lines.append(f"ended early: {done['stopped']}; the same command goes on")
    return "\n".join(lines)
