"""From hidden states to logits as each architecture does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from limbeck.models.head import logits_of, projected
from limbeck.models.references import load_weights, resolve

SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.5,
}  # fmt: skip


def agrees(model: Any) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        whole = model(input_ids=ids).logits[0]
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(logits_of(model, hidden), whole.float())


def test_a_plain_llama_projects(tiny_model: Path) -> None:
    agrees(load_weights(resolve(str(tiny_model)), "float32"))


def test_granite_divides() -> None:
    torch.manual_seed(0)
    agrees(
        GraniteForCausalLM(
            GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=8.0)
        ).eval()
    )


def test_gemma_2_squashes() -> None:
    torch.manual_seed(0)
    agrees(Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0)).eval())


def test_log_probabilities_are_computed_in_float32_whatever_the_model_is_in(tiny_model: Path) -> None:
    model = load_weights(resolve(str(tiny_model)), "bfloat16")
    assert logits_of(model, torch.zeros(1, 32, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_loaded_in_the_type_that_is_asked_for(tiny_model: Path, dtype: str) -> None:
    assert load_weights(resolve(str(tiny_model)), dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("rows", [0, 1, 130])
def test_a_product_is_that_of_double_precision_to_rounding_whoever_computes_it(rows: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    hidden_NH, weight_VH = torch.randn(rows, 24, generator=draw), torch.randn(600, 24, generator=draw)
    bias_V, slope_NV = torch.randn(600, generator=draw), torch.randn(rows, 600, generator=draw)
    for found, sought in (
        (projected(hidden_NH, weight_VH, bias_V), hidden_NH.double() @ weight_VH.double().T + bias_V),
        (projected(slope_NV, weight_VH.t()), slope_NV.double() @ weight_VH.double()),
    ):
        torch.testing.assert_close(found.double(), sought, rtol=1e-5, atol=1e-4)


def test_a_product_that_is_learnt_through_has_its_gradient() -> None:
    hidden_NH, weight_VH = torch.randn(3, 8), torch.randn(5, 8, requires_grad=True)
    projected(hidden_NH, weight_VH).sum().backward()
    assert weight_VH.grad is not None
    torch.testing.assert_close(weight_VH.grad, hidden_NH.sum(0).expand(5, 8))
