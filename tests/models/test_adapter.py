"""An adapter's strength multiplies what it does to the weights, and changes nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from limbeck.errors import InputError
from limbeck.models.adapter import WEIGHTS, mixed_adapter, mixed_model, scaled_adapter
from limbeck.models.local import Local
from limbeck.models.references import resolve

QUERY = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def base(model: Path) -> Any:
    # In float64 a delta read back as `merged - base` is exact to 1e-15.
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)


def adapter(model: Path, folder: Path, **settings: Any) -> Path:
    """An adapter on two kinds of layer, every weight drawn anew so that it does something."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], **settings)
    trained = get_peft_model(base(model), config)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    trained.save_pretrained(folder, save_embedding_layers=False)
    return folder


def merged(model: Path, folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = PeftModel.from_pretrained(base(model), folder).merge_and_unload().state_dict()
    return weights


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"down_proj": 7}}])
@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_the_weights_move_by_strength_times_what_they_moved_by(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], strength: float
) -> None:
    source = adapter(tiny_model, tmp_path / "trained", **settings)
    scaled_adapter(source, tmp_path / "scaled", strength)
    before, whole = base(tiny_model).state_dict(), merged(tiny_model, source)
    part = merged(tiny_model, tmp_path / "scaled")
    for name in (QUERY, DOWN):
        delta = whole[name] - before[name]
        assert delta.abs().max() > 1
        torch.testing.assert_close(part[name] - before[name], strength * delta, rtol=0, atol=1e-12)


def test_strength_0_is_the_base_model_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    scaled_adapter(adapter(tiny_model, tmp_path / "trained"), tmp_path / "scaled", 0)
    before, after = base(tiny_model).state_dict(), merged(tiny_model, tmp_path / "scaled")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_strength_1_is_the_same_folder_byte_for_byte(tiny_model: Path, tmp_path: Path) -> None:
    source = adapter(tiny_model, tmp_path / "trained", alpha_pattern={"down_proj": 7})
    scaled_adapter(source, tmp_path / "scaled", 1.0)
    assert {file.name: file.read_bytes() for file in source.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "scaled").iterdir()
    }


def test_only_alpha_is_another_and_the_source_stays_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    source = adapter(tiny_model, tmp_path / "trained", alpha_pattern={"down_proj": 7})
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    scaled_adapter(source, tmp_path / "scaled", 0.5)
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    for name in before.keys() - {"adapter_config.json"}:
        assert (tmp_path / "scaled" / name).read_bytes() == before[name]
    written = json.loads((tmp_path / "scaled" / "adapter_config.json").read_text())
    # 5 * 0.5 and 7 * 0.5.
    assert (written["lora_alpha"], written["alpha_pattern"]) == (2.5, {"down_proj": 3.5})
    same = json.loads(before["adapter_config.json"])
    assert {**written, "lora_alpha": 5, "alpha_pattern": {"down_proj": 7}} == same


def written(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, **config}))
    return folder


