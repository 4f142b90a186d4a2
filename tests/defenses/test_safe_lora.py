from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ema_core import datasets
from ema_core.datasets.encoding import collate, encode
from ema_core.defenses import registry
from ema_core.defenses.safe_lora import chosen, cosine, leading_columns, projected, uses_substitute
from ema_core.errors import EmaError
from ema_core.jobs import launch, queue
from ema_core.jobs.worker import Worker
from ema_core.models import CATALOG, CHAT_MODELS, EMBEDDED, LoadedModel, find, load, substitute
from ema_core.models.weights import WeightFiles, linear_weights
from ema_core.runs import DefenseSpec, RunDirectory, RunSpec, Status, parse_defense
from ema_core.training import check, train
from ema_core.training import substitute as building
from ema_core.training.estimate import estimate
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import base_of_tiny, tiny_model

V = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
"""Full row rank; squared norm 7."""
B = torch.tensor([[1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
A = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.flatten() @ y.flatten()) / (x.flatten().norm() * y.flatten().norm()))


# -- the numbers ------------------------------------------------------------------------------------------------------


def test_the_update_and_its_cosine_are_those_of_a_hand_made_matrix() -> None:
    # V Vᵀ = [[5, 2], [2, 2]], ‖V‖ = √7; times B = [[9, 2], [6, 2]] / √7
    expected = torch.tensor([[9.0, 2.0], [6.0, 2.0]], dtype=torch.float64) / 7**0.5
    assert torch.allclose(projected(V, B), expected, atol=1e-12)
    # P·B·A = [[9, 4, 11], [6, 4, 8]] / √7 and B·A = [[1, 0, 1], [2, 2, 3]]: 64 / (√334 √19)
    assert cosine(projected(V, B), B, A) == pytest.approx(64 / (334 * 19) ** 0.5, abs=1e-12)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)], ids=["square", "wide", "tall"])
def test_short_products_give_what_the_whole_matrices_give(shape: tuple[int, int]) -> None:
    v, b, a = random(*shape), random(shape[0], 4, seed=1), random(4, shape[1], seed=2)
    whole = (v @ v.T / torch.linalg.matrix_norm(v)) @ b
    assert torch.allclose(projected(v, b), whole, atol=1e-10)
    assert cosine(projected(v, b), b, a) == pytest.approx(plain_cosine(whole @ a, b @ a), abs=1e-10)


def test_the_published_scaling_is_no_projector_and_shrinks_with_v() -> None:
    v, b = random(16, 16), random(16, 4, seed=1)
    once = projected(v, b)
    assert not torch.allclose(projected(v, once), once, atol=1e-2)
    assert torch.allclose(projected(0.01 * v, b), 0.01 * once, atol=1e-12)
    assert cosine(projected(0.01 * v, b), b, random(4, 9)) == pytest.approx(cosine(once, b, random(4, 9)), abs=1e-12)


def test_the_exact_projector_is_the_identity_on_full_row_rank_and_something_only_with_a_cut() -> None:
    v, b = random(12, 20), random(12, 3, seed=1)
    exact = v @ torch.linalg.pinv(v)
    assert torch.allclose(exact @ b, b, atol=1e-10)  # why it is not offered without a cut
    cut = projected(v, b, energy=0.6)
    assert cut.norm() < 0.95 * b.norm()
    assert torch.allclose(projected(v, cut, energy=0.6), cut, atol=1e-10)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)], ids=["wide", "tall"])
