"""What tests of the training share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.training.student import AdapterSettings, Student, StudentSettings


@pytest.fixture(scope="module")
def learner(tiny_model: Path) -> Student:
    """A student whose adapter does something."""
    settings = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    learner = Student(settings, start_from=None, precision="float32", seed=1)
    with torch.no_grad():
        for parameter in learner.trainable():
            parameter.normal_(std=0.1)
    return learner
