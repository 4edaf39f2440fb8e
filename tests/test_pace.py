"""Models of several kinds and all ways to train can be timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from limbeck.models.precision import Precision
from limbeck.pace import reading_s, training_s, writing_s
from limbeck.training.student import AdapterSettings

# Three layers and more, of which two are made. Gemma's are of two sorts in turn, and Mistral's see a window.
SMALL: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
CONFIGS = (
    LlamaConfig(**SMALL),
    Qwen3Config(**SMALL, pad_token_id=299),
    Gemma3TextConfig(**SMALL, sliding_window=16),
    MistralConfig(**SMALL, sliding_window=16),
    Phi3Config(**SMALL, pad_token_id=299),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_models_of_several_kinds_are_timed_by_two_of_their_layers(
    config: Any, tiny_model: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    model = str(tmp_path)
    for seconds in (reading_s(model, "float32", 40), writing_s(model, "float32", 3)):
        assert 0 < seconds < 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "dora", "none"])
def test_a_step_is_timed_however_the_student_is_trained(kind: Any, precision: Precision, tiny_model: Path) -> None:
    adapter = AdapterSettings(kind=kind) if kind == "none" else AdapterSettings(kind=kind, rank=4)
    assert 0 < training_s(str(tiny_model), adapter, precision, 40) < 1
