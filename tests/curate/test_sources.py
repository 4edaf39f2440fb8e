"""The docs' own way from published files to prompt files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from limbeck.curate.sources import File

HOUSE = Path(__file__).parents[2]


def test_truthfulqa_and_safetext_become_prompt_files(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("truthfulqa/TruthfulQA.csv", "safetext/SafeText.json"):
        shutil.copy(published / file, tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (HOUSE / "docs" / "prompt-files.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    truth = list(File(path=Path("truthfulqa.jsonl")).prompts())
    scenes = list(File(path=Path("safetext.jsonl")).prompts())
    assert (len(truth), len(scenes)) == (817, 367)
    assert all(0 < len(prompt.right) < len(prompt.choices) for prompt in [*truth, *scenes])
