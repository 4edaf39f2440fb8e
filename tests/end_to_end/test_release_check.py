"""The recipe to decide a release by: its whole exam on the real SmolLM2, made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import load_config, run
from limbeck.report.gates import judged

RECIPE = Path(__file__).parents[2] / "recipes" / "release_check.yaml"
SMALL = ("rounds=1", "curate.limit=3", "curate.sources=[{kind: starter, practice: false}]", "teach.at_most=6",
         "teach.draws=1", "teach.max_tokens=16", "train.max_steps=1", "train.batch_lessons=4", "answer.max_tokens=8",
         "strength.answer.max_tokens=8", "strength.tried=[1.0]", "evaluate.dimensions.3.prompts=2",
         "evaluate.dimensions.4.prompts=2", "evaluate.dimensions.4.twins=1", "evaluate.dimensions.6.prompts=2",
         "evaluate.dimensions.7.prompts=2")  # fmt: skip


@pytest.mark.model
def test_every_dimension_of_the_release_check_is_measured_and_every_gate_is_judged(tmp_path: Path) -> None:
    config = load_config(RECIPE, SMALL)
    made = run(config, tmp_path / "run")
    base, student = made.scorecards
    assert (base.model, student.model) == ("base", "student")
    measured = {one.name for one in student.measurements if one.value is not None}
    assert {
        "multiple_choice_accuracy", "handled_safely", "separation", "same_decision", "attack_success",
        "noise_robustness", "decision_flips", "kd_alignment",
    } <= measured  # fmt: skip
    assert {"language": "en"} in [one.slice for one in student.measurements]
    gates = judged(config.gates, student)
    assert [one.column.name for one in gates] == [
        "handled_safely", "refused_when_harmless", "usefulness_drop", "attack_success",
    ]  # fmt: skip
    # A few prompts decide nothing, or say clearly no.
    assert {one.outcome for one in gates} <= {"undecided", "fail"}
