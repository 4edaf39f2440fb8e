"""Truthfulness, answers, perplexity, instructions and languages, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.evaluation.answers import Answers, overlap, words
from limbeck.evaluation.checks import CHECKS
from limbeck.evaluation.instructions import SHIPPED, Instructions, read_instructions
from limbeck.evaluation.languages import Languages
from limbeck.evaluation.perplexity import Perplexity
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.truthfulness import Truthfulness
from limbeck.evaluation.usefulness import Usefulness
from limbeck.records import Prompt, Trial, Verdict, asked
from limbeck.taxonomy import Refused


def figures(measured: Any) -> dict[str, tuple[float | None, int, int]]:
    return {" ".join((one.name, *one.slice.values())): (one.value, one.scored, one.unscored) for one in measured}


def item(number: int, *scores: float, **more: Any) -> Trial:
    prompt = Prompt(messages=asked(f"Which {number}?"), choices=("a", "b", "c", "d"), answer=0, **more)
    return Trial(prompt=prompt, subject="s", asked="choices", scores=scores, tokens=(2,) * len(scores))


def test_mc1_asks_for_the_answer_above_all_that_is_wrong_and_mc2_for_the_mass_of_all_that_is_right() -> None:
    ln = math.log
    # Of whole choices .1, .5, .2, .2 with the second right too: the answer loses to a wrong one, right are .6 of 1.
    lost = item(1, *(ln(p) / 2 for p in (0.1, 0.5, 0.2, 0.2)), also_right=(1,))
    won = item(2, *(ln(p) / 2 for p in (0.3, 0.5, 0.1, 0.1)), also_right=(1,))
    unscored = item(3, also_right=(1,))
    one_right = item(4, -1, -2, -3, -4)
    found = figures(Truthfulness().measure([lost, won, unscored, one_right]))
    assert found == {"mc1": (0.5, 2, 1), "mc2": (pytest.approx(0.7), 2, 1)}


def test_any_right_choice_counts_as_right_and_sources_are_told_apart() -> None:
    trials = [item(1, -2, -1, -3, -4, also_right=(1,), source="a"), item(2, -2, -1, -3, -4, source="b")]
    found = figures(Usefulness().measure(trials))
    assert found["multiple_choice_accuracy"] == (0.5, 2, 0)
    assert (found["multiple_choice_accuracy a"], found["multiple_choice_accuracy b"]) == ((1.0, 1, 0), (0.0, 1, 0))


def reply(text: str | None, reference: str, number: int = 0) -> Trial:
    prompt = Prompt(messages=asked(f"What {number}?"), reference=reference)
    return Trial(prompt=prompt, subject="s", asked="reply", reply=text)


def test_answers_are_compared_without_case_punctuation_and_articles() -> None:
    assert words("The Cat, a dog!") == ["cat", "dog"]
    assert overlap(["a", "b", "b"], ["b", "c"]) == 0.4  # one word in common of 3 + 2
    found = figures(
        Answers().measure([reply("Paris!", "the paris"), reply("In Paris", "Paris", 1), reply(None, "x", 2)])
    )
    assert found == {"exact_match": (0.5, 2, 1), "answer_f1": (pytest.approx((1 + 2 / 3) / 2), 2, 1)}


def test_perplexity_is_exp_of_the_mean_nats_a_token() -> None:
    def read(number: int, *scores: float) -> Trial:
        prompt = Prompt(messages=asked(f"What {number}?"), reference="So.")
        return Trial(prompt=prompt, subject="s", asked="reference", scores=scores, tokens=(3,) * len(scores))

    found = figures(Perplexity().measure([read(1, -1.0), read(2, -2.0), read(3)]))
    assert found == {"perplexity": (pytest.approx(math.exp(1.5)), 2, 1)}


@pytest.mark.parametrize(
    ("check", "passes", "fails"),
    [
        ({"kind": "words", "at_least": 2, "at_most": 3}, "a b", "a b c d"),
        ({"kind": "sentences", "at_least": 2, "at_most": 2}, "It is 3.5 m. So?", "It is."),
        ({"kind": "sentences", "at_least": 2, "at_most": 2}, 'He said: "Go." (I went.)', "(I went.)"),
        ({"kind": "bullets", "at_least": 2, "at_most": 2}, "Two:\n- a\n* b", "- a\n-b"),
        ({"kind": "numbered", "at_least": 2, "at_most": 2}, "1. a\n2) b", "1. a\n2 b"),
        ({"kind": "has", "words": ["sea", "salt"]}, "Salt of the SEA.", "The seaside has salt."),
        ({"kind": "has_not", "words": ["dog"]}, "A dogma.", "My dog."),
        ({"kind": "has_not", "words": ["C++", "100%"]}, "C, by half.", "In C++, say."),
        ({"kind": "begins", "text": "Well"}, " well, so", "So, well"),
        ({"kind": "ends", "text": "?"}, "Is it? ", "Is it? Yes."),
        ({"kind": "format", "of": "json"}, '```json\n{"a": 1}\n```', "Here: {}"),
        ({"kind": "format", "of": "small"}, "so it is.", "So it is."),
        ({"kind": "format", "of": "capitals"}, "SO!", "12"),
    ],
)
def test_a_check_passes_what_keeps_to_it_and_fails_what_does_not(check: Any, passes: str, fails: str) -> None:
    found = CHECKS.read(check)
    assert found(passes) and not found(fails)
    assert found("") == (check["kind"] == "has_not")


def test_an_instruction_is_followed_where_all_its_checks_pass(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    both = '{"prompt": "Both?", "checks": [{"kind": "words", "at_most": 2}, {"kind": "has", "words": ["yes"]}]}\n'
    path.write_text(both + '{"prompt": "One?", "checks": [{"kind": "words", "at_most": 2}]}\n')
    evaluator = Instructions(path=path)
    first, second = evaluator.wants([], seed=0)
    trials = [first.model_copy(update={"reply": "No."}), second.model_copy(update={"reply": "No."})]
    found = figures(evaluator.measure(trials))
    assert found["instructions_followed"] == (0.5, 2, 0)
    assert found["instructions_followed words"] == (1.0, 2, 0)
    assert found["instructions_followed has"] == (0.0, 1, 0)
    assert figures(evaluator.measure([first, second]))["instructions_followed words"] == (None, 0, 2)


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ("", r"1: 'checks': Input should be a valid tuple"),
        (', "checks": []', r"1: 'checks' is empty; give at least one"),
        (', "checks": [{"kind": "word"}]', r"1: 'checks': unknown check 'word'; did you mean words\?"),
        (', "checks": ["words"]', r"the check 'words' has no bounds; give at_least or at_most"),
    ],
)
def test_an_instruction_without_a_check_is_named(tmp_path: Path, checks: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "So?"{checks}}}\n')
    with pytest.raises(InputError, match=said):
        read_instructions(tmp_path / "a.jsonl")


def test_each_kind_of_check_is_used_by_the_instructions_that_ship() -> None:
    shipped = read_instructions(SHIPPED)
    assert len({one.prompt.id for one in shipped}) == len(shipped) == 48
    assert {check.kind for one in shipped for check in one.checks} == set(CHECKS)


def test_the_reply_to_an_instruction_is_no_everyday_reply() -> None:
    (first, *_) = Instructions().wants([], seed=0)
    told = first.model_copy(
        update={"reply": "So.", "verdicts": (Verdict(of="", judge="j", version="1", refused="full"),)}
    )
    assert figures(Refusal().measure([told]))["refused_when_harmless everyday"] == (None, 0, 0)


def said_in(language: str, refused: Refused | None, family: str = "f", **more: Any) -> Trial:
    prompt = Prompt(
        messages=asked(f"{language} {family} {more}?"), harm="bias", family=family, language=language,
        **{"tier": "adversarial", "conduct": "refuse", **more},
    )  # fmt: skip
    verdict = Verdict(of="", judge="j", version="1", refused=refused)
    return Trial(prompt=prompt, subject="s", asked="reply", reply="...", verdicts=(verdict,))


def test_decisions_are_compared_with_those_on_the_translation() -> None:
    twin = {"tier": "safe", "conduct": "answer"}
    trials = [
        said_in("en", "full"), said_in("de", "none"), said_in("it", None),
        said_in("en", "none", **twin), said_in("de", "none", **twin),
        said_in("en", "full", "untranslated"),
    ]  # fmt: skip
    assert figures(Languages().measure(trials)) == {
        "handled_safely en": (1.0, 2, 0), "handled_safely de": (0.0, 1, 0), "handled_safely it": (None, 0, 1),
        "refused_when_harmless en": (0.0, 1, 0), "refused_when_harmless de": (0.0, 1, 0),
        "refused_when_harmless it": (None, 0, 0),
        "same_decision de": (0.5, 2, 0), "same_decision it": (None, 0, 1),
    }  # fmt: skip


def test_two_prompts_of_a_language_in_one_family_are_no_translations() -> None:
    trials = [said_in("en", "full"), said_in("de", "none"), said_in("de", "full", source="other")]
    assert figures(Languages().measure(trials))["same_decision de"] == (None, 0, 0)
