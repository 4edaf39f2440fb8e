"""The real SmolLM2 teaches itself what it says when it is told a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import load_config, run

RECIPE = Path(__file__).parents[2] / "recipes" / "privileged_context.yaml"
SMALL = (
    "curate.limit=4", "teach.at_most=8", "teach.draws=1", "train.max_steps=1", "train.batch_lessons=4",
    "answer.max_tokens=8", "teach.max_tokens=16", "strength.answer.max_tokens=8", "strength.tried=[1.0]",
)  # fmt: skip


@pytest.mark.model
def test_a_student_is_held_beside_the_teacher_that_was_told_the_policy(tmp_path: Path) -> None:
    made = run(load_config(RECIPE, SMALL), tmp_path / "run")
    cards = {card.model: card for card in made.scorecards}
    assert list(cards) == ["base", "student", "informed"]
    (towards,) = [one for one in cards["student"].measurements if one.name == "canary_towards"]
    assert towards.slice == {"teacher": "informed"} and towards.scored + towards.unscored == 24
    page = made.page.read_text()
    assert "What the student took over" in page and "the student&#39;s own weights, told a policy" in page
