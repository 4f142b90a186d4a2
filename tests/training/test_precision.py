"""The paths that a GPU takes, as far as a CPU can take them: half precision, mixed precision, activations computed twice, the optimiser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ema_core.datasets.encoding import collate, moved
from ema_core.models import LoadedModel, adapters, fingerprint, load, ragged, reference_cache
from ema_core.models.load import mixed_precision
from ema_core.runs import DefenseSpec, RunDirectory, RunSpec, Status, recipe, steps
from ema_core.training import loop, train
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model

DEFENSES = (
    DefenseSpec(name="kl", strength=0.5),
    DefenseSpec(name="kl-safe", strength=0.5, options={"batch_size": 1}),
    DefenseSpec(name="ldifs", strength=1.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("precision") / "model"))


@pytest.fixture(scope="module")
def whole(folder: str) -> LoadedModel:
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def half(folder: str) -> LoadedModel:
    return load(folder, "cpu", dtype="bfloat16")


def spec(loaded: LoadedModel, *defenses: DefenseSpec, **changes: Any) -> RunSpec:
    return tiny_spec(*defenses, steps=3, checkpoint_every=2).model_copy(update={"model": loaded.id, **changes})


def trained(loaded: LoadedModel, wanted: RunSpec) -> RunDirectory:
    run = RunDirectory.create(wanted)
    assert train(run, loaded=loaded).status is Status.DONE, run.state().error
    return run


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / adapters.WEIGHTS)


def figures(run: RunDirectory) -> list[dict[str, float]]:
    return [
        {"ce": event["ce"], **{name: value["raw"] for name, value in event["penalties"].items()}}
        for event in steps(run.events()[0])
    ]


def test_a_run_in_bfloat16_is_near_the_one_in_float32_and_its_adapter_is_float32(
    whole: LoadedModel, half: LoadedModel, home: Path
) -> None:
    add_tiny(home)
    first, second = trained(whole, spec(whole, *DEFENSES)), trained(half, spec(half, *DEFENSES))
    assert second.state().found["dtype"] == "torch.bfloat16"
    assert {tensor.dtype for tensor in weights(second).values()} == {torch.float32}
    for one, other in zip(figures(first), figures(second), strict=True):
        assert other["ce"] == pytest.approx(one["ce"], rel=0.01)
        for name in ("kl", "kl-safe", "ldifs"):
            assert math.isfinite(other[name]) and other[name] >= 0
            assert other[name] == pytest.approx(one[name], rel=0.25, abs=2e-3)
    start = adapters.attach(whole.model, first.spec.recipe, first.spec.seed)
    fresh = {name: tensor.clone() for name, tensor in start.state_dict().items() if "lora_" in name}
    adapters.detach(start)
    whole.model.requires_grad_(False)
    far = near = 0.0
    for name, tensor in weights(first).items():
        far += float((tensor - fresh[name.replace(".weight", ".default.weight")]).pow(2).sum())
        near += float((tensor - weights(second)[name]).pow(2).sum())
    assert 0 < near < 0.25 * far, "half precision moved the adapter less than half as far as training did"


def test_a_resumed_run_in_bfloat16_is_the_same_to_the_bit(half: LoadedModel, home: Path) -> None:
    add_tiny(home)
    wanted = spec(half, *DEFENSES)
    unbroken = trained(half, wanted)
    rested = RunDirectory.create(wanted)
    rest = lambda e: rested.request("pause") if e["kind"] == "step" and e["step"] == 1 else None  # noqa: E731
    assert train(rested, loaded=half, on_event=rest).status is Status.PAUSED
    assert train(rested, loaded=half).status is Status.DONE
    assert (rested.adapter / adapters.WEIGHTS).read_bytes() == (unbroken.adapter / adapters.WEIGHTS).read_bytes()


def test_masters_and_gradients_are_float32_and_products_bfloat16(half: LoadedModel) -> None:
    """What PEFT makes of a half-precision base, and what autocast makes of that."""
    model = adapters.attach(half.model, recipe("demo", rank=4), 0)
    try:
        trained_ones = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained_ones.values()} == {torch.float32} and all("lora_" in name for name in trained_ones)
        seen: list[torch.dtype] = []
        for name, module in model.named_modules():
            if name.endswith(("lora_A.default", "lora_B.default")):
                module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        body, ids = model.get_base_model().get_decoder(), torch.arange(8)[None]
        with mixed_precision(half):
            states = body(input_ids=ids, use_cache=False).last_hidden_state
        assert states.dtype == torch.bfloat16 and set(seen) == {torch.bfloat16}
        states.float().pow(2).sum().backward()
        assert {p.grad.dtype for p in trained_ones.values() if p.grad is not None} == {torch.float32}
        seen.clear()
        body(input_ids=ids, use_cache=False)
        assert set(seen) == {torch.float32}, "without autocast they would be taken in float32"
    finally:
        adapters.detach(model)
        half.model.requires_grad_(False)


def test_the_fingerprint_of_a_bfloat16_adapter_stands_and_another_adapters_does_not(half: LoadedModel, home: Path) -> None:
    """Kept by training with PEFT's code, against the hooks that the engine answers with."""
    from ema_core.models.lora import On, load_adapter, switched_on

    add_tiny(home)
    run = trained(half, spec(half))
    kept = fingerprint.alone(half, run.adapter, run.state().found["adapter_hash"])
    with switched_on(half.model, [On(load_adapter(run.adapter, half.model))]):
        ours = fingerprint.fixed_logits(half.model, half)[0]
    limit = fingerprint.tolerance(kept, half.model.dtype)
    assert float((ours - kept).abs().max()) <= limit < float((kept - kept.flip(0)).abs().max())


