"""What the runs of shipped recipes have in common."""

from __future__ import annotations

import pytest


@pytest.fixture
def small() -> tuple[str, ...]:
    """Settings under which a recipe is through in about a minute."""
    return ("curate.limit=6", "teach.at_most=12", "teach.draws=1", "teach.max_tokens=16", "train.max_steps=1",
            "train.batch_lessons=4", "answer.max_tokens=8", "evaluate.dimensions=[safety,refusal]",
            "strength.answer.max_tokens=8", "strength.tried=[1.0]")  # fmt: skip
