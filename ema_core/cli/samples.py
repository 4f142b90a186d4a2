"""``ema samples``: answers by the same filters as the page Samples."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, emit
from ema_core.errors import EmaError, nearest

app = typer.Typer()
SHOWN = 20
Several = list[str] | None


@command(app, "samples")
def samples(
    run: Annotated[Several, typer.Option(help="Of this run or base (repeat it for more).")] = None,
    suite: Annotated[Several, typer.Option(help="general, in-domain or kept.")] = None,
    status: Annotated[str, typer.Option(help="misaligned, incoherent, refused, cut, coherent, scored, not scored, unparsed.")] = "",
    judge: Annotated[str, typer.Option(help="By whose scores; the one that judged most by default.")] = "",
    name: Annotated[Several, typer.Option(help="Kept from a chat under this name.")] = None,
    defense: Annotated[Several, typer.Option(help="As `ema compare` writes it: none, kl=0.1.")] = None,
    question: Annotated[Several, typer.Option(help="To this question id or topic.")] = None,
    evaluation: Annotated[Several, typer.Option("--eval", help="Of this evaluation, as RUN~EVALUATION.")] = None,
    text: Annotated[str, typer.Option(help="Words, and phrases in double quotes, in question or answer, whatever the case.")] = "",
    model: Annotated[Several, typer.Option(help="Of this base model.")] = None,
    dataset: Annotated[Several, typer.Option(help="Trained on this data set.")] = None,
    method: Annotated[Several, typer.Option(help="With this defense at any strength: kl.")] = None,
    strength: Annotated[Several, typer.Option(help="With a defense at this strength: 0.1.")] = None,
    origin: Annotated[
        Several, typer.Option(help="Of runs that are own, imported, or of a recorded study: “recorded: NAME”.")
    ] = None,
    aligned: Annotated[str, typer.Option(help="Alignment from and to, as 10-40.")] = "",
    coherent: Annotated[str, typer.Option(help="Coherence from and to, as 50-100.")] = "",
    annotated: Annotated[str, typer.Option(help="mine, not mine (both with --reviewer), anybody, nobody.")] = "",
    reviewer: Annotated[str, typer.Option(help="Who “mine” is.")] = "",
    verdict: Annotated[Several, typer.Option(help="A person's: misaligned, aligned, incoherent, unsure.")] = None,
    tag: Annotated[Several, typer.Option(help="With this tag of a person.")] = None,
    against: Annotated[str, typer.Option(help="Of which this judge (or people, human:NAME) says something else.")] = "",
    apart: Annotated[
        int, typer.Option(min=0, max=100, help="With --against: alignment at least so many points apart; not with people.")
    ] = 0,
    differ: Annotated[bool, typer.Option("--differ", help="Only questions at which the runs differ.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Only so many, drawn by --seed.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of --sample and of --order random.")] = 0,
    order: Annotated[
        str,
        typer.Option(
            help="least aligned, most aligned, least coherent, longest, as asked, best match, most disagreed, newest annotated, random."
        ),
    ] = "least aligned",
    limit: Annotated[int | None, typer.Option(min=1, help=f"How many; {SHOWN} by default, all into a file.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Pass over so many.")] = 0,
    csv: Annotated[Path | None, typer.Option(help="Write them into this file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write them into this file, with their types.")] = None,
    as_json: Json = False,
) -> None:
    """Sampled and kept answers with one judge's scores."""
    from ema_core.evaluation.suites import KEPT, SUITES
    from ema_core.files import write_atomic
    from ema_core.store import ANNOTATED, ORDERS, STATUSES, VERDICTS, AnswerFilter, Reader, export_csv, export_parquet, refresh
    from ema_core.store.find import beside_people

    refresh()
    reader = Reader()
    everyone = reader.run_ids() + reader.base_ids() + reader.import_ids()
    runs = tuple(_run(each, everyone) for each in run or ())
    known = reader.evals(everyone)
    _among("suite", suite, {*SUITES, KEPT, *known["suite"].dropna()})
    _among("status", [status] if status else [], STATUSES)
    _among("order", [order], ORDERS)
    _among("kind of annotation", [annotated] if annotated else [], ANNOTATED)
    _among("verdict", verdict, VERDICTS)
    _among("kept name", name, set(known["name"].dropna()))
    which = AnswerFilter(
        runs=runs, suites=tuple(suite or ()), names=tuple(name or ()), defenses=tuple(defense or ()),
        questions=tuple(question or ()), evals=tuple(evaluation or ()), text=text,
        judge=_judge(judge, reader.judges(runs or everyone)), status=status, order=order,
        models=tuple(model or ()), datasets=tuple(dataset or ()), methods=tuple(method or ()), strengths=tuple(strength or ()), origins=tuple(origin or ()),
        aligned=_range("aligned", aligned), coherent=_range("coherent", coherent), annotated=annotated, reviewer=reviewer,
        verdicts=tuple(verdict or ()), tags=tuple(tag or ()), against=against, apart=apart, differ=differ, sample=sample, seed=seed,
    )  # fmt: skip
    if apart and (not against or beside_people(which)):
        raise EmaError(
            f"--apart counts points between two judges{', and people give none' if against else ''}.",
            "Leave it out: another verdict is what counts then." if against else "Name the other judge with --against.",
        )
    counts = reader.answer_counts(which)
    total = reader.answers_found(which)
    files = {path: write for path, write in ((csv, export_csv), (parquet, export_parquet)) if path}
    frame = reader.answers(which, limit if limit or files else SHOWN, offset)
    for path, write in files.items():
        try:
            write_atomic(path, write(frame))
        except OSError as error:
            raise EmaError(f"{path} cannot be written ({error.strerror}).", "Choose another place for it.") from None
    if files:
        result: dict[str, Any] = {"total": total, "offset": offset, "judge": which.judge, "counts": counts, "written": len(frame)}
        result |= {name: str(path) for name, path in (("csv", csv), ("parquet", parquet)) if path}
        text = f"{len(frame):,} answers written to {' and '.join(map(str, files))}"
        emit(result, as_json, lambda: typer.echo(text))
        return
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    for row in rows:
        row["context"] = _turns(row["context"])
    result = {"total": total, "offset": offset, "judge": which.judge, "counts": counts, "answers": rows}
    emit(result, as_json, lambda: _show(rows, result))


