"""The real Gemma teaches the real SmolLM2, whose tokens are others, through one tiny round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck import load_config, run
from limbeck.errors import InputError
from limbeck.models.references import SHORT_NAMES
from limbeck.records import Lesson
from limbeck.targets.cache import SpanTargets
from limbeck.workspace import read_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "cross_tokenizer.yaml"
SMALL = ("curate.limit=6", "teach.at_most=12", "teach.draws=1", "train.max_steps=1", "train.batch_lessons=8",
         "answer.max_tokens=8", "teach.max_tokens=16", "evaluate.dimensions=[safety,refusal]",
         "strength.answer.max_tokens=8", "strength.tried=[1.0]")  # fmt: skip


@pytest.mark.model
def test_what_another_tokenizer_spells_is_learnt_and_the_student_loads_without_its_teacher(tmp_path: Path) -> None:
    try:
        SHORT_NAMES["gemma-3-270m"].files()
    except InputError as error:
        pytest.skip(f"the real pair is not tested: {error}")
    made = run(load_config(RECIPE, SMALL), tmp_path / "run")
    (rows,) = (tmp_path / "run").glob("round-0/lessons-*/rows-*.jsonl")
    lessons = {one.id for one in read_rows(rows, Lesson) if one.reply is not None}
    (folder,) = (tmp_path / "run").glob("round-0/spans-*/targets")
    assert set(SpanTargets([folder])) == lessons and lessons
    (metrics,) = (tmp_path / "run").glob("round-0/checkpoint-*/metrics/metrics.jsonl")
    first = json.loads(metrics.read_text().splitlines()[0])
    assert first["units"]["cross_tokenizer"] > 0 and first["losses"]["cross_tokenizer"] > 0
    assert (made.student / "merged").is_dir()
