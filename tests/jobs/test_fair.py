"""Whose job is next: properties over many random queues, and what a person is told."""

from __future__ import annotations

import random

import pytest

from ema_core.errors import EmaError
from ema_core.jobs import fair, queue
from ema_core.jobs.queue import Job
from ema_core.shared import Person, acting_as, room


def random_queue(seed: int, owners: int) -> list[Job]:
    """Jobs by rank; about a third comes after an earlier one of the same person."""
    rng = random.Random(seed)
    jobs: list[Job] = []
    for number in range(rng.randrange(4, 40)):
        owner = f"P{rng.randrange(owners)}"
        before = [job.id for job in jobs if job.owner == owner]
        after = [rng.choice(before)] if before and rng.random() < 0.35 else []
        jobs.append(
            Job(id=f"{number:03d}", kind="train", rank=float(number), owner=owner, after=after, seconds=rng.uniform(5, 200))
        )
    return jobs


def work(jobs: list[Job], now: float = 1e6) -> list[tuple[Job, dict[str, float], set[str]]]:
    """Take all jobs as a worker does: each with what was used before it, and who had something ready."""
    known = {job.id: job for job in jobs}
    taken = []
    while any(job.status == "queued" for job in known.values()):

        def ready(job: Job) -> bool:
            return all(known[name].status == "done" for name in job.after)

        now_jobs = list(known.values())
        spent = fair.used(now_jobs, now)
        job = fair.choose(now_jobs, ready, now)
        assert job is not None
        taken.append((job, spent, {other.owner for other in now_jobs if other.status == "queued" and ready(other)}))
        known[job.id] = job.model_copy(update={"status": "done", "started": now, "finished": now + job.seconds})
        now += job.seconds
    return taken


@pytest.mark.parametrize("seed", range(60))
def test_the_person_with_least_of_late_is_next_and_nothing_goes_before_what_it_needs(seed: int) -> None:
    jobs = random_queue(seed, owners=1 + seed % 5)
    taken = work(jobs)
    assert sorted(job.id for job, _, _ in taken) == [job.id for job in jobs]
    done: set[str] = set()
    for job, spent, ready in taken:
        assert set(job.after) <= done
        assert spent.get(job.owner, 0.0) == min(spent.get(owner, 0.0) for owner in ready)
        done.add(job.id)
    for owner in {job.owner for job in jobs}:  # what needs nothing keeps its person's order
        own = [job.id for job, _, _ in taken if job.owner == owner and not job.after]
        assert own == sorted(own)


@pytest.mark.parametrize("seed", range(20))
def test_with_one_owner_all_is_by_rank_and_forecast_says_what_happens(seed: int) -> None:
    alone = random_queue(seed, owners=1)
    assert [job.id for job, _, _ in work(alone)] == [job.id for job in alone]
    several = random_queue(seed, owners=4)
    places = fair.in_order(several, now=1e6)
    assert [place.job.id for place in places] == [job.id for job, _, _ in work(several)]
    assert [place.before for place in places] == list(range(len(several)))
    assert places[0].seconds == 0.0 and places[2].seconds == pytest.approx(sum(place.job.seconds for place in places[:2]))


def test_what_was_used_an_hour_ago_is_forgotten() -> None:
    old = Job(id="a", kind="train", owner="Ann", status="done", started=0.0, finished=900.0)
    recent = Job(id="b", kind="train", owner="Ben", status="done", started=4000.0, finished=4010.0)
    assert fair.used([old, recent], now=4600.0) == {"Ben": 10.0}
    assert fair.used([old], now=4200.0) == {"Ann": 300.0}


def test_the_queue_on_disk_turns_from_person_to_person() -> None:
    names = ["Ann", "Ann", "Ann", "Ben", "Cleo"]
    jobs = []
    for name in names:
        with acting_as(Person(name)):
            jobs.append(queue.enqueue("train", {"runs": []}))
    assert [job.owner for job in queue.jobs()] == ["Ann", "Ben", "Cleo", "Ann", "Ann"]
    order = []
    for number in range(5):
        job = queue.claim()
        assert job is not None
        order.append(job.owner)
        queue.change(job.id, status="done", started=job.created, finished=job.created + 10 + number)
    assert order == ["Ann", "Ben", "Cleo", "Ann", "Ann"]


def test_own_jobs_alone_can_be_moved_or_cancelled_and_moving_gains_nothing_from_others() -> None:
    with acting_as(Person("Ann")):
        first, second = queue.enqueue("judge", {}), queue.enqueue("judge", {})
    with acting_as(Person("Ben")):
        other = queue.enqueue("judge", {})
        with pytest.raises(EmaError, match="Ann's, not yours"):
            queue.to_front(second.id)
        with pytest.raises(EmaError, match="Ann's, not yours"):
            queue.cancel(second.id)
    with acting_as(Person("Ann")):
        queue.to_front(second.id)
    assert [job.id for job in queue.jobs()] == [second.id, other.id, first.id]
    with acting_as(Person("Ines", "instructor")):
        queue.to_front(first.id)
    assert [job.id for job in queue.jobs()] == [first.id, other.id, second.id]  # then it is Ben's turn


def test_a_paused_room_takes_no_job_until_it_goes_on() -> None:
    job = queue.enqueue("judge", {})
    room.pause()
    assert queue.claim() is None
    room.pause(False)
    assert (taken := queue.claim()) is not None and taken.id == job.id
