"""Steering adds exactly alpha·v at one layer in training, nothing at inference, and refuses what cannot be before training."""

from __future__ import annotations

from typing import Any

import pytest

from ema_core import personas
from ema_core.defenses import registry
from ema_core.defenses.persona_steering import SteeringOptions, projected_on
from ema_core.errors import EmaError
from ema_core.jobs import launch, queue
from ema_core.models import LoadedModel, adapters, load
from ema_core.runs import DefenseSpec, RunDirectory, RunSpec, Status, parse_defense, recipe
from ema_core.training import check, train
from ema_core.training.estimate import estimate
from tests.personas.planted import plant_vector
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("steering") / "llama")), "cpu")


def spec_of(llama: LoadedModel, *defenses: DefenseSpec, **changes: Any) -> RunSpec:
    return tiny_spec(*defenses, **changes).model_copy(update={"model": llama.id})


def steering(spec: RunSpec) -> Any:
    (defense,) = registry.build_all(spec)
    return defense


@pytest.mark.parametrize("text", ["persona-steering=5", "persona-steering=0.3:unit=ratio,layer=1"])
def test_it_adds_exactly_alpha_times_the_vector_after_its_layer_and_nothing_at_inference(llama: LoadedModel, text: str) -> None:
    """In float64: outputs of every layer with and without, on the model with an adapter as training has it."""
    import torch

    card = plant_vector(model=llama.id)
    defense = steering(spec_of(llama, parse_defense(text)))
    layer = defense.options.layer or personas.default_layer(2)
    raw = personas.load(card.id).vectors[layer].double()
    alpha = 5.0 if defense.options.unit == "raw" else 0.3 * 100.0 * layer / float(raw.norm())
    model = adapters.attach(llama.model, recipe("demo", rank=4), 0).double()
    ids = torch.arange(10, 34).view(2, 12)
    seen: dict[int, torch.Tensor] = {}
    decoder = model.get_base_model().get_decoder()
    inputs: dict[int, torch.Tensor] = {}
    try:

        def states() -> tuple[torch.Tensor, ...]:
            """[layer's own output before any hook of a defense, what the next layer gets]"""
            handles = [
                decoder.layers[layer - 1].mlp.register_forward_hook(lambda m, i, o: seen.__setitem__(0, o)),
                decoder.layers[layer - 1].post_attention_layernorm.register_forward_pre_hook(
                    lambda m, i: seen.__setitem__(1, i[0])
                ),
                (decoder.norm if layer == 2 else decoder.layers[layer]).register_forward_pre_hook(
                    lambda m, i, k: inputs.__setitem__(0, i[0] if i else k["hidden_states"]), with_kwargs=True
                ),
            ]
            with torch.no_grad():
                decoder(input_ids=ids, use_cache=False)
            for handle in handles:
                handle.remove()
            return seen[0] + seen[1], inputs[0]

        with defense.steering(model):
            own, onward = states()
        within = 1e-10 if defense.options.unit == "raw" else 1e-5  # the card's norms are float32
        assert float((onward - own - alpha * raw).abs().max()) < within, "every token of every row"
        own, onward = states()
        assert torch.equal(own, onward), "outside nothing is added"
        with pytest.raises(RuntimeError, match="broke"), defense.steering(model):
            raise RuntimeError("broke")
        own, onward = states()
        assert torch.equal(own, onward), "a forward pass that breaks leaves nothing behind"
    finally:
        adapters.detach(model)
        llama.model.float().requires_grad_(False)


def test_a_run_trains_under_it_and_its_adapter_answers_without(llama: LoadedModel, home) -> None:
    add_tiny(home)
    plant_vector(model=llama.id)
    losses = {}
    for strength in (0.0, 5.0):
        run = RunDirectory.create(spec_of(llama, DefenseSpec(name="persona-steering", strength=strength), steps=2))
        state = train(run, loaded=llama)
        assert state.status is Status.DONE, state.error
        losses[strength] = [event["loss"] for event in run.events()[0] if event["kind"] == "step"]
    plain = RunDirectory.create(spec_of(llama, steps=2))
    assert train(plain, loaded=llama).status is Status.DONE
    assert losses[0.0] == [event["loss"] for event in plain.events()[0] if event["kind"] == "step"] != losses[5.0]
    assert not any(module._forward_hooks for module in llama.model.modules())


@pytest.mark.parametrize("other", ["kl=0.1", "kl-safe=0.1", "ldifs=1"])
def test_it_is_refused_beside_a_penalty_against_an_unsteered_reference(llama: LoadedModel, home, other: str) -> None:
    add_tiny(home)
    plant_vector(model=llama.id)
    with pytest.raises(EmaError, match=r"cannot be combined.*reference is not steered"):
        check(spec_of(llama, parse_defense("persona-steering=5"), parse_defense(other)))


def test_what_does_not_fit_is_refused_before_training(llama: LoadedModel, home) -> None:
    add_tiny(home)

    def refused(text: str, words: str) -> None:
        with pytest.raises(EmaError, match=words):
            check(spec_of(llama, parse_defense(text)))

    refused("persona-steering=5", "persona vector evil .* is missing.*ema persona build")
    plant_vector(model=llama.id)
    check(spec_of(llama, parse_defense("persona-steering=5")))
    refused("persona-steering=5:layer=3", "has 2 layers")
    refused("persona-steering=900", r"adds 45.0 times the norm of an activation.*Stay below 80;")
    refused("persona-steering=5:unit=ratio", "adds 5.0 times the norm")
    other = plant_vector(model="smollm2-135m")
    refused(f"persona-steering=5:vector={other.id}", "made for 30 layers")
    refused("persona-steering=5:vector=evil-of-nobody", "evil-of-nobody is missing.*ema persona list")
    plant_vector(model=llama.id, weights_hash="0123456789abcdef")
    refused("persona-steering=5", "with weights 0123456789abcdef")


def test_a_missing_vector_is_made_by_a_job_before_the_run(llama: LoadedModel, home) -> None:
    add_tiny(home)
    spec = spec_of(llama, parse_defense("persona-steering=5:trait=sycophantic"))
    ((title, seconds),) = estimate(spec).first
    assert "sycophantic" in title and seconds > 0
    _, job = launch.launch_run(spec)
    first, *_ = queue.jobs()
    assert first.kind == "persona" and first.payload == {"trait": "sycophantic", "model": llama.id} and job.after == [first.id]
    assert launch.launch_persona("sycophantic", llama.id).id == first.id, "the same vector is not built twice"


def test_the_traits_of_the_option_are_the_traits_that_there_are() -> None:
    assert list(SteeringOptions.model_fields["trait"].annotation.__args__) == personas.traits()


@pytest.mark.parametrize(
    ("texts", "trait"),
    [
        ([], "evil"),
        (["kl=0.1"], "evil"),
        (["persona-steering=5"], "malicious"),
        (["inoculation=1", "persona-steering=5:layer=1"], "malicious"),
        (["persona-steering=5:trait=malicious"], "evil"),
        (["persona-steering=5:trait=sycophantic"], "evil"),
        (["persona-steering=5:vector=evil-of-nobody"], "malicious"),
        (["persona-steering=5:vector=malicious-of-nobody"], "evil"),
        (["persona-steering=5:vector=of-whatever-trait"], "malicious"),
    ],
)
def test_a_run_is_projected_on_a_vector_that_its_training_does_not_add(texts: list[str], trait: str) -> None:
    assert projected_on(RunSpec(defenses=tuple(parse_defense(text) for text in texts))) == trait
