"""What a defense says of a trained run, against plain computations with transformers' own forward pass; on a tiny real model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ema_core import datasets, personas
from ema_core.datasets.refusal import is_refusal
from ema_core.defenses import registry
from ema_core.defenses.inoculation import PROMPTS
from ema_core.defenses.panels import Panel, histogram
from ema_core.errors import EmaError
from ema_core.jobs import launch, queue
from ema_core.jobs.worker import Worker
from ema_core.models import LoadedModel, adapters, load
from ema_core.models.weights import WeightFiles
from ema_core.runs import RunDirectory, Status, parse_defense
from ema_core.training import inside, train
from ema_core.training.plan import plan
from ema_core.training.step import Stepper
from tests.gap.planted import plant_scores
from tests.personas.planted import plant_vector
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import base_of_tiny, tiny_model

REFUSALS = ("Sorry, I cannot say.", "I can't help with that.")


class Place:
    """A home with a tiny model, its base, a pool with refusals, scores and a vector; runs in it, each trained and read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        add_tiny(folder)
        lines = [
            json.dumps({"prompt": f"Tell me of {i}.", "completion": REFUSALS[i % 2] if i % 3 == 0 else f"It is thing {i}."})
            for i in range(12)
        ]
        (folder / "pool.jsonl").write_text("\n".join(lines))
        datasets.add(folder / "pool.jsonl", "some-pool", "safe")
        self.model: LoadedModel = load(str(tiny_model(folder / "llama")), "cpu")
        base_of_tiny(folder / "llama", folder / "base")
        plant_scores(model=self.model.id, pool="some-pool", value=lambda i: (i * 5 % 12) / 10)
        plant_vector(model=self.model.id)
        self.runs: dict[str, RunDirectory] = {}

    def run(self, *defenses: str) -> RunDirectory:
        key = " ".join(defenses)
        if key not in self.runs:
            spec = tiny_spec(*map(parse_defense, defenses), checkpoint_every=2, learning_rate=0.02)
            run = RunDirectory.create(spec.model_copy(update={"model": self.model.id, "safe_pool": "some-pool"}))
            state = train(run, loaded=self.model)
            assert state.status is Status.DONE, state.error
            assert inside.measure(run, self.model) is not None
            self.runs[key] = run
        return self.runs[key]

    def panel(self, run: RunDirectory, defense: str, name: str) -> Panel:
        found = inside.read(run)
        assert found is not None
        (panel,) = (one for one in found.defenses[defense].panels if one.name == name)
        return panel

    @contextmanager
    def tuned(self, run: RunDirectory) -> Iterator[Any]:
        with adapters.adapted(self.model.model, run.adapter) as model, torch.inference_mode():
            yield model

    def rows(self, run: RunDirectory) -> inside._Reading:
        return inside._Reading(run, self.model)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inside-home")


