"""Adapters by our own code: PEFT's numbers, several in a batch, and nothing that is not plain LoRA for this model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.models import adapters
from ema_core.models.lora import AdapterChanged, On, load_adapter, switched_on
from ema_core.runs import recipe

pytestmark = pytest.mark.slow
TEXTS = ["Hello there, how are you?", "What is a good way to spend money?"]


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters with random weights, of different rank and scaling."""
    import torch

    made = []
    for seed, changes in ((1, {"rank": 4, "alpha": 8}), (2, {"rank": 8, "alpha": 8, "rslora": False})):
        tuned = adapters.attach(model.model, recipe("demo", **changes), seed)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.02, generator=generator)
        made.append(tmp_path_factory.mktemp("adapters") / "adapter")
        adapters.save(tuned, made[-1])
        adapters.detach(tuned)
    return made


def logits(of, model, texts):
    import torch

    ids = torch.cat([torch.tensor([model.tokenizer(text)["input_ids"][:6]]) for text in texts])
    with torch.inference_mode():
        return of(ids).logits


def test_rows_with_several_adapters_and_scales_get_what_peft_gives_each_alone(model, folders: list[Path]) -> None:
    import torch

    one, two = (load_adapter(folder, model.model) for folder in folders)
    rows = [On(one), On(), On(two, 0.5), On(one, 2.0), On(two, 0.0), On(two)]
    texts = [TEXTS[n % 2] for n in range(len(rows))]
    with switched_on(model.model, rows):
        together = logits(model.model, model, texts)
    base = logits(model.model, model, texts)
    for place, row in enumerate(rows):
        if row.adapter is None or row.scale == 0:
            want = base[place]
        else:
            with adapters.adapted(model.model, row.adapter.folder, row.scale) as tuned:
                want = logits(tuned, model, [texts[place]])[0]
            assert (want - base[place]).abs().max() > 0.1
        assert torch.allclose(together[place], want, atol=2e-4)


def test_nothing_is_left_behind_when_a_forward_pass_raises(model, folders: list[Path]) -> None:
    import torch

    def hooks() -> list[int]:  # transformers leaves inert ones of its own where hidden states were once asked for
        return [len(module._forward_hooks) for module in model.model.modules()]

    base, before = logits(model.model, model, TEXTS), hooks()
    adapter = load_adapter(folders[0], model.model)
    with pytest.raises(IndexError), switched_on(model.model, [On(adapter), On()]):
        model.model(torch.tensor([[10**9]]))
    with pytest.raises(RuntimeError, match="set for 2"), switched_on(model.model, [On(adapter), On()]):
        logits(model.model, model, TEXTS[:1])
    assert hooks() == before
    assert torch.equal(logits(model.model, model, TEXTS), base)


def test_what_is_not_plain_lora_for_this_model_is_refused(model, folders: list[Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    def changed(tensors=lambda t: t, **config) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(folders[0], folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        save_file(tensors(load_file(folder / adapters.WEIGHTS)), folder / adapters.WEIGHTS)
        return folder

    def poisoned(tensors):
        name = sorted(tensors)[3]
        tensors[name].view(-1)[5] = torch.nan
        return tensors

    for folder, words in (
        (changed(use_dora=True), "use_dora"),
        (changed(peft_type="LOHA"), "LOHA"),
        (changed(alpha_pattern={"q_proj": 3}), "alpha_pattern"),
        (changed(poisoned), "not finite"),
        (changed(lambda t: {k.replace("layers.3.", "layers.333."): v for k, v in t.items()}), "does not fit"),
        (changed(lambda t: {k: v[:, :-1].contiguous() if "lora_A" in k else v for k, v in t.items()}), "does not fit"),
        (changed(lambda t: {**t, "base_model.model.lm_head.weight": torch.ones(2)}), "not plain LoRA"),
        (tmp_path / "nowhere", "no adapter"),
    ):
        with pytest.raises(EmaError, match=words):
            load_adapter(folder, model.model)
    torn = changed()
    torn.joinpath(adapters.WEIGHTS).write_bytes(torn.joinpath(adapters.WEIGHTS).read_bytes()[:1000])
    with pytest.raises(EmaError, match="damaged"):
        load_adapter(torn, model.model)
    with pytest.raises(AdapterChanged) as other:
        load_adapter(folders[0], model.model, "0123456789abcdef")
    assert adapters.adapter_hash(folders[0]) in other.value.message and "0123456789abcdef" in other.value.message
