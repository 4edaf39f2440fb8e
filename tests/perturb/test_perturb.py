"""Noise changes how a prompt is written and not what it asks."""

from __future__ import annotations

import pytest

from limbeck.perturb import PERTURBATIONS, Casing, Perturbation, Typos
from limbeck.records import Message, Prompt, asked

EVERY = pytest.mark.parametrize("noise", [member() for member in PERTURBATIONS.values()], ids=list(PERTURBATIONS))
PROMPT = Prompt(
    messages=(
        Message(role="system", content="Be kind."),
        *asked("How do I explain the weather because it's quickly changing?"),
    ),
    harm="bias",
    tier="safe",
    conduct="answer",
    family="f",
    reference="So.",
)


@EVERY
def test_the_same_prompt_and_seed_give_the_same_text(noise: Perturbation) -> None:
    assert noise(PROMPT, seed=1) == noise(PROMPT, seed=1)


@EVERY
def test_a_variant_reads_otherwise_than_the_prompt(noise: Perturbation) -> None:
    for seed in range(20):
        assert noise(PROMPT, seed=seed).text != PROMPT.text


@EVERY
def test_another_seed_can_give_another_text(noise: Perturbation) -> None:
    assert len({noise(PROMPT, seed=seed).text for seed in range(20)}) > 1


@EVERY
def test_a_variant_keeps_what_is_expected_and_names_its_root(noise: Perturbation) -> None:
    variant = noise(PROMPT, seed=1)
    assert variant.messages[0] == PROMPT.messages[0]
    assert (variant.root, variant.made_by) == (PROMPT.id, noise.kind)
    for kept in ("harm", "tier", "conduct", "family", "reference"):
        assert getattr(variant, kept) == getattr(PROMPT, kept)


@EVERY
def test_a_variant_of_a_variant_names_the_first_root(noise: Perturbation) -> None:
    assert noise(noise(PROMPT, seed=1), seed=2).root == PROMPT.id


@EVERY
@pytest.mark.xfail(strict=True, reason="records.py:24: the variant copies the cached id of the prompt it was made from")
def test_a_variant_is_another_prompt_than_its_root(noise: Perturbation) -> None:
    variant = noise(PROMPT, seed=1)
    assert variant.id != variant.root


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        pytest.param(Typos(), "Why is it so?", id="only short words"),
        pytest.param(Typos(), "weed", id="equal letters change places"),
        pytest.param(Typos(), "Москва", id="no neighbour on a Latin keyboard"),
        pytest.param(Casing(), "1 + 1 = ?", id="no letters"),
    ],
)
@pytest.mark.xfail(
    strict=True,
    reason="perturb/__init__.py: typos touch words of four letters and more, may swap equal letters or miss a "
    "key that has no neighbour, and casing needs letters: the 'perturbed' trial is the prompt as written, and "
    "same_decision counts it as an agreement",
)
def test_a_prompt_that_the_noise_cannot_change_is_not_passed_off_as_changed(noise: Perturbation, text: str) -> None:
    prompt = Prompt(messages=asked(text))
    assert all(noise(prompt, seed=seed).text != text for seed in range(40))


def test_casing_keeps_the_letters_and_typos_most_of_the_words() -> None:
    assert Casing()(PROMPT, seed=3).text.lower() == PROMPT.text.lower()
    before, after = PROMPT.text.split(), Typos(rate=0.2)(PROMPT, seed=3).text.split()
    # Of the six longer words, alphabetic alone, a fifth is one.
    assert len(before) == len(after) and sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_a_prompt_that_opens_as_a_question_is_paraphrased_at_its_opening() -> None:
    texts = {
        PERTURBATIONS["paraphrase"]()(Prompt(messages=asked("How do I cook?")), seed=seed).text for seed in range(40)
    }
    assert texts == {"How can i cook?", "What is the way to cook?", "Tell me how to cook?", "Show me how to cook?"}