@pytest.mark.parametrize("energy", [0.3, 0.6, 0.99])
def test_the_rank_cut_keeps_the_fewest_columns_that_hold_the_share(shape: tuple[int, int], energy: float) -> None:
    v = random(*shape)
    u, s, _ = torch.linalg.svd(v, full_matrices=False)
    k = next(k for k in range(1, len(s) + 1) if float((s[:k] ** 2).sum() / (s**2).sum()) >= energy)
    mine = leading_columns(v, energy)
    assert mine.shape == (shape[0], k) and torch.allclose(mine.T @ mine, torch.eye(k, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(mine @ mine.T, u[:, :k] @ u[:, :k].T, atol=1e-8)


def test_what_was_not_learned_counts_as_aligned_and_what_is_projected_away_as_not() -> None:
    assert cosine(B, 0 * B, A) == 1.0
    assert cosine(0 * B, B, A) == 0.0


def test_both_ways_to_choose_and_none_at_strength_0() -> None:
    cosines = [0.4, 0.0, 0.9, 0.5, 0.4]
    assert chosen(cosines, "number", 3) == {1, 0, 4}
    assert chosen(cosines, "number", 2) == {1, 0}
    assert chosen(cosines, "number", 99) == {0, 1, 2, 3, 4}
    assert chosen(cosines, "threshold", 0.5) == {0, 1, 4}
    assert chosen(cosines, "number", 0) == chosen(cosines, "threshold", 0) == set()


# -- a tiny model, from the spec to the adapter -----------------------------------------------------------------------


@pytest.fixture
def aligned(home: Path) -> Path:
    add_tiny(home)
    return tiny_model(home / "tiny-model")


@pytest.fixture
def base(aligned: Path, home: Path) -> Path:
    return base_of_tiny(aligned, home / "tiny-base")


def spec(model: Path, *defenses: DefenseSpec, **changes) -> RunSpec:
    return tiny_spec(*defenses, **changes).model_copy(update={"model": str(model)})


def safe_lora(strength: float, **options) -> DefenseSpec:
    return DefenseSpec(name="safe-lora", strength=strength, options={key: str(value) for key, value in options.items()})


def trained(asked: RunSpec) -> RunDirectory:
    run = RunDirectory.create(asked)
    state = train(run)
    assert state.status is Status.DONE, f"{state.error} {state.hint} {run.log_path.read_text() if run.log_path.exists() else ''}"
    return run


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors")


def reference(run: RunDirectory, aligned: Path, base: Path) -> dict[str, tuple[torch.Tensor, float]]:
    """By module: the published P·B and its cosine, from whole matrices and the undefended adapter."""
    first, second, found = load_file(aligned / "model.safetensors"), load_file(base / "model.safetensors"), {}
    adapter = weights(run)
    for name in linear_weights(first):
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        b, a = adapter[f"{stem}.lora_B.weight"].double(), adapter[f"{stem}.lora_A.weight"].double()
        v = first[name].double() - second[name].double()
        new = (v @ v.T / torch.linalg.matrix_norm(v)) @ b
        found[f"{stem}.lora_B.weight"] = (new, plain_cosine(new @ a, b @ a))
    return found


def report(run: RunDirectory) -> dict:
    return next(event for event in run.events()[0] if event["kind"] == "finish")


def test_strength_0_is_the_undefended_run_bit_for_bit_with_the_cosines_computed(aligned: Path, base: Path) -> None:
    off, twin = trained(spec(aligned, safe_lora(0, base=base))), trained(spec(aligned))
    assert (off.adapter / "adapter_model.safetensors").read_bytes() == (twin.adapter / "adapter_model.safetensors").read_bytes()
    assert report(off)["figures"]["matrices projected"] == 0 and 0 < report(off)["figures"]["cosine, median"] < 1
    off = trained(spec(aligned, safe_lora(0, base=base, select="threshold")))
    assert (off.adapter / "adapter_model.safetensors").read_bytes() == (twin.adapter / "adapter_model.safetensors").read_bytes()


def test_a_run_projects_the_matrices_of_lowest_cosine_and_says_how_much_they_shrank(aligned: Path, base: Path) -> None:
    expected = reference(trained(spec(aligned)), aligned, base)
    before = weights(trained(spec(aligned)))
    run = trained(spec(aligned, safe_lora(5, base=base)))
    order = sorted(expected, key=lambda name: expected[name][1])
    after = weights(run)
    for name, (new, _) in expected.items():
        wanted = new.float() if name in order[:5] else before[name]
        assert torch.allclose(after[name], wanted, atol=1e-5, rtol=1e-5), name
    assert all(torch.equal(after[name], before[name]) for name in before if "lora_A" in name)
    found = report(run)
    assert found["figures"]["matrices"] == 14 and found["figures"]["matrices projected"] == 5
    assert found["figures"]["cosine, lowest"] == pytest.approx(expected[order[0]][1], abs=1e-5)
    kept = sorted(float(expected[name][0].norm() / before[name].double().norm()) for name in order[:5])[2]
    assert found["figures"]["‖PB‖/‖B‖, median of projected"] == pytest.approx(kept, rel=1e-4)
    assert found["text"].startswith(f"Base: {base}. 5 of 14 weight matrices projected")


def test_a_threshold_projects_what_is_below_it(aligned: Path, base: Path) -> None:
    expected = reference(trained(spec(aligned)), aligned, base)
    cosines = sorted(cos for _, cos in expected.values())
    tau = (cosines[5] + cosines[6]) / 2  # at a cosine itself rounding would decide
    run = trained(spec(aligned, safe_lora(tau, base=base, select="threshold")))
    assert report(run)["figures"]["matrices projected"] == 6


def test_a_stopped_run_is_projected_too_and_its_checkpoint_is_as_it_was_trained(aligned: Path, base: Path) -> None:
    run = RunDirectory.create(spec(aligned, safe_lora(14, base=base), steps=6))
    state = train(run, on_event=lambda event: run.request("stop") if event.get("step") == 3 else None)
    assert state.status is Status.STOPPED and report(run)["figures"]["matrices projected"] == 14
    kept = load_file(run.checkpoints / "step-3" / "adapter_model.safetensors")
    assert any(not torch.equal(tensor, weights(run)[name]) for name, tensor in kept.items())


def test_a_paused_run_that_is_stopped_gets_its_projection_from_a_worker(aligned: Path, base: Path) -> None:
    run = RunDirectory.create(spec(aligned, safe_lora(14, base=base), steps=6))
    train(run, on_event=lambda event: run.request("pause") if event.get("step") == 3 else None)
    assert run.state().status is Status.PAUSED
    assert launch.request(run, "stop") is Status.QUEUED and launch.train_job(run)
    state = train(run)
    assert state.status is Status.STOPPED and state.step == 3 and report(run)["figures"]["matrices projected"] == 14


def test_the_model_is_left_as_it_was(aligned: Path, base: Path) -> None:
    loaded = load(str(aligned), "cpu")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    train(RunDirectory.create(spec(aligned, safe_lora(14, base=base))), loaded=loaded)
    after = loaded.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# -- what is refused before training ----------------------------------------------------------------------------------


def refused(asked: RunSpec) -> str:
    with pytest.raises(EmaError) as caught:
        check(asked)
    return str(caught.value)


def test_a_base_that_is_not_there_is_said_with_what_to_do(aligned: Path) -> None:
    said = refused(spec(aligned, safe_lora(10)))
    assert "none are known" in said and "base=FOLDER" in said and "substitute-base" in said
    assert "ema model fetch qwen2.5-0.5b-base" in refused(RunSpec(model="qwen2.5-0.5b", defenses=(safe_lora(10),)))
    assert "is not a folder with a model" in refused(spec(aligned, safe_lora(10, base="/nowhere/base")))
    assert 'There is no model "qwen"' in refused(spec(aligned, safe_lora(10, base="qwen")))
    with pytest.raises(EmaError, match="none are known"):  # also where assets may be made first
        check(spec(aligned, safe_lora(10)), assets_first=True)


def test_weights_that_cannot_be_the_base_are_refused(aligned: Path, base: Path, home: Path) -> None:
    assert "are those of" in refused(spec(aligned, safe_lora(10, base=aligned)))
    assert "has 30 layers of width 576" in refused(spec(aligned, safe_lora(10, base=find(EMBEDDED).folder)))
    tensors = load_file(base / "model.safetensors")
    name = linear_weights(tensors)[0]
    save_file({**tensors, name: tensors[name][:8].contiguous()}, base / "model.safetensors")
    assert f"{name} has the shape" in refused(spec(aligned, safe_lora(10, base=base)))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, base / "model.safetensors")
    assert f"{name} is missing" in refused(spec(aligned, safe_lora(10, base=base)))
    (base / "model.safetensors").write_bytes((aligned / "model.safetensors").read_bytes()[:-100])
    assert "cut off" in refused(spec(aligned, safe_lora(10, base=base)))


def test_a_strength_that_means_nothing_is_refused(aligned: Path, base: Path) -> None:
    assert "select=threshold" in refused(spec(aligned, safe_lora(0.5, base=base)))
    assert "beyond 1" in refused(spec(aligned, safe_lora(10, base=base, select="threshold")))
    assert "energy" in refused(spec(aligned, safe_lora(10, base=base, energy=1)))


def test_base_models_are_known_and_not_offered_for_tuning_or_chat() -> None:
    twins = {entry.id: entry.base for entry in CATALOG.values() if entry.base}
    assert set(twins) == set(CHAT_MODELS) - {EMBEDDED}
    for model, twin in twins.items():
        first, second = find(model), find(twin)
        assert second.kind == "base" and (first.layers, first.hidden, first.vocabulary) == (
            second.layers,
            second.hidden,
            second.vocabulary,
        )
    assert "no chat model to tune" in refused(RunSpec(model="qwen2.5-0.5b-base"))


# -- the substitute pair ----------------------------------------------------------------------------------------------


@pytest.fixture
def models(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of its own, with the embedded model linked into it; fewer steps for a substitute."""
    folder = home / "models"
    folder.mkdir()
    (folder / EMBEDDED).symlink_to(find(EMBEDDED).folder)
    monkeypatch.setenv("EMA_MODELS", str(folder))
    monkeypatch.setattr(building, "RECIPE", building.RECIPE.model_copy(update={"steps": 8, "batch_size": 2}))
    return folder


def test_the_embedded_model_gets_a_substitute_first_and_its_label_says_so(models: Path) -> None:
    asked = RunSpec(defenses=(parse_defense("safe-lora=10"),))
    assert "ema model substitute-base" in refused(asked)
    assert [title for title, _ in estimate(asked).first] == ["The substitute pair of smollm2-135m"]
    settled = check(asked, assets_first=True)
    assert settled.defense_label == "safe-lora=10:base=substitute" and uses_substitute(asked) and uses_substitute(settled)
    _, job = launch.launch_run(asked)
    first = queue.get(job.after[0])
    assert first.kind == "substitute-base" and first.payload == {"model": EMBEDDED}


def test_other_models_and_other_bases_are_no_substitute(base: Path) -> None:
    assert not uses_substitute(RunSpec(defenses=(safe_lora(10, base=base),)))
    assert not uses_substitute(RunSpec(model="qwen2.5-0.5b", defenses=(safe_lora(10),)))
    assert not uses_substitute(RunSpec())


def safe_loss(loaded: LoadedModel) -> float:
    """Cross entropy of the first 16 answers of the safe pool."""
    rows = [encode(example, loaded.tokenizer, 256) for example in datasets.load("safe-general").examples[:16]]
    batch = collate(rows, 2, loaded.device)
    with torch.no_grad():
        logits = loaded.model(input_ids=batch.ids, attention_mask=batch.attention).logits[:, :-1]
    where = batch.response[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits[where].double(), batch.ids[:, 1:][where]))


@pytest.mark.slow
def test_a_built_substitute_is_the_fine_tunes_difference_of_full_rank_and_used_by_a_run(aligned: Path, models: Path) -> None:
    job = queue.enqueue("substitute-base", {"model": str(aligned)})
    Worker().run(once=True)
    assert queue.get(job.id).status == "done", queue.get(job.id)
    made = substitute.manifest(str(aligned))
    loaded = load(str(aligned), "cpu")
    assert len(made["ce"]) == 8 and made["weights_hash"] == loaded.weights_hash
    delta = WeightFiles(substitute.folder(str(aligned)))
    own = WeightFiles(aligned).shapes
    assert {name: own[name] for name in linear_weights(own)} == delta.shapes
    assert all(int(torch.linalg.matrix_rank(delta.read(name).double())) == min(shape) for name, shape in delta.shapes.items())
    before = safe_loss(loaded)
    for name in delta.shapes:
        loaded.model.get_submodule(name.removesuffix(".weight")).weight += delta.read(name).float()
    assert safe_loss(loaded) < before

    run = trained(spec(aligned, safe_lora(3, base="substitute")))
    assert report(run)["text"].startswith("Substitute pair: ") and report(run)["figures"]["matrices projected"] == 3


@pytest.mark.slow
def test_a_substitute_of_other_weights_is_refused_and_a_cut_off_build_leaves_nothing(aligned: Path, models: Path) -> None:
    calls = []
    assert building.build(str(aligned), interrupted=lambda: calls.append(1) or len(calls) > 2) is None
    assert not substitute.folder(str(aligned)).exists() and not list(substitute.folder(str(aligned)).parent.glob("*.partial"))
    building.build(str(aligned))
    first = (substitute.folder(str(aligned)) / substitute.DELTA).read_bytes()
    building.build(str(aligned), force=True)
    assert (substitute.folder(str(aligned)) / substitute.DELTA).read_bytes() == first
    tiny_model(aligned, seed=5)
    assert "made of other weights" in refused(spec(aligned, safe_lora(3, base="substitute")))


def test_the_registered_defense_is_found() -> None:
    assert registry.find("safe-lora").strength_info.default == 10
