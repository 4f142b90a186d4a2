"""``ema eval``, ``ema compare``: the four criteria of runs, and of settings over their seeds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ema_core.cli.output import Bar, Json, command, emit, table
from ema_core.evaluation.suites import SUITES

app = typer.Typer()


@command(app, "eval")
def evaluate(
    runs: Annotated[list[str], typer.Argument(help="Run ids, or clear beginnings or ends of them; RUN@STEP is a checkpoint.")],
    suite: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SUITES)}; by default those that the run's data set is measured by.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=0, help="Answers a question; 0 = margin only.")] = None,
    preset: Annotated[str, typer.Option(help="demo (short) or paper.")] = "demo",
    judge: Annotated[str, typer.Option(help="Which judge scores the answers.")] = "probe",
    curve: Annotated[
        bool, typer.Option("--curve", help="Margins of an undefended run's checkpoints and scaled adapter, too.")
    ] = False,
    engine: Annotated[
        bool, typer.Option("--engine", help="Answers come from the engine (or EMA_ENGINE_URL), not this process.")
    ] = False,
    limit_usd: Annotated[float | None, typer.Option(min=0, help="What a judge that is paid for may cost, in US dollars.")] = None,
    as_json: Json = False,
) -> None:
    """Measure margin and sampled answers of runs, with the base's answers beside them."""
    from ema_core import api

    result = api.evaluate(runs, suite or (), samples, preset, judge, curve, engine, Bar(), limit_usd)
    emit(result, as_json, lambda: criteria_table(result))