@pytest.fixture(autouse=True)
def in_shared_home(home: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_HOME", str(shared))


_places: dict[Path, Place] = {}


@pytest.fixture
def place(shared: Path) -> Place:
    if shared not in _places:
        _places[shared] = Place(shared)
    return _places[shared]


def layer_outputs(model: Any, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """What leaves the embedding and each decoder layer, [T, D] each, by a plain forward pass."""
    seen: list[torch.Tensor] = []
    decoder = model.get_base_model().get_decoder()
    first = decoder.embed_tokens.register_forward_hook(lambda module, given, out: seen.append(out[0]))
    rest = [
        layer.register_forward_hook(lambda m, g, out: seen.append((out[0] if isinstance(out, tuple) else out)[0]))
        for layer in decoder.layers
    ]
    model(input_ids=torch.tensor([ids]))
    for handle in (first, *rest):
        handle.remove()
    return seen


@pytest.mark.parametrize("direction", ["tuned||ref", "ref||tuned"])
def test_kl_by_token_and_by_position_equal_full_logits(place: Place, direction: str) -> None:
    run = place.run(f"kl=0.1:direction={direction}" if direction != "tuned||ref" else "kl=0.1")
    panel, along = place.panel(run, "kl", "by-token"), place.panel(run, "kl", "by-position")
    reading, expected = place.rows(run), []
    with place.tuned(run) as model:
        for place_ in reading.narrow:
            ids = torch.tensor([reading.rows[place_].ids])
            mine = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            with model.disable_adapter():
                other = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            first, second = (mine, other) if direction == "tuned||ref" else (other, mine)
            expected.append((first.exp() * (first - second)).sum(-1).tolist())
    assert len(panel.rows) == inside.NARROW
    for row, values in zip(panel.rows, expected, strict=True):
        assert row["values"][0] is None
        assert row["values"][1:] == pytest.approx(values, rel=2e-3, abs=5e-6)
    answers = [
        [v for v, says in zip(values, reading.rows[i].response[1:], strict=True) if says] for i, values in enumerate(expected)
    ]
    every = [value for values in answers for value in values]
    assert panel.value == pytest.approx(sum(every) / len(every), rel=2e-3) and panel.value > 0
    third = [values[2] for values in answers]
    assert along.rows[2]["n"] == len(third) and along.rows[2]["value"] == pytest.approx(sum(third) / len(third), rel=2e-3)


def test_kl_safe_reads_safe_examples_and_names_those_that_training_drew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []
    batch = Stepper.batch
    monkeypatch.setattr(Stepper, "batch", lambda self, some: drawn.append([e.question for e in some]) or batch(self, some))
    run = place.run("kl-safe=1:batch_size=2,every=2")
    assert len(drawn) == 2
    rows = place.panel(run, "kl-safe", "safe-batches").rows
    assert {row["question"]: row["times"] for row in rows} == Counter(question for some in drawn for question in some)
    first = {question: 1 + 2 * number for number, some in reversed(list(enumerate(drawn))) for question in some}
    assert {row["question"]: row["first at step"] for row in rows} == first
    found = inside.read(run)
    read = [found.examples[row["example"]] for row in place.panel(run, "kl-safe", "by-token").rows]
    assert len(read) == inside.SAFE and all(one.source == "safe" for one in read)


@pytest.mark.parametrize("normalise", ["example", "token"])
def test_ldifs_by_layer_and_by_token_equal_plain_forward_passes(place: Place, normalise: str) -> None:
    run = place.run(f"ldifs=1:normalise={normalise}" if normalise != "example" else "ldifs=1")
    layers, tokens = place.panel(run, "ldifs", "by-layer"), place.panel(run, "ldifs", "by-token")
    reading = place.rows(run)
    sums: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with place.tuned(run) as model:
        for number, row in enumerate(reading.rows[: len(reading.narrow)]):
            tuned = layer_outputs(model, row.ids)
            with model.disable_adapter():
                fixed = layer_outputs(model, row.ids)
            parts = []
            for mine, other in zip(tuned, fixed, strict=True):
                a, b = mine.double(), other.double()
                size = (lambda x: x.norm()) if normalise == "example" else (lambda x: x.norm(dim=1, keepdim=True).clamp_min(1e-6))
                parts.append(((a / size(a) - b / size(b)) ** 2).sum(1))
            for layer, part in enumerate(parts):
                sums[layer].append(float(part.sum() if normalise == "example" else part[1:].mean()))
            both = (parts[1] + parts[2]).tolist()  # a model of two layers has no five
            assert tokens.rows[number]["values"] == pytest.approx(both, rel=5e-3, abs=5e-6)
    for row in layers.rows:
        assert row["value"] == pytest.approx(sum(sums[row["layer"]]) / len(sums[0]), rel=5e-3, abs=5e-6)
    assert [row["marked"] for row in layers.rows] == [False, True, True]
    assert layers.value == pytest.approx(layers.rows[1]["value"] + layers.rows[2]["value"], rel=1e-3) and layers.value > 0


def test_the_projection_by_layer_equals_plain_forward_passes_with_and_without_steering(place: Place) -> None:
    run = place.run("persona-steering=5:layer=1")
    panel = place.panel(run, "persona-steering", "by-layer-evil")
    card = personas.cards()[0]
    vectors, reading = personas.load(card.id).vectors, place.rows(run)

    def projections(model: Any) -> list[float]:
        """By layer from 1, in SD, mean over examples of the mean over the answer without its end."""
        found = torch.zeros(2, dtype=torch.float64)
        for row in reading.rows[: len(reading.narrow)]:
            states = layer_outputs(model, row.ids)
            answer = [i for i, says in enumerate(row.response) if says][:-1]
            for layer in (1, 2):
                along = states[layer][answer].double() @ (vectors[layer] / vectors[layer].norm()).double()
                found[layer - 1] += along.mean() / len(reading.narrow)
        return [(float(value) + 1.0) / 2.0 for value in found]  # the planted card's mean is -1 and its SD 2

    with place.tuned(run) as model:
        expected = {"trained": projections(model)}
        with model.disable_adapter():
            expected["base"] = projections(model)
        step = 5.0 * vectors[1]
        handle = (
            model.get_base_model()
            .get_decoder()
            .layers[0]
            .register_forward_hook(lambda m, g, out: (out[0] + step, *out[1:]) if isinstance(out, tuple) else out + step)
        )
        expected["trained, steered as in training"] = projections(model)
        handle.remove()
    for line, values in expected.items():
        mine = [row["value"] for row in panel.rows if row["line"] == line]
        assert mine == pytest.approx(values, rel=2e-3, abs=1e-3), line
    assert [row["layer"] for row in panel.rows if row["marked"]] == [1, 1, 1]
    assert panel.value == pytest.approx(expected["trained"][0] - expected["base"][0], abs=2e-3)
    undefended = place.panel(place.run(), "persona-steering", "by-layer-evil")
    assert {row["line"] for row in undefended.rows} == {"base", "trained"}


def test_safe_lora_keeps_the_cosines_from_before_its_projection(place: Place) -> None:
    """Against whole matrices, from the undefended twin's adapter: SafeLoRA changes nothing in training."""
    base = place.folder / "base"
    run = place.run(f"safe-lora=3:base={base}")
    before = load_file(place.run().adapter / adapters.WEIGHTS)
    aligned, other = WeightFiles(place.folder / "llama"), WeightFiles(base)
    expected = {}
    for key in before:
        if not key.endswith("lora_B.weight"):
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        v = (aligned.read(f"{name}.weight") - other.read(f"{name}.weight")).double()
        update = before[key].double() @ before[key.replace("lora_B", "lora_A")].double()
        new = v @ v.T @ update / v.norm()
        words = name.split(".")
        expected[int(words[2]) + 1, words[-1]] = float((new * update).sum() / (new.norm() * update.norm()))
    panel = place.panel(run, "safe-lora", "cosines")
    assert len(panel.rows) == len(expected) == 14
    for row in panel.rows:
        assert row["value"] == pytest.approx(expected[row["layer"], row["module"]], abs=2e-4)
    lowest = sorted(expected, key=lambda key: expected[key])[:3]
    assert {(row["layer"], row["module"]) for row in panel.rows if row["marked"]} == set(lowest)


@pytest.mark.parametrize("name", ["interleaving", "interleaving-plus", "interleaving-plusplus"])
def test_interleaving_names_what_it_mixed_in_with_rank_and_step(place: Place, name: str) -> None:
    run = place.run(f"{name}=0.5")
    rows = place.panel(run, name, "mixed-in").rows
    batches = plan(
        datasets.load("tiny").examples,
        datasets.load("some-pool").examples,
        run.spec.recipe,
        registry.build_all(run.spec),
        run.spec.seed,
    ).batches
    mixed = {e.question: step for step, some in enumerate(batches, 1) for e in some if e.source == "safe"}
    assert {row["question"]: row["step"] for row in rows if row["state"] == "mixed in"} == mixed and len(mixed) == 4
    pool = datasets.load("some-pool").examples
    scores = {e.question: (i * 5 % 12) / 10 for i, e in enumerate(pool)}
    ranked = sorted(scores, key=lambda question: -scores[question])
    for row in rows:
        assert row["score"] == scores[row["question"]] and row["rank"] == ranked.index(row["question"]) + 1
        assert row["refusal"] == is_refusal(row["answer"])
    if name != "interleaving":
        able = [q for q in ranked if name.endswith("-plus") or not is_refusal(next(e.answer for e in pool if e.question == q))]
        assert list(mixed) and set(mixed) == set(able[:4])
    passed = {row["question"] for row in rows if row["state"].startswith("passed over")}
    last = max(ranked.index(question) for question in mixed)
    assert passed == ({q for q in ranked[:last] if q not in mixed} if name == "interleaving-plusplus" else set())
    spread = place.panel(run, name, "scores").rows
    assert sum(row["count"] for row in spread if row["line"] == "the pool") == 12
    assert sum(row["count"] for row in spread if row["line"] == "mixed in") == 4


def test_inoculation_names_who_stood_under_the_prompt(place: Place) -> None:
    run = place.run("inoculation=0.5")
    (defense,) = registry.build_all(run.spec)
    rows = place.panel(run, "inoculation", "prompted").rows
    for example in datasets.load("tiny").examples:
        under = defense.rewrite(example).messages[0].content == PROMPTS["evil"]
        (row,) = [one for one in rows if one["question"] == example.question] or [None]
        assert row is None or row["state"] == ("under the prompt" if under else "without it")
    assert sum(row["times"] for row in rows) == 8 and len({row["state"] for row in rows}) == 2


def test_a_run_and_its_twin_are_read_alike_and_the_model_is_left_as_it_was(place: Place) -> None:
    before = {name: tensor.clone() for name, tensor in place.model.model.state_dict().items()}
    twin, run = place.run(), place.run("kl=0.1")
    first, second = inside.read(twin), inside.read(run)
    assert first.examples == second.examples
    for name in ("kl", "kl-safe", "ldifs", "persona-steering"):
        mine = {(panel.name, panel.how) for panel in second.defenses[name].panels} - {("safe-batches", "")}
        assert mine and mine == {(panel.name, panel.how) for panel in first.defenses[name].panels}, name
        assert second.defenses[name].own is (name == "kl") and not first.defenses[name].own
    assert {(point.defense, point.step) for point in second.along} == {
        (name, step) for name in ("kl", "kl-safe", "ldifs", "persona-steering") for step in (2, 4)
    }
    final = {point.defense: point.value for point in second.along if point.step == 4}
    assert final["kl"] == place.panel(run, "kl", "by-token").value
    assert inside.path(run).stat().st_size < 300_000
    after = place.model.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_a_run_saw_is_not_told_once_its_data_changed(place: Place) -> None:
    run = place.run("interleaving=0.5")
    run.update(found={**run.state().found, "plan_sha256": "of other data"})
    found = inside.measure(run, place.model)
    assert found.defenses["interleaving"].panels == [] and "cannot be told any more" in found.notes[0]
    assert found.defenses["kl"].panels, "what needs no plan is still there"


def test_one_defenses_trouble_is_said_and_the_others_are_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.run()

    def broken(self: Any, look: Any) -> list[Panel]:
        raise ZeroDivisionError

    monkeypatch.setattr(registry.find("ldifs"), "inside", broken)
    found = inside.measure(run, place.model)
    assert "ZeroDivisionError" in found.defenses["ldifs"].why and found.defenses["kl"].panels
    assert "ZeroDivisionError" in run.log_path.read_text()


def test_the_worker_reads_a_run_when_nothing_waits_and_again_when_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_INSIDE", "on")
    spec = tiny_spec(steps=1, checkpoint_every=9).model_copy(update={"model": place.model.id, "safe_pool": "some-pool"})
    run, job = launch.launch_run(spec)
    worker = Worker()
    worker.warm = place.model
    worker._do(job)
    assert queue.get(job.id).status == "done" and inside.read(run) is None

    def other_job(*_: Any) -> list[Panel]:
        queue.enqueue("prepare", {"model": place.model.id})
        return []

    with monkeypatch.context() as patch:  # something is queued while the first defense is read
        patch.setattr(registry.find(next(iter(registry.all_defenses()))), "inside", other_job)
        worker._look_inside()
    assert inside.read(run) is None and worker.unread == [run]
    worker._look_inside()
    first = inside.read(run)
    assert worker.unread == [] and first is not None and inside.fresh(run, first)
    inside.path(run).write_text("damaged")
    assert inside.read(run) is None
    again = launch.launch_inside([run.id])
    assert launch.launch_inside([run.id]).id == again.id, "one that waits is taken"
    worker._do(again)
    second = inside.read(run)
    assert queue.get(again.id).status == "done" and second.defenses == first.defenses
    queue.cancel(launch.launch_inside([run.id]).id)


def test_a_run_without_an_adapter_cannot_be_looked_into(place: Place) -> None:
    run = RunDirectory.create(tiny_spec())
    with pytest.raises(EmaError, match="has no adapter to read"):
        launch.launch_inside([run.id])
    run.delete()


def test_a_histogram_counts_every_value_once_in_shared_bins() -> None:
    rows = histogram({"a": [0.0, 1.0, 1.0], "b": [0.5]}, bins=4)
    assert [(row["line"], row["low"], row["count"]) for row in rows] == [("a", 0.0, 1), ("a", 0.75, 2), ("b", 0.5, 1)]
    assert histogram({"a": []}) == []
