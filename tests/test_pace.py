"""Models of several kinds and all ways to train can be timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import FalconH1Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config

from limbeck.models.precision import Precision
from limbeck.pace import NotKnown, reading_s, training_s, writing_s
from limbeck.training.student import AdapterSettings

# Gemma's layers are of two sorts in turn, and Mistral's see a window.
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
LORA = AdapterSettings(rank=4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_models_of_several_kinds_are_timed_and_learning_takes_longer_than_reading(config: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    folder = str(tmp_path)
    read, written = reading_s(folder, "float32", 200), writing_s(folder, "float32", 3)
    assert written > 0 and training_s(folder, LORA, "float32", 200) > read > 0


def test_a_model_of_one_layer_is_timed(tmp_path: Path) -> None:
    Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 1}).save_pretrained(tmp_path)
    assert reading_s(str(tmp_path), "float32", 40) > 0


def test_a_model_that_cannot_be_cut_is_not_known(tmp_path: Path) -> None:
    FalconH1Config(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(NotKnown, match="cannot be cut to its first layers"):
        reading_s(str(tmp_path), "float32", 40)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "dora", "none"])
def test_a_step_is_timed_however_the_student_is_trained(kind: Any, precision: Precision, tiny_model: Path) -> None:
    adapter = AdapterSettings(kind=kind) if kind == "none" else AdapterSettings(kind=kind, rank=4)
    assert training_s(str(tiny_model), adapter, precision, 40) > 0