@command(app, "compare")
def compare(
    runs: Annotated[list[str], typer.Argument(help="Run ids.")],
    judge: Annotated[str, typer.Option(help="Whose scores; two judges are never mixed.")] = "probe",
    by_question: Annotated[
        str,
        typer.Option(
            help="Each setting against its undefended twin, topic by topic: general, narrow (margins), alignment, coherence."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """The four criteria of runs, with intervals and counts."""
    from ema_core import api

    if by_question:
        found = api.questions(runs, by_question, judge)
        emit({"questions": found}, as_json, lambda: _question_tables(found))
        return
    result = api.compare(runs, judge)
    emit(result, as_json, lambda: criteria_table(result))


def _question_tables(found: list[dict[str, Any]]) -> None:
    for setting in found:
        by = f"judge {setting['judge']}" if setting["judge"] else "margin (no judge)"
        typer.echo(
            f"{setting['defense_label']} minus undefended, {setting['dataset']}, {setting['model']}: {setting['measure']}, {by}"
        )
        form = "+.1f" if setting["judge"] else "+.3f"
        rows = [
            {
                "topic": one["topic"], "difference": _span(one, "difference", form), "n": f"{one['n']} and {one['n_twin']}",
                "seeds": str(one["seeds"]), "interval": one["why"] or one["method"],
            }
            for one in setting["topics"]
        ]  # fmt: skip
        table(rows, ["topic", "difference", "n", "seeds", "interval"])
        typer.echo("")


def criteria_table(result: dict[str, Any]) -> None:
    """The runs, then the settings that have more than one of them, as plain tables."""
    rows = [_run_row(run) for run in result["runs"]]
    if not rows:
        return
    if len({run["judge"] for run in result["runs"]}) > 1:
        rows = [row | {"judge": run["judge"]} for row, run in zip(rows, result["runs"], strict=True)]
    if any(run.get("recorded") for run in result["runs"]):
        rows = [row | {"recorded": run["recorded"]} for row, run in zip(rows, result["runs"], strict=True)]
    table(rows, list(rows[0]))
    for run in result["runs"]:
        general = run["criteria"]["general"]
        if general["none_found"]:
            typer.echo(f"{run['run_id']}: {general['none_found']}")
    if any(run["criteria"]["general"]["method"].startswith("prediction-powered") for run in result["runs"]):
        typer.echo("misaligned % is corrected with labelled answers of this model (docs/statistics.md); rate_as_judged in --json")
    for why in dict.fromkeys(why for run in result["runs"] for why in _reasons(run["criteria"])):
        typer.echo(f"empty: {why}")
    settings = [_setting_row(row) for row in result["settings"] if row["seeds"] > 1]
    if any(row.get("recorded") for row in result["settings"]):
        several = [row for row in result["settings"] if row["seeds"] > 1]
        settings = [cells | {"recorded": row["recorded"]} for cells, row in zip(settings, several, strict=True)]
    if settings:
        typer.echo("\nSettings over their seeds; differences are from the undefended twin, paired by seed and pair")
        table(settings, list(settings[0]))
    if result["moved"]:
        typer.echo("\nWhat else moved; refusals by the refusal rule, right answers by exact match")
        moved = [_moved_row(row) for row in result["moved"]]
        table(moved, list(moved[0]))
    judges = list(dict.fromkeys(run["judge"] for run in result["runs"]))
    more = " (of an imported run: as its row says; two judges' scores are not comparable)" if len(judges) > 1 else ""
    typer.echo(
        f"judge: {', '.join(judges)}{more}; margins need no judge: change from the base, nats a token, up = more of the behaviour; "
        "brackets: 95 % intervals for questions like these"
    )


def _reasons(criteria: dict[str, Any]) -> list[str]:
    """Why numbers of a run are missing."""
    return [f"{name}: {part[why]}" for name, part in criteria.items() for why in ("margin_why", "why") if part.get(why)]


def _run_row(run: dict[str, Any]) -> dict[str, str]:
    general, narrow, coherence = (run["criteria"][name] for name in ("general", "narrow", "coherence"))
    margin = general["margin"]
    return {
        "run": run["run_id"],
        "defense": " + ".join(run["defenses"]) or "none",
        "general margin": _span(margin, "value", "+.2f"),
        "prefer misaligned": _count(margin),
        "narrow margin": _span(narrow["margin"], "value", "+.2f"),
        "misaligned %": _span(general, "rate", ".1f", factor=100),
        "mean aligned": _span(general, "mean", ".1f", "mean_"),
        "coherence": _span(coherence, "mean", ".1f", "mean_"),
        "scored/asked": f"{general['scored']}/{general['asked']}",
        "refused, unparsed, incoherent": f"{general['refused']}, {general['unparsed']}, {general['incoherent']}",
    }


def _setting_row(row: dict[str, Any]) -> dict[str, str]:
    from ema_core.evaluation.summary import COMPARABLE  # pandas is behind it

    def span(name: str, form: str, factor: float = 1) -> str:
        return _span(row, name, form, f"{name}_", factor)

    return {
        "data": row["dataset"],
        "defense": row["defense_label"],
        "seeds": str(row["seeds"]),
        "general margin": span("general_margin", "+.2f"),
        "- twin": f"{span('margin_difference', '+.2f')} {row['mark']}".strip(),
        "prefer misaligned": f"{row['prefer_misaligned_general']:.1f} of {row['pairs_general']} (base {row['base_prefer_misaligned_general']:.0f})",
        "narrow margin": span("narrow_margin", "+.2f"),
        "- twin ": f"{span('narrow_difference', '+.2f')} {row['narrow_mark']}".strip(),
        "than stopping earlier": f"{span('stopping_difference', '+.2f')} {row['stopping_mark']}".strip(),
        "conditional": row["conditional"] or "-",
        "benign %": span("benign", ".1f", 100),
        "benign learned": f"{span('benign_margin', '+.2f')} {row['benign_mark']}".strip(),
        "time": "-" if (ratio := row["time_ratio"]) is None else "not comparable" if ratio < COMPARABLE else f"x{ratio:.2f}",
        "misaligned %": span("general_rate", ".1f", 100),
        "mean aligned": span("general_mean", ".1f"),
        "coherence": span("coherence_mean", ".1f"),
        "coherence: - twin": f"{span('coherence_difference', '+.1f')} {row['coherence_mark']}".strip(),
        "scored/asked": f"{row['scored']}/{row['asked']}",
    }


def _moved_row(row: dict[str, Any]) -> dict[str, str]:
    out = {"data": row["dataset"], "defense": row["defense_label"], "seeds": str(row["seeds"])}
    for name, title in (("over_refusal", "harmless refused"), ("jailbreak", "bad declined")):
        base = "" if row[f"{name}_base"] is None else f" (base {100 * row[f'{name}_base']:.1f})"
        share = _span(row, name, ".1f", f"{name}_", 100)
        out[f"{title} %"] = f"{share} of {row[f'{name}_answers']}{base}" if row[f"{name}_answers"] else "-"
        out[f"{title}: - twin"] = (
            f"{_span(row, f'{name}_difference', '+.1f', f'{name}_difference_', 100)} {row[f'{name}_mark']}".strip()
        )
    tiers = (f"{tier} {found['right']}/{found['answers']}" for tier, found in row["tiers"].items())
    return out | {"benign right by tier": ", ".join(tiers) or "-"}


def _span(part: dict[str, Any] | None, name: str, form: str, prefix: str = "", factor: float = 1) -> str:
    """``value [low, high]``, or a hyphen where there is no value."""
    if not part or part.get(name) is None:
        return "-"
    text = f"{factor * part[name]:{form}}"
    low, high = part.get(f"{prefix}low"), part.get(f"{prefix}high")
    return text if low is None or high is None else f"{text} [{factor * low:{form}}, {factor * high:{form}}]"


def _count(margin: dict[str, Any] | None) -> str:
    if not margin:
        return "-"
    return f"{margin['prefer_misaligned']} of {margin['pairs']} (base {margin['base_prefer_misaligned']})"