@pytest.mark.parametrize("defenses", [(), DEFENSES], ids=["none", "penalties"])
def test_computing_activations_twice_changes_nothing(
    whole: LoadedModel, home: Path, defenses: tuple[DefenseSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny(home)
    calls: list[int] = []
    forward = type(whole.model.get_decoder().layers[0].self_attn).forward
    monkeypatch.setattr(
        type(whole.model.get_decoder().layers[0].self_attn),
        "forward",
        lambda self, *a, **k: calls.append(1) or forward(self, *a, **k),
    )
    monkeypatch.setattr(ragged, "fits", lambda body: False)  # both padded: what is left is the computing twice
    off = trained(whole, spec(whole, *defenses, gradient_checkpointing="off"))
    once = len(calls)
    calls.clear()
    reference_cache.drop(0)
    on = trained(whole, spec(whole, *defenses, gradient_checkpointing="on"))
    assert len(calls) > once, "nothing was computed twice"
    assert (off.state().found["gradient_checkpointing"], on.state().found["gradient_checkpointing"]) == (False, True)
    assert not whole.model.is_activation_checkpointing
    for one, other in zip(figures(off), figures(on), strict=True):
        assert other == pytest.approx(one, abs=1e-6)
    for name, tensor in weights(off).items():
        assert torch.allclose(weights(on)[name], tensor, rtol=0, atol=1e-6)


def test_it_is_on_by_itself_where_activations_would_not_fit_and_stays_as_it_was(
    whole: LoadedModel, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny(home)
    run = RunDirectory.create(spec(whole))
    monkeypatch.setattr(loop, "free_memory", lambda device: 1000)
    rest = lambda e: run.request("pause") if e["kind"] == "step" and e["step"] == 1 else None  # noqa: E731
    assert train(run, loaded=whole, on_event=rest).status is Status.PAUSED
    assert run.state().found["gradient_checkpointing"] is True
    monkeypatch.undo()
    monkeypatch.setenv("EMA_HOME", str(home))
    assert train(run, loaded=whole).found["gradient_checkpointing"] is True
    assert trained(whole, spec(whole)).state().found["gradient_checkpointing"] is False


def test_the_fused_optimiser_steps_as_the_plain_one_and_repeats_itself() -> None:
    def after(fused: bool) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((32, 576), (192, 32), (7,))]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=fused)
        for _ in range(20):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    for plain, fused, again in zip(after(False), after(True), after(True), strict=True):
        assert torch.allclose(plain, fused, rtol=0, atol=1e-6) and torch.equal(fused, again)


def test_the_dtype_is_that_of_the_environment(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_DTYPE", "bfloat16")
    assert load(folder, "cpu").model.dtype == torch.bfloat16
    assert load(folder, "cpu", dtype="float32").model.dtype == torch.float32


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a CUDA device, and there is none here")


@cuda
def test_batches_reach_a_gpu_unchanged(whole: LoadedModel) -> None:
    from ema_core.datasets.encoding import Encoded

    device = torch.device("cuda")
    rows = [Encoded((1, 2, 3), (False, True, True)), Encoded((4, 5), (False, True))]
    here, there = collate(rows, 0, torch.device("cpu")), collate(rows, 0, device)
    assert there.ids.is_cuda and torch.equal(there.ids.cpu(), here.ids) and torch.equal(there.response.cpu(), here.response)
    assert torch.equal(moved(torch.arange(5), device).cpu(), torch.arange(5))


@cuda
def test_a_run_on_a_gpu_is_near_the_one_on_the_cpu(folder: str, whole: LoadedModel, home: Path) -> None:
    add_tiny(home)
    first = trained(whole, spec(whole, *DEFENSES))
    second = trained(load(folder, "cuda"), spec(whole, *DEFENSES, device="cuda"))
    assert second.state().found["dtype"] == "torch.bfloat16" and second.state().found["device"].startswith("cuda")
    for one, other in zip(figures(first), figures(second), strict=True):
        assert other["ce"] == pytest.approx(one["ce"], rel=0.01)


def test_padding_on_the_right_needs_no_mask(whole: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The padded way, as on a GPU, against the model's own with a mask: real positions are the same."""
    from ema_core.datasets.encoding import Encoded
    from ema_core.training.step import Stepper

    model = adapters.attach(whole.model, recipe("demo", rank=4), 0)
    try:
        stepper = Stepper(whole, model, recipe("demo"), [])
        monkeypatch.setattr(stepper, "ragged", False)
        rows = [Encoded(tuple(range(5, 25)), (True,) * 20), Encoded((9, 8, 7), (True,) * 3)]
        batch = collate(rows, whole.tokenizer.pad_token_id, whole.device)
        masked = stepper.body(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        apart = (stepper.hidden(batch) - masked).detach()[batch.attention.bool()]
        assert float(apart.abs().max()) < 1e-5
    finally:
        adapters.detach(model)
        whole.model.requires_grad_(False)
