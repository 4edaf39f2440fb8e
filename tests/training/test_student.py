"""What is trained of a model or on it; what does not fit the model is one message."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.references import load_weights, resolve
from limbeck.training.student import AdapterSettings, Student, StudentSettings


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        (AdapterSettings(first_layer=2), r"first_layer is 2; .* has the layers 0 to 1"),
        (
            AdapterSettings(target=("q_prok",)),
            r"target: q_prok are not all layers of .*; use all-linear, or of .*q_proj",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_says_what_would(
    tiny_model: Path, adapter: AdapterSettings, complaint: str
) -> None:
    settings = StudentSettings(model=str(tiny_model), adapter=adapter)
    with pytest.raises(InputError, match=complaint):
        Student(settings, start_from=None, precision="float32", seed=0)


def test_what_belongs_to_an_adapter_goes_with_one_alone() -> None:
    assert AdapterSettings(kind="none", rank=16).kind == "none"
    with pytest.raises(ValueError, match="'rank' belongs to an adapter, and kind is none"):
        AdapterSettings(kind="none", rank=8)


def test_a_four_bit_backbone_without_its_package_is_one_message(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    settings = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="qlora"))
    with pytest.raises(InputError, match="kind qlora needs the package bitsandbytes; run: pip install bitsandbytes"):
        Student(settings, start_from=None, precision="float32", seed=0)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_four_bit_backbone_is_small_and_frozen_and_bears_a_float32_adapter(tiny_model: Path) -> None:
    settings = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="qlora", rank=4))
    student = Student(settings, start_from=None, precision="float32", seed=0)
    kept = student.model.get_base_model().get_decoder().layers[0].mlp.up_proj.base_layer.weight
    # Half a byte for each of its 64 x 32 weights.
    assert (kept.dtype, kept.numel()) == (torch.uint8, 1024)
    assert {parameter.dtype for parameter in student.trainable()} == {torch.float32}


def test_a_student_that_is_its_own_teacher_is_in_memory_once(tiny_model: Path, wide_model: Path) -> None:
    learner = Student(StudentSettings(model=str(tiny_model)), start_from=None, precision="float32", seed=1)
    frozen = {parameter.data_ptr() for parameter in learner.model.parameters() if not parameter.requires_grad}
    for folder, alike in ((tiny_model, True), (wide_model, False)):
        weights = load_weights(resolve(str(folder)), "float32")
        before = {name: parameter.clone() for name, parameter in weights.named_parameters()}
        learner.share_with(weights)
        assert all((parameter.data_ptr() in frozen) == alike for parameter in weights.parameters())
        assert all(torch.equal(parameter, before[name]) for name, parameter in weights.named_parameters())
