"""Teachers that reply in another language than they are asked in are told of when they have replied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck import load_config
from limbeck.pipeline import run, run_until
from limbeck.records import Candidate, Prompt, asked
from limbeck.taxonomy import HOUSE
from limbeck.teach.language import telling_languages
from limbeck.workspace import Silent

QUESTION = "How long do I have to boil an egg so that it is soft?"
ENGLISH = "Put it into boiling water for five minutes, and then hold it under the cold tap so that it does not go on."
GERMAN = "Lege das Ei für fünf Minuten in kochendes Wasser, und dann halte es kurz unter kaltes Wasser, wenn du magst."
CHINESE = "把鸡蛋放进开水里煮五分钟，然后用冷水冲一下，这样蛋黄就是软的。"
ADVICE = (
    "and those that the judges accept are learnt; ask the teacher for the prompt's language in a policy, or name a "
    "judge in teach.until that rejects them (docs/teachers.md)"
)


def draw(reply: str, teacher: str = "expert", **more: Any) -> Candidate:
    given = {"prompt": Prompt(messages=asked(QUESTION)), "role": "taught", "finish": "stop"} | more
    return Candidate(teacher=teacher, reply=reply, **given)


def told(drawn: list[Candidate]) -> list[str]:
    said: list[str] = []
    assert list(telling_languages(drawn, say=said.append)) == drawn
    return said


def test_the_line_counts_by_teacher_and_language() -> None:
    drawn = [draw(GERMAN), draw(CHINESE), draw(GERMAN, attempt=1), draw(ENGLISH), draw(ENGLISH, "second")]
    assert told(drawn) == [
        "language: 3 of 4 replies of teacher 'expert' (de 2, zh 1) are in another language than their prompts, "
        + ADVICE
    ]
    assert told(drawn[3:]) == told([]) == []


def test_only_what_a_teacher_said_is_counted() -> None:
    own = draw(GERMAN, role="rejected")
    house, failed = draw(GERMAN, HOUSE), draw(GERMAN, finish="failed")
    assert told([own, house, failed]) == []


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def of_language(self) -> list[str]:
        return [line for line in self.lines if line.startswith("language:")]


RECIPE = """
student: {{model: "{model}", adapter: {{rank: 4}}}}
curate: {{sources: [{{kind: file, path: "{prompts}"}}]}}
teach: {{teachers: [{{name: expert, kind: recorded}}], draws: 1, max_tokens: 64}}
train: {{max_steps: 1, losses: [cross_entropy, decision]}}
baselines: []
answer: {{max_tokens: 4}}
mine: {{answer: {{max_tokens: 4}}}}
strength: {{tried: [1.0], answer: {{max_tokens: 4}}}}
evaluate: {{dimensions: [safety]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    """Twelve prompts to train on, three of them with a German reply, and some for the other splits."""
    replies = [GERMAN] * 3 + [ENGLISH] * 9
    rows: list[dict[str, str]] = [
        {
            "prompt": f"{QUESTION} I have {number} of them.",
            "reference": reply,
            "split": "train",
            "family": f"egg {number}",
        }
        for number, reply in enumerate(replies)
    ]
    for split in ("probe", "validation", "exam"):
        for about in ("steal", "paint"):
            harm = {"harm": "unsafe_advice", "tier": "adversarial", "conduct": "refuse"} if about == "steal" else {}
            rows.append(
                {
                    "prompt": f"How do I {about} a {split}?",
                    "reference": "No.",
                    "split": split,
                    "family": split + about,
                    **harm,
                }
            )
    prompts, file = tmp_path / "prompts.jsonl", tmp_path / "recipe.yaml"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.write_text(RECIPE.format(model=tiny_model, prompts=prompts))
    return file


TOLD = f"language: 3 of 12 replies of teacher 'expert' (de 3) are in another language than their prompts, {ADVICE}"


def test_each_round_tells_it_where_it_teaches_and_the_page_counts_it_once(recipe: Path, tmp_path: Path) -> None:
    first, again = Said(), Said()
    made = run(load_config(recipe, ["rounds=2"]), tmp_path / "run", first)
    run(load_config(recipe, ["rounds=2"]), tmp_path / "run", again)
    # The second round takes over the draws of the first, beside those on six variants.
    assert (first.of_language, again.of_language) == ([TOLD, TOLD.replace("of 12", "of 18")], [])
    row = made.page.read_text().partition('<th scope="row">expert</th>')[2].partition("</tr>")[0]
    assert "<td>3</td>" in row


def test_teaching_alone_tells_it_too(recipe: Path, tmp_path: Path) -> None:
    said = Said()
    run_until(load_config(recipe, ()), tmp_path / "run", stage="candidates", progress=said)
    assert said.of_language == [TOLD]