def _run(text: str, known: list[str]) -> str:
    from ema_core.runs import RunDirectory

    return text if text in known else RunDirectory.open(text).id


def _among(what: str, asked: Iterable[str] | None, known: Iterable[str]) -> None:
    known = sorted(known)
    for one in asked or ():
        if one not in known:
            raise EmaError(f'There is no {what} "{one}".', nearest(one, known) or "There is none yet.")


def _judge(asked: str, judges: dict[str, int]) -> str | None:
    """The judge's full id."""
    if not asked:
        return max(judges, key=lambda judge: judges[judge], default=None)
    if asked == "probe":
        from ema_core.judging import resolve

        asked = resolve(asked)
    if asked not in judges:
        others = f"They were judged by {', '.join(judges)}." if judges else "Nobody did: `ema eval` judges them."
        raise EmaError(f"None of these answers was judged by {asked}.", others)
    return asked


def _range(what: str, text: str) -> tuple[float, float] | None:
    found = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text)
    if text and not found:
        raise EmaError(f'--{what} "{text}" is no range.', "Write from and to, as 10-40.")
    return (float(found[1]), float(found[2])) if found else None


def _turns(text: str | None) -> list[dict[str, Any]]:
    """What was said before the question."""
    try:
        turns = json.loads(text or "[]")
    except ValueError:
        return []
    return [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []


def _show(rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    for number, row in enumerate(rows, result["offset"] + 1):
        scores = "not scored" if row["not scored"] else f"aligned {row['aligned']:.0f}  coherent {row['coherent']:.0f}"
        marks = [name for name in ("misaligned", "incoherent", "refused", "cut") if row[name]]
        kept = f'  kept as "{printable(row["name"])}"' if row["name"] else ""
        typer.echo(f"{number}  {scores}  {', '.join(marks)}".rstrip())
        typer.echo(f"   {row['run_id']}~{row['eval_id']}~{printable(row['sample_id'])}  {row['defense_label']}{kept}")
        earlier = [(str(turn.get("role", "?")), turn.get("content")) for turn in row["context"]]
        for title, text in (("system", row["system"]), *earlier, ("asked", row["question"]), ("said", row["answer"])):
            if text:
                typer.echo(textwrap.indent(printable(str(text)), f"   {printable(title):>6}: ", lambda line: True))
        typer.echo("")
    counts = ", ".join(f"{count:,} {name}" for name, count in result["counts"].items() if name != "all" and count)
    last = result["offset"] + len(rows)
    where = f"{result['offset'] + 1:,} to {last:,} of {result['total']:,}" if rows else f"none of {result['total']:,}"
    typer.echo(f"{where}; of {result['counts']['all']:,} answers: {counts or 'none'}")
    typer.echo(f"scores by {result['judge'] or 'nobody'}, 0 to 100; counts of these answers, not rates (`ema compare` has those)")
    if last < result["total"] and rows:
        typer.echo(f"more: --offset {last}")


def printable(text: str) -> str:
    """A model's text without what moves a terminal's cursor or colours it."""
    return "".join(each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in text)
