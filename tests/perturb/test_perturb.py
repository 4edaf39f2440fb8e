"""Noise changes how a prompt is written and not what it asks."""

from __future__ import annotations

import pytest

from limbeck.perturb import PERTURBATIONS, Casing, Order, Perturbation, Typos
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
def test_a_variant_is_another_prompt_than_its_root(noise: Perturbation) -> None:
    variant = noise(PROMPT, seed=1)
    assert variant.id != variant.root


def test_casing_keeps_the_letters_and_typos_most_of_the_words() -> None:
    assert Casing()(PROMPT, seed=3).text.lower() == PROMPT.text.lower()
    before, after = PROMPT.text.split(), Typos(rate=0.2)(PROMPT, seed=3).text.split()
    # Of the six longer words, alphabetic alone, a fifth is one.
    assert len(before) == len(after) and sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_a_prompt_that_opens_as_a_question_is_paraphrased_at_its_opening() -> None:
    texts = {
        PERTURBATIONS["paraphrase"]()(Prompt(messages=asked("How do I cook?")), seed=seed).text for seed in range(40)
    }
    assert texts == {"How can I cook?", "What is the way to cook?", "Tell me how to cook?", "Show me how to cook?"}


def test_a_paraphrase_keeps_the_capitals_of_i_and_of_names() -> None:
    said = [
        PERTURBATIONS["paraphrase"]()(Prompt(messages=asked(text)), seed=seed).text
        for text in ("Can I ask Anna in Rome?", "should I ask Anna in Rome?", "What can Anna do in Rome?")
        for seed in range(20)
    ]
    assert not any(" i " in one for one in said) and all("Anna" in one and "Rome" in one for one in said)
    assert {"May I ask Anna in Rome?", "Is it right that I ask Anna in Rome?"} <= set(said)


def test_a_clause_in_front_leaves_i_and_names_their_capital() -> None:
    def texts(said: str) -> set[str]:
        return {Order()(Prompt(messages=asked(said)), seed=seed).text.replace(",", "") for seed in range(20)}

    assert texts("I'd cook if the gas was on.") == {"If the gas was on I'd cook."}
    assert texts("UK shops close when it snows.") == {"When it snows UK shops close."}
    assert texts("Anna would cook if Anna's gas was on.") == {"If Anna's gas was on Anna would cook."}
    assert texts("The shop shuts when it snows.") == {"When it snows the shop shuts."}


def test_sentences_change_places_and_a_single_ones_last_clause_comes_first() -> None:
    def texts(said: str) -> set[str]:
        return {Order()(Prompt(messages=asked(said)), seed=seed).text for seed in range(20)}

    assert texts("I have a cat. It is ill. What now?") == {
        "It is ill. What now? I have a cat.",
        "What now? I have a cat. It is ill.",
    }
    assert texts("How do I cook if the gas is off?") == {
        "If the gas is off, how do I cook?",
        "If the gas is off how do I cook?",
    }
    assert texts("How do I cook?") == {"How do I cook?"}
