"""``ema room``: what the page Room does, without a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ema_core.cli.output import Json, command, duration
from ema_core.jobs import fair, queue
from ema_core.jobs.attendance import attendance
from ema_core.runs import RunDirectory
from ema_core.shared import codes, people, room
from ema_core.shared.limits import WORDS, limits, set_limit

app = typer.Typer(no_args_is_help=True, help="A shared room: people, queue, limits.")


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


@command(app, "people")
def show_people(as_json: Json = False) -> None:
    """Who is in the room, where they are, and what is theirs."""
    rows = attendance()
    if as_json:
        return _print({"people": rows})
    for row in rows:
        here = f"here, on {row['page']}" if row["here"] else "away"
        role = f" ({row['role']})" if row["role"] != "participant" else ""
        typer.echo(
            f"{row['name']}{role}: {here}; {row['runs']} runs, {row['waiting']} jobs wait, worker {duration(row['seconds'])} in the last hour"
        )
    if not rows:
        typer.echo("Nobody has joined yet.")


@command(app, "queue")
def show_queue(as_json: Json = False) -> None:
    """Whose job is next, and when each begins by the estimates."""
    places = fair.in_order(queue.jobs())
    rows: list[dict[str, Any]] = [
        {
            "job": place.job.id,
            "owner": place.job.owner,
            "kind": place.job.kind,
            "before": place.before,
            "begins_in": round(place.seconds, 1),
        }
        for place in places
    ]
    if as_json:
        return _print({"paused": room.paused(), "waiting": rows})
    typer.echo("The queue is paused." if room.paused() else f"{len(rows)} jobs wait.")
    for row in rows:
        typer.echo(
            f"{row['before'] + 1}. {row['owner'] or 'the room'}: {row['kind']} in about {duration(row['begins_in'])} ({row['job']})"
        )


@command(app, "pause")
def pause() -> None:
    """Begin no further job; what runs goes on."""
    room.pause()
    typer.echo("The queue is paused; `ema room resume` goes on.")


@command(app, "resume")
def resume() -> None:
    """Go on after a pause."""
    room.pause(False)
    typer.echo("The queue goes on.")


@command(app, "next")
def run_next(job: Annotated[str, typer.Argument(help="A waiting job's id (`ema room queue`).")]) -> None:
    """Let a waiting job run before everybody's."""
    queue.to_front(job)
    queue.change(job, first=True)
    typer.echo(f"{job} is next.")


@command(app, "tell")
def tell(message: Annotated[str, typer.Argument(help='A line for every page; "" takes it away.')]) -> None:
    """Say something to everybody."""
    room.tell(message)
    typer.echo("It stands on every page." if message.strip() else "It is taken away.")


@command(app, "limits")
def show_limits(
    change: Annotated[list[str] | None, typer.Argument(help="steps=400 samples=3 …: changes them for all.")] = None,
    as_json: Json = False,
) -> None:
    """What one participant may ask for; kept in limits.toml."""
    for text in change or ():
        name, _, value = text.partition("=")
        set_limit(name, value)
    found = asdict(limits())
    if as_json:
        return _print({"limits": found})
    for name, value in found.items():
        typer.echo(f"{name} = {value:g}  {WORDS[name][1]}")


@command(app, "hide")
def hide(run: str, back: Annotated[bool, typer.Option("--back", help="Show it again.")] = False) -> None:
    """Take a run out of every list and figure; nothing of it is lost."""
    run_id = RunDirectory.open(run).id
    room.hide(run_id, not back)
    typer.echo(f"{run_id} is {'shown' if back else 'hidden'}.")


@command(app, "codes")
def show_codes(
    renew: Annotated[bool, typer.Option("--renew", help="Make new ones; the old no longer hold.")] = False, as_json: Json = False
) -> None:
    """The room's and the instructor's code."""
    found = codes.codes(renew)
    if as_json:
        return _print(found)
    typer.echo(f"room: {found['room']}\ninstructor: {found['instructor']}")


@command(app, "person")
def person(
    name: str,
    new_code: Annotated[bool, typer.Option("--new-code", help="Print a new personal code; the old one no longer holds.")] = False,
    lead: Annotated[bool | None, typer.Option("--lead/--no-lead", help="Make an instructor of them, or a participant.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the name out of the room; runs keep it.")] = False,
) -> None:
    """Change one person."""
    if lead is not None:
        people.lead(name, lead)
        typer.echo(f"{name} {'leads' if lead else 'takes part'} from their next click on.")
    if new_code:
        typer.echo(people.new_code_for(name))
    if remove:
        people.remove(name)
        typer.echo(f"{name} is free again.")
