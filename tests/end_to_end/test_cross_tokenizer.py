"""The real Gemma teaches the real SmolLM2, whose tokens are others, through one tiny round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck import load_config, run
from limbeck.records import Lesson
from limbeck.targets.cache import SpanTargets
from limbeck.workspace import read_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "cross_tokenizer.yaml"


@pytest.mark.model
@pytest.mark.usefixtures("gemma_name")
def test_what_another_tokenizer_spells_is_learnt_and_the_student_loads_without_its_teacher(
    tmp_path: Path, small: tuple[str, ...]
) -> None:
    made = run(load_config(RECIPE, (*small, "train.batch_lessons=8")), tmp_path / "run")
    (rows,) = (tmp_path / "run").glob("round-0/lessons-*/rows-*.jsonl")
    lessons = {one.id for one in read_rows(rows, Lesson) if one.reply is not None}
    (folder,) = (tmp_path / "run").glob("round-0/spans-*/targets")
    assert set(SpanTargets([folder])) == lessons and lessons
    (metrics,) = (tmp_path / "run").glob("round-0/checkpoint-*/metrics/metrics.jsonl")
    first = json.loads(metrics.read_text().splitlines()[0])
    assert first["units"]["cross_tokenizer"] > 0 and first["losses"]["cross_tokenizer"] > 0
    assert (made.student / "merged").is_dir()
