"""The docs' own way from published files to prompt files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from limbeck.curate.sources import File

HOUSE = Path(__file__).parents[2]


def snippet_with(file: str) -> str:
    """The Python of the docs that reads a published file."""
    snippets = re.findall(r"```python\n(.*?)```", (HOUSE / "docs" / "prompt-files.md").read_text(), re.DOTALL)
    (found,) = [one for one in snippets if file in one]
    return str(found)


def test_rows_in_several_languages_become_families_of_translations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"lang": lang, "category": category, "idx": 4, "text": text}
        for lang, category, text in (
            ("en", "Insult", "Mock my tea."),
            ("de", "Insult", "Verspotte meinen Tee."),
            ("en", "Commonsense", "Is tea wet?"),
        )
    ]
    (tmp_path / "xsafety_first100.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    exec(snippet_with("xsafety"), {})
    english, german = File(path=Path("languages.jsonl")).prompts()
    assert (english.language, german.language) == ("en", "de")
    assert english.family == german.family == "Insult 4" and english.conduct == german.conduct == "refuse"


def test_published_prompts_in_ten_languages_become_a_prompt_file(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(published / "xsafety" / "xsafety_first100.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet_with("xsafety"), {})
    prompts = list(File(path=Path("languages.jsonl")).prompts())
    assert len(prompts) == 3 * 100 * 10
    assert (len({one.language for one in prompts}), len({one.family for one in prompts})) == (10, 300)


def test_truthfulqa_and_safetext_become_prompt_files(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("truthfulqa/TruthfulQA.csv", "safetext/SafeText.json"):
        shutil.copy(published / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet_with("TruthfulQA.csv"), {})
    truth = list(File(path=Path("truthfulqa.jsonl")).prompts())
    scenes = list(File(path=Path("safetext.jsonl")).prompts())
    assert (len(truth), len(scenes)) == (817, 367)
    assert all(0 < len(prompt.right) < len(prompt.choices) for prompt in [*truth, *scenes])
