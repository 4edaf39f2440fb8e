"""The real SmolLM2 through two tiny rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck import load_config, run

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SMALL = ("curate.limit=6", "teach.at_most=18", "train.max_steps=2", "train.batch_lessons=8", "answer.max_tokens=24",
         "teach.max_tokens=24", "mine.at_most=4", "evaluate.dimensions=[usefulness,safety,refusal]")  # fmt: skip


@pytest.mark.model
def test_two_tiny_rounds_on_smollm2_give_a_student_that_plain_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = load_config(QUICKSTART, SMALL)
    made = run(config, tmp_path / "run")
    assert [card.model for card in made.scorecards] == ["base", "filtered_sft", "student"]
    written = json.loads((tmp_path / "run" / "scorecard.json").read_text())
    assert written["schema"] == 1 and written["model"] == "student"
    page = made.page.read_text()
    assert "student" in page and "http://" not in page.replace("http://www.w3.org", "")
    model = AutoModelForCausalLM.from_pretrained(made.student / "merged")
    tokenizer = AutoTokenizer.from_pretrained(made.student / "merged")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 4

    assert list((tmp_path / "run" / "round-1").glob("checkpoint-*"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("done.json")}
    run(config, tmp_path / "run")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("done.json")} == before
