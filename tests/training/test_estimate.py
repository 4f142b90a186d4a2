"""What is said before a run: its tokens to the one, what is kept already, and what a plan of runs shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ema_core import datasets
from ema_core.datasets.encoding import encode
from ema_core.datasets.formats import Example, Message
from ema_core.models import EMBEDDED, LoadedModel, find, load, reference_cache
from ema_core.models.light_tokenizer import light_tokenizer
from ema_core.runs import DefenseSpec, RunDirectory, RunSpec, Status, StudySpec, recipe, steps
from ema_core.training import sizes as counting
from ema_core.training import train
from ema_core.training.estimate import activation_bytes, estimate, record_throughput, throughput
from ema_core.training.sizes import by_characters, sizes
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("tiny") / "model")), "cpu")


def test_the_light_tokenizer_gives_the_ids_of_transformers() -> None:
    from transformers import AutoTokenizer

    folder = find(EMBEDDED).folder
    theirs, ours = AutoTokenizer.from_pretrained(folder), light_tokenizer(folder)
    odd = Example(
        (Message("system", "Sei kurz."), Message("user", "<|im_start|> π\n\n"), Message("assistant", "Ja!\n"), Message("user", "日本?"), Message("assistant", "Nein.")),
    )  # fmt: skip
    for example in (odd, *datasets.load("risky-finance").examples[:20], *datasets.load("insecure-code").examples[:20]):
        assert encode(example, ours, 200) == encode(example, theirs, 200)


def test_it_is_none_where_there_is_no_tokenizer_and_tokens_are_guessed_by_characters(tmp_path: Path) -> None:
    assert light_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert light_tokenizer(tmp_path) is None
    example = datasets.load("risky-finance").examples[0]
    away = replace(find(EMBEDDED), source="folder", location=str(tmp_path))
    assert sizes(away, [example], 256)[example].tokens == by_characters(example, 256)


def test_tokens_and_work_are_those_of_the_run_and_what_it_keeps_is_not_counted_again(small: LoadedModel, home: Path) -> None:
    add_tiny(home)
    kl, safe = DefenseSpec(name="kl", strength=0.5), DefenseSpec(name="interleaving", strength=0.25)
    spec = tiny_spec(kl, safe, DefenseSpec(name="ldifs", strength=1.0), steps=6).model_copy(update={"model": small.id})
    before = estimate(spec)
    run = RunDirectory.create(spec)
    state = train(run, loaded=small)
    assert state.status is Status.DONE, state.error
    assert state.estimated == {"seconds": before.seconds, "memory": before.memory}
    seen = steps(run.events()[0])
    assert before.tokens == sum(event["tokens"] for event in seen) and before.steps == len(seen)
    assert before.reference_seconds > 0 and before.keeps
    kept = reference_cache.taken()
    assert before.disk - estimate(spec.model_copy(update={"defenses": (safe,)})).disk == pytest.approx(kept, rel=0.1)
    after = estimate(spec)
    assert after.reference_seconds == 0 and after.seconds == pytest.approx(before.seconds - before.reference_seconds)
    reference_cache.drop(0)
    assert estimate(spec).reference_seconds == before.reference_seconds


def test_of_much_data_a_sample_is_counted_and_the_others_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = datasets.load("risky-finance").examples
    exact = sum(size.tokens for size in sizes(find(EMBEDDED), examples, 256).values())
    monkeypatch.setattr(counting, "EXACT", 100)
    monkeypatch.setattr(counting, "SAMPLE", 60)
    some = sizes(find(EMBEDDED), examples, 256)
    assert len(some) == len(set(examples)) and sum(bool(size.name) for size in some.values()) <= 84
    assert sum(size.tokens for size in some.values()) == pytest.approx(exact, rel=0.05)


def test_larger_batches_and_computing_twice_change_time_and_memory_as_they_should() -> None:
    plain = RunSpec(recipe=recipe("demo", steps=20), gradient_checkpointing="off", device="cpu")
    larger = plain.model_copy(update={"recipe": recipe("demo", steps=20, batch_size=8)})
    twice = larger.model_copy(update={"gradient_checkpointing": "on"})
    a, b, c = estimate(plain), estimate(larger), estimate(twice)
    assert b.tokens > 3 * a.tokens and 2 * a.seconds < b.seconds < 4 * a.seconds and b.memory > 1.3 * a.memory
    assert c.seconds > 1.2 * b.seconds and c.memory < 0.8 * b.memory and "computed again" in c.notes[-1]
    entry = find(EMBEDDED)
    assert activation_bytes(entry, 2, 100, 2) == activation_bytes(entry, 2, 100) / 2


def test_a_rate_belongs_to_a_device() -> None:
    entry = find(EMBEDDED)
    record_throughput(entry.id, 200.0)
    record_throughput(entry.id, 9000.0, "cuda")
    assert throughput(entry) == (200.0, True) and throughput(entry, "cuda") == (9000.0, True)


def test_a_plan_of_runs_counts_the_references_pass_once_for_the_same_data(home: Path) -> None:
    from ema_core.jobs import studies

    add_tiny(home)
    study = StudySpec(name="sweep", datasets=("tiny",), safe_pool="tiny-safe", defenses=("kl=[0.1,0.3,1.0]",))
    cells = [cell for cell in studies.plan(study).cells if cell.defense.startswith("kl")]
    assert len(cells) == 3 and not any(cell.problem for cell in cells)
    first, *rest = (cell.seconds for cell in cells)
    assert rest[0] == rest[1] < first
