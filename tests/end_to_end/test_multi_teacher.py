"""Several teachers of the real SmolLM2 through one tiny round."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import load_config, run
from limbeck.targets.cache import Targets, read_disagreements

RECIPE = Path(__file__).parents[2] / "recipes" / "multi_teacher.yaml"


@pytest.mark.model
def test_a_student_learns_the_mixture_of_its_teachers_and_the_page_says_where_they_disagree(
    tmp_path: Path, small: tuple[str, ...]
) -> None:
    made = run(load_config(RECIPE, small), tmp_path / "run")
    (folder,) = (tmp_path / "run").glob("round-0/targets-*/targets")
    apart = list(read_disagreements([folder]))
    # Every lesson with a reply has a target, and three teachers were heard on each.
    assert {one.lesson for one in apart} == set(Targets([folder])) and apart
    assert {tuple(sorted(one.teachers)) for one in apart} == {("generalist", "legal", "safety")}
    assert all(0 < one.mean < 1 for one in apart)
    assert "Where the teachers disagree" in made.page.read_text()
