"""From hidden states to logits as each architecture does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from limbeck.models.head import logits_of
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
