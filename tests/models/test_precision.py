"""The number type a model computes in."""

from __future__ import annotations

import pytest
import torch

from limbeck.models.local import Local
from limbeck.spec import fingerprint
from limbeck.training import TrainSettings


@pytest.mark.parametrize(("native", "meant"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_the_machine_multiplies_in_it_and_is_saved_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, native: bool, meant: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native}, raising=False)
    model = Local(model="a/b", dtype="auto")
    assert model.model_dump()["dtype"] == meant
    assert fingerprint(model) == fingerprint(Local(model="a/b", dtype=meant))
    assert TrainSettings(precision="auto").precision == meant
