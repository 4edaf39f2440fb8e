"""The number type a model computes in."""

from __future__ import annotations

import pytest
import torch

from limbeck.models.precision import torch_type


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_type_that_is_named_is_the_one_that_is_used(precision: str) -> None:
    assert torch_type(precision) is getattr(torch, precision)


@pytest.mark.parametrize(("native", "meant"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_only_where_the_machine_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, meant: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native}, raising=False)
    assert torch_type("auto") is meant
