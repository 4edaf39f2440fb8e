"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from limbeck import load_config
from limbeck.losses import LOSSES
from limbeck.losses.places import FullPlaces
from limbeck.losses.spec import Counts
from limbeck.losses.token_loss import TokenLoss

HOUSE = Path(__file__).parents[1]


def test_the_losses_of_the_readme_run_in_a_trainer_of_ones_own() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (HOUSE / "README.md").read_text(), re.DOTALL)
    (snippet,) = [block for block in blocks if "backward()" in block]
    said: dict[str, object] = {}
    exec(snippet, said)
    assert said["hidden_NH"].grad.abs().sum() > 0  # type: ignore[attr-defined]


def test_the_loss_of_ones_own_in_the_docs_has_a_value_for_each_token() -> None:
    page = (HOUSE / "docs" / "losses.md").read_text().partition("## A loss of your own")[2]
    said: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], said)
    brier = said["Brier"]()
    counts = Counts(torch.ones(2), torch.ones(2), torch.zeros(2, dtype=torch.bool))
    places = FullPlaces(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log())
    told = SimpleNamespace(student=places), SimpleNamespace(tokens_N=torch.tensor([1, 0]), of=lambda over: counts)
    value, weight = brier(*told)
    assert value.tolist() == pytest.approx([1 / 16, 1 / 4]) and weight.tolist() == [1.0, 1.0]
    assert brier.wants == {"reply"}


@pytest.mark.parametrize("kind", LOSSES)
def test_every_setting_of_a_loss_stands_in_the_reference_of_the_recipe(kind: str) -> None:
    page = (HOUSE / "docs" / "recipe.md").read_text().partition("\n## losses\n")[2].partition("\n## ")[0]
    sections = {name: text for title, text in re.findall(r"### (.*?)\n(.*?)(?=\n### |\Z)", page, re.DOTALL)
                for name in title.split(", ")}  # fmt: skip
    told = set(re.findall(r"^(?:\| )?(`\w+`(?:(?:,| and) `\w+`)*)", sections[kind], re.MULTILINE))
    named = {name for one in told for name in re.findall(r"\w+", one)}
    shared = {"decision_window", "floor"} if issubclass(LOSSES[kind], TokenLoss) else set()
    assert set(LOSSES[kind].model_fields) - {"kind", "noise"} - shared <= named


def test_every_shipped_recipe_loads() -> None:
    recipes = sorted((HOUSE / "recipes").glob("*.yaml"))
    assert [recipe.stem for recipe in recipes] == [
        "chain_of_thought", "cross_tokenizer", "endpoint_teacher", "lessons", "multi_teacher", "privileged_context",
        "quickstart", "release_check",
    ]  # fmt: skip
    for recipe in recipes:
        assert load_config(recipe).student.model == "smollm2-135m-instruct"
