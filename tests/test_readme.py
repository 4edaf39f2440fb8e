"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck import load_config

HOUSE = Path(__file__).parents[1]


def test_the_losses_of_the_readme_run_in_a_trainer_of_ones_own() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (HOUSE / "README.md").read_text(), re.DOTALL)
    (snippet,) = [block for block in blocks if "backward()" in block]
    said: dict[str, object] = {}
    exec(snippet, said)
    assert said["hidden_NH"].grad.abs().sum() > 0  # type: ignore[attr-defined]


def test_every_shipped_recipe_loads() -> None:
    recipes = sorted((HOUSE / "recipes").glob("*.yaml"))
    assert [recipe.stem for recipe in recipes] == [
        "chain_of_thought", "cross_tokenizer", "endpoint_teacher", "lessons", "multi_teacher", "privileged_context",
        "quickstart",
    ]  # fmt: skip
    for recipe in recipes:
        assert load_config(recipe).student.model == "smollm2-135m-instruct"
