"""An adapter that does not fit the model is one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import InputError
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
