"""Adapters from elsewhere as runs: what fits is taken and answers as PEFT would, what does not is told by module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.evaluation.suites import suites_of
from ema_core.exchange.adapter import UNKNOWN_DATA, import_adapter
from ema_core.files import read_json, write_json
from ema_core.models import adapters
from ema_core.runs import Status, run_ids


def made(folder: Path, model, rslora: bool = True, **config) -> Path:
    """A PEFT adapter on two modules, as anybody's own script leaves it, with B not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    lora = LoraConfig(
        r=4, lora_alpha=8, use_rslora=rslora, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **config
    )
    peft_model = get_peft_model(model, lora)
    peft_model.save_pretrained(folder, safe_serialization=True)
    peft_model.unload()
    return folder


def changed(folder: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / adapters.WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.slow
@pytest.mark.parametrize("rslora", [True, False])
def test_an_adapter_becomes_a_run_that_answers_as_peft_does(tmp_path: Path, model, rslora: bool) -> None:
    import torch

    from ema_core.models.lora import On, load_adapter, switched_on

    folder = made(tmp_path / "mine", model.model, rslora)
    run, again = import_adapter(folder)
    state = run.state()
    assert not again and state.status is Status.DONE and state.name == "mine"
    assert run.spec.recipe.rank == 4 and run.spec.recipe.rslora is rslora and run.spec.dataset == UNKNOWN_DATA
    assert state.found["adapter_hash"] == adapters.adapter_hash(folder) and suites_of(UNKNOWN_DATA) == ("general",)
    assert sorted(path.name for path in run.adapter.iterdir()) == ["adapter_config.json", adapters.WEIGHTS]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        with adapters.adapted(model.model, folder) as theirs:
            expected = theirs(ids).logits
        with switched_on(model.model, [On(load_adapter(run.adapter, model.model, state.found["adapter_hash"]))]):
            got = model.model(ids).logits
        plain = model.model(ids).logits
    assert torch.allclose(got, expected, atol=1e-3) and not torch.allclose(plain, expected, atol=1e-2)
    assert import_adapter(folder) == (run, True) and run_ids() == [run.id]


def test_what_does_not_fit_is_told_by_module_and_leaves_no_run(tmp_path: Path, model) -> None:
    import torch

    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    wrong = {
        "is 576 x 576 there and the rank 4, but lora_A is 4 x 100": lambda t: t.update({first: torch.ones(4, 100)}),
        "not finite": lambda t: t[first].fill_(float("nan")),
        "has only lora_B": lambda t: t.pop(first) * 0,
        "no linear module model.layers.99": lambda t: [
            t.update({n.replace(".0.", ".99."): t.pop(n)}) for n in (first, first.replace("_A", "_B"))
        ],
        "not plain LoRA": lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}),
        "of type I64": lambda t: t.update({first: torch.ones(4, 576, dtype=torch.int64)}),
    }
    for number, (says, change) in enumerate(wrong.items()):
        folder = made(tmp_path / str(number), model.model)
        changed(folder, change)
        with pytest.raises(EmaError, match=says):
            import_adapter(folder)
    folder = made(tmp_path / "config", model.model)
    config = read_json(folder / "adapter_config.json")
    for says, change in {
        "use_dora": {"use_dora": True},
        "PROMPT_TUNING": {"peft_type": "PROMPT_TUNING"},
        "no rank": {"r": None},
    }.items():
        write_json(folder / "adapter_config.json", config | change)
        with pytest.raises(EmaError, match=says):
            import_adapter(folder)
    (folder / adapters.WEIGHTS).write_bytes(b"\x00" * 20)
    write_json(folder / "adapter_config.json", config)
    with pytest.raises(EmaError):
        import_adapter(folder)
    assert run_ids() == []


def test_pickles_and_missing_files_are_refused(tmp_path: Path, ema) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(EmaError, match=r"holds no adapter_model\.safetensors"):
        import_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(EmaError, match="a pickle"):
        import_adapter(tmp_path)
    done = ema("import", "adapter", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "There is no folder" in done.stderr and "Traceback" not in done.stderr
