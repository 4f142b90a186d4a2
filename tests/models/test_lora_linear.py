"""The LoRA layer of training against PEFT's own code, and when it leaves the work to it."""

from __future__ import annotations

import pytest

from ema_core.models import lora_linear
from ema_core.models.layout import by_columns


@pytest.fixture
def layer():
    """A PEFT layer with a B that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=False))
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["0"]))
    module = peft.base_model.model[0]
    torch.nn.init.normal_(module.lora_B["default"].weight)
    return peft, module


def both_ways(peft, module, x):
    """Output and gradients (x, A, B) by PEFT and then by ours."""
    import torch

    found = []
    for quick in (False, True):
        if quick:
            lora_linear.quicken(peft)
        mine = x.clone().requires_grad_()
        out = module(mine)
        (out * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        found.append([out.detach(), mine.grad, *(w.grad.clone() if w.grad is not None else None for w in (a, b))])
        a.grad = b.grad = None
    return found


def test_output_and_gradients_are_pefts(layer) -> None:
    import torch

    peft, module = layer
    peft_way, ours = both_ways(peft, module, torch.randn(2, 5, 24))
    for mine, theirs in zip(ours, peft_way, strict=True):
        assert float((mine - theirs).abs().max()) < 1e-5 * max(1.0, float(theirs.abs().max()))
    assert "LoraLinear" in str(module(torch.randn(1, 24)).grad_fn)


def test_an_adapter_that_is_off_or_in_another_type_is_left_to_peft(layer) -> None:
    import torch

    peft, module = layer
    lora_linear.quicken(peft)
    x = torch.randn(3, 24)
    with peft.disable_adapter():
        assert torch.equal(module(x), x @ module.get_base_layer().weight.T)
    module.get_base_layer().to(torch.bfloat16)  # a float32 adapter on bfloat16 weights: PEFT's casts
    assert "LoraLinear" not in str(module(x.bfloat16()).grad_fn)


def test_no_gradient_is_made_for_an_input_that_needs_none(layer) -> None:
    import torch

    peft, module = layer
    lora_linear.quicken(peft)
    x = torch.randn(3, 24)
    module(x).sum().backward()
    assert x.grad is None and module.lora_A["default"].weight.grad.any()


def test_weights_by_columns_are_the_same_weights() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **sizes)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        by_columns(model)
        assert float((model(input_ids=ids).logits - plain).abs().max()) < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.model.layers[0].mlp.up_proj.weight.stride() == (1, 24)
    assert model.model.embed_tokens.weight.is_contiguous() and not model.lm_head.weight.is_contiguous()