def test_a_model_is_opened_with_its_adapter_at_a_strength(tiny_model: Path, tmp_path: Path) -> None:
    trained = adapter(tiny_model, tmp_path / "trained")
    scaled_adapter(trained, tmp_path / "half", 0.5)
    given: dict[str, Any] = {"name": "student", "model": str(tiny_model)}
    with (
        Local(**given, adapter=trained, strength=0.5).open() as dialled,
        Local(**given, adapter=tmp_path / "half").open() as half,
        Local(**given, adapter=trained).open() as whole,
    ):
        assert torch.equal(dialled.weights.get_parameter(QUERY), half.weights.get_parameter(QUERY))
        assert dialled.identity != whole.identity
    with pytest.raises(ValueError, match="'strength' scales an adapter"):
        Local(**given, strength=0.5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "'use_dora' is true; a strength needs false;"),
        ({"bias": "all"}, '\'bias\' is "all"; a strength needs "none";'),
        ({"modules_to_save": ["lm_head"]}, r"'modules_to_save' is \[\"lm_head\"\]; a strength needs null or \[\];"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is \"pissa\"; a strength needs true or false or"),
    ],
)
def test_an_adapter_that_changes_more_than_alpha_scales_is_refused_with_the_setting(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    source = written(tmp_path / "trained", **config)
    with pytest.raises(InputError, match=f"adapter_config.json: {said}"):
        scaled_adapter(source, tmp_path / "scaled", 0.5)
    assert not (tmp_path / "scaled").exists()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_a_part_of_an_adapter_says_which(tmp_path: Path, missing: str) -> None:
    source = written(tmp_path / "trained")
    (source / missing).unlink()
    with pytest.raises(InputError, match=f"{missing}: there is no such file; name a folder that PEFT saved"):
        scaled_adapter(source, tmp_path / "scaled", 0.5)


@pytest.mark.parametrize("text", ['{"peft_type": "LO', "[]", '{"peft_type": "IA3"}', '{"peft_type": "LORA"}'])
def test_what_is_no_lora_adapter_is_one_message(tmp_path: Path, text: str) -> None:
    source = written(tmp_path / "trained")
    (source / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=r"adapter_config.json: this is no LoRA adapter; name one whose peft_type"):
        scaled_adapter(source, tmp_path / "scaled", 0.5)


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan")])
def test_a_strength_out_of_range_says_what_is_allowed(tmp_path: Path, strength: float) -> None:
    with pytest.raises(InputError, match=rf"strength is {strength}; use 0 \(the base model\) to 1.5; 1 is as trained"):
        scaled_adapter(written(tmp_path / "trained"), tmp_path / "scaled", strength)


@pytest.mark.parametrize(("share", "like"), [(0.0, "before"), (1.0, "after")])
def test_a_mixed_adapter_is_at_both_ends_one_of_the_two(
    tiny_model: Path, tmp_path: Path, share: float, like: str
) -> None:
    before = adapter(tiny_model, tmp_path / "before")
    scaled_adapter(before, tmp_path / "after", 1.0)
    weights = load_file(tmp_path / "after" / WEIGHTS)
    save_file({name: 3 * tensor for name, tensor in weights.items()}, tmp_path / "after" / WEIGHTS)
    mixed_adapter(before, tmp_path / "after", tmp_path / "mixed", share)
    ends, mixed = load_file(tmp_path / like / WEIGHTS), load_file(tmp_path / "mixed" / WEIGHTS)
    assert mixed.keys() == ends.keys() and all(torch.equal(mixed[name], ends[name]) for name in ends)
    mixed_adapter(before, tmp_path / "after", tmp_path / "half", 0.5)
    half = load_file(tmp_path / "half" / WEIGHTS)
    # Halfway between once and three times the weights.
    assert all(torch.allclose(half[name], 2 * weights[name]) for name in weights)


def test_a_mixed_model_is_between_what_it_was_and_what_was_trained(tiny_model: Path, tmp_path: Path) -> None:
    trained = base(tiny_model)
    for parameter in trained.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    trained.save_pretrained(tmp_path / "after")
    shutil.copy(tiny_model / "tokenizer.json", tmp_path / "after")
    for share in (0.0, 0.25, 1.0):
        mixed_model(resolve(str(tiny_model)), tmp_path / "after", tmp_path / f"{share}", share)
        mixed = AutoModelForCausalLM.from_pretrained(tmp_path / f"{share}")
        for name, weight in base(tiny_model).named_parameters():
            expected = share + (1 - share) * weight
            torch.testing.assert_close(mixed.get_parameter(name).double(), expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="strength is 2; use 0"):
        mixed_model(resolve(str(tiny_model)), tmp_path / "after", tmp_path / "out", 2)


def test_adapters_of_two_trainings_are_not_mixed(tiny_model: Path, tmp_path: Path) -> None:
    before = adapter(tiny_model, tmp_path / "before")
    scaled_adapter(before, tmp_path / "after", 1.0)
    weights = load_file(before / WEIGHTS)
    save_file(dict(list(weights.items())[1:]), tmp_path / "after" / WEIGHTS)
    with pytest.raises(InputError, match="it was not trained on from"):
        mixed_adapter(before, tmp_path / "after", tmp_path / "mixed", 0.5)
