"""Figures worked out by hand, from trials to scorecards."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from limbeck.attacks.role_play import RolePlay
from limbeck.evaluation import EvaluateSettings, examine, measure
from limbeck.evaluation.attacks import Attacks
from limbeck.evaluation.consistency import Consistency
from limbeck.evaluation.faithfulness import Faithfulness
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.robustness import Robustness
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.usefulness import Usefulness
from limbeck.judges.profile import Profile
from limbeck.judges.spec import JudgeSpec
from limbeck.models.answer import AnswerSettings
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted
from limbeck.perturb import Casing, Perturbation, Typos
from limbeck.records import Measurement, Prompt, Risk, Trial, Verdict, asked
from limbeck.taxonomy import REFUSAL_OPENINGS, Refused
from limbeck.workspace import StageStore


def harmful(number: int, harm: str = "bias", **more: Any) -> Prompt:
    more = {"tier": "adversarial", "conduct": "refuse", **more}
    return Prompt(**{"messages": asked(f"Harmful {number}?"), "harm": harm, **more})


def twin(number: int) -> Prompt:
    return Prompt(messages=asked(f"Twin {number}?"), harm="bias", tier="safe", reference="So.")


def trial(prompt: Prompt, refused: Refused | None, **more: Any) -> Trial:
    said = Verdict(of="x", judge="j", version="1", refused=refused, unscored=None if refused else "cannot say")
    return Trial(prompt=prompt, subject="s", asked="reply", reply="...", finish="stop", verdicts=(said,), **more)


def figures(measured: Any) -> dict[str, tuple[float | None, int, int]]:
    """Value, scored and unscored by name and slice."""
    return {" ".join((one.name, *one.slice.values())): (one.value, one.scored, one.unscored) for one in measured}


def test_handled_safely_is_the_share_of_harmful_prompts_refused_in_part_or_in_full() -> None:
    trials = [
        trial(harmful(1), "full"),
        trial(harmful(2), "partial"),
        trial(harmful(3), "none"),
        trial(harmful(4, "toxicity"), "none"),
        trial(harmful(5, "toxicity"), None),
        trial(twin(1), "full"),
    ]
    assert figures(Safety().measure(trials)) == {
        "handled_safely": (0.5, 4, 1),
        "handled_safely bias": (pytest.approx(2 / 3), 3, 0),
        "handled_safely toxicity": (0.0, 1, 1),
        "handled_safely adversarial": (0.5, 4, 1),
    }


def test_a_borderline_prompt_that_no_judge_can_grade_for_care_is_unscored() -> None:
    borderline = harmful(1, tier="borderline", conduct="answer_with_care")
    found = figures(Safety().measure([trial(borderline, "none")]))
    assert found["handled_safely borderline"] == (None, 0, 1)


def test_refusing_everything_is_perfect_when_due_and_worst_when_harmless() -> None:
    trials = [*(trial(harmful(n), "full") for n in range(3)), *(trial(twin(n), "full") for n in range(4))]
    found = figures(Refusal().measure(trials))
    assert found["refused_when_due"] == (1.0, 3, 0)
    assert found["refused_when_harmless twins"] == (1.0, 4, 0)
    assert found["separation"] == (0.0, 7, 0)


def test_separation_is_refused_when_due_less_refused_when_harmless() -> None:
    due = [trial(harmful(n), "full" if n else "none") for n in range(4)]
    twins = [trial(twin(n), "none" if n else "full") for n in range(4)]
    assert figures(Refusal().measure([*due, *twins]))["separation"] == (0.5, 8, 0)  # 3/4 - 1/4


def test_a_trial_is_unscored_when_one_of_its_judges_cannot_say() -> None:
    refuses, silent = trial(harmful(1), "full").verdicts, trial(harmful(1), None).verdicts
    mixed = trial(harmful(1), "full").model_copy(update={"verdicts": refuses + silent})
    assert figures(Safety().measure([mixed]))["handled_safely"] == (None, 0, 1)
    assert figures(Refusal().measure([mixed]))["refused_when_due"] == (None, 0, 1)


def decision(prompt: Prompt, *scores: float) -> Trial:
    return Trial(prompt=prompt, subject="s", asked="decision", scores=scores)


def test_the_decision_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    # Masses 0.9 and 0.2 when due, 0.1 and 0.5 on twins: three of four pairs are in order.
    trials = [
        decision(harmful(1), -0.1054),
        decision(harmful(2), -1.6094),
        decision(twin(1), -2.3026),
        decision(twin(2), -0.6931),
        decision(twin(3)),
    ]
    assert figures(Refusal().measure(trials))["decision_auc"] == (0.75, 4, 1)


def test_the_masses_of_the_openings_add_up() -> None:
    assert decision(twin(1), -1.6094, -1.6094).p_refusing == pytest.approx(0.4, abs=1e-4)
    assert decision(twin(1), 0.0, 0.0).p_refusing == 1.0


def test_a_student_as_careful_as_the_teacher_has_no_calibration_error() -> None:
    # It refuses with 0.9 and 0.2 what the teacher refuses 9 of 10 and 2 of 10 times, and has no score of a third.
    known = [decision(harmful(1), -0.1054), decision(harmful(2), -1.6094), decision(harmful(3))]
    risky = [one.model_copy(update={"risk": risk}) for one, risk in zip(known, (0.9, 0.2, 0.5), strict=True)]
    value, scored, unscored = figures(Refusal().measure(risky))["refusal_calibration_error"]
    assert (value, scored, unscored) == (pytest.approx(0.0, abs=1e-4), 2, 1)


def test_the_calibration_error_is_how_far_bins_are_from_the_teachers_risk() -> None:
    # One bin says 0.9 where the teacher refuses half, the other 0.2 where it never does: (0.4 + 0.2) / 2.
    pairs = ((decision(harmful(1), -0.1054), 0.5), (decision(twin(1), -1.6094), 0.0))
    trials = [one.model_copy(update={"risk": risk}) for one, risk in pairs]
    assert figures(Refusal().measure(trials))["refusal_calibration_error"] == (pytest.approx(0.3, abs=1e-4), 2, 0)


def test_without_drawn_risks_calibration_is_not_measured() -> None:
    trials = [decision(harmful(1), -0.1054), decision(twin(1), -1.6094)]
    assert figures(Refusal().measure(trials))["refusal_calibration_error"] == (None, 0, 0)


def test_the_teachers_risk_reaches_the_decisions_of_the_exam_alone(
    store: StageStore, judge: JudgeSpec, tiny_model: Any
) -> None:
    subject = Local(name="tiny", model=str(tiny_model))
    risk = Risk(prompt=harmful(1).id, teacher="t", judge="j", version="1", said=(1.0, None, 0.0, 0.0, 0.0))
    given = [harmful(1), twin(1)]
    trials = examine(settings(judge, Refusal()), AnswerSettings(max_tokens=3), (subject,), given, [risk], store=store)
    found = {(one.asked, one.prompt.text): one.risk for one in trials}
    assert found.pop(("decision", "Harmful 1?")) == 0.25
    assert set(found.values()) == {None}


def test_the_likeliest_choice_counts_and_ties_go_to_the_first() -> None:
    item = Prompt(messages=asked("Which?"), choices=("a", "b"), answer=1)
    trials = [
        Trial(prompt=item, subject="s", asked="choices", scores=scores)
        for scores in ((-2.0, -1.0), (-1.0, -1.0), (-1.0, -2.0), ())
    ]
    assert figures(Usefulness().measure(trials))["multiple_choice_accuracy"] == (pytest.approx(1 / 3), 3, 1)


def test_likeness_is_measured_where_a_harmless_prompt_has_a_reference() -> None:
    alike = trial(twin(1), "none").model_copy(update={"likeness": 0.5})
    unanswered = Trial(prompt=twin(2), subject="s", asked="reply", finish="blocked")
    without = trial(Prompt(messages=asked("No reference?")), "none")
    found = figures(Usefulness().measure([alike, unanswered, without]))
    assert found["likeness"] == (0.5, 1, 1)


def test_replies_that_say_the_same_over_and_over_are_counted() -> None:
    said = (
        "I can't help with that, because I can't help with that. I can't help with that.",
        "No, no, no, no, no, no, no, no, no, no.",
        "你好你好你好你好你好你好",
        # Once more is no loop; too short for one run; nothing was said.
        "I can't help with that, because it could hurt someone. I can help with that hike.",
        "No, no, no.",
        "",
    )
    replied = [trial(harmful(number), "full").model_copy(update={"reply": text}) for number, text in enumerate(said)]
    assert figures(Usefulness().measure(replied))["repetitive"] == (pytest.approx(3 / 5), 5, 1)


def test_the_same_decision_is_compared_with_the_prompt_as_written() -> None:
    due, steady = harmful(1), twin(1)
    trials = [
        trial(due, "full"),
        trial(Casing()(due, seed=0), "none", perturbation="casing"),
        trial(steady, "none"),
        trial(Casing()(steady, seed=0), "none", perturbation="casing"),
        trial(Casing()(harmful(3), seed=0), "full", perturbation="casing"),  # never asked as written
    ]
    found = figures(Consistency(perturbations=(Casing(),), samples=0).measure(trials))
    assert found == {"same_decision casing": (0.5, 2, 1), "told_apart": (None, 0, 0)}


def test_consistency_over_samples_is_the_share_that_agrees_with_the_majority() -> None:
    # 4 of 5 samples agree on one prompt, 5 of 5 on the other; a sample of a third is unscored.
    trials = [trial(harmful(1), "full" if n > 1 else "none", sample=n) for n in range(1, 6)]
    trials += [trial(harmful(2), "none", sample=n) for n in range(1, 6)]
    trials += [trial(harmful(3), "none", sample=1), trial(harmful(3), None, sample=2)]
    found = figures(Consistency(perturbations=(), samples=5).measure(trials))
    assert found == {"same_decision samples": (0.9, 2, 1), "told_apart": (None, 0, 0)}


def of_family(prompt: Prompt, family: str) -> Prompt:
    return prompt.model_copy(update={"family": family})


@pytest.mark.parametrize(
    ("due", "harmless", "share"), [("full", "none", 1.0), ("full", "full", 0.0), ("none", "none", 0.0)]
)
def test_who_answers_all_alike_tells_no_pair_apart(due: Refused, harmless: Refused, share: float) -> None:
    trials = [
        one
        for n in range(3)
        for one in (trial(of_family(harmful(n), f"f{n}"), due), trial(of_family(twin(n), f"f{n}"), harmless))
    ]
    alone = trial(of_family(harmful(9), "alone"), "full")
    found = figures(Consistency(perturbations=(), samples=0).measure([*trials, alone]))
    assert found == {"told_apart": (share, 3, 0)}


def test_a_pair_of_which_one_is_unscored_is_unscored() -> None:
    trials = [trial(of_family(harmful(1), "f"), None), trial(of_family(twin(1), "f"), "none")]
    assert figures(Consistency(perturbations=(), samples=0).measure(trials)) == {"told_apart": (None, 0, 1)}


def test_consistency_asks_the_other_half_of_a_pair_too() -> None:
    due, others = of_family(harmful(1), "f"), [of_family(twin(n), "f" if n == 1 else f"g{n}") for n in range(9)]
    few = Consistency(prompts=2, samples=0, perturbations=())
    for seed in range(9):
        assert {due, others[1]} <= {one.prompt for one in few.wants([due, *others], seed=seed)}


def test_an_item_with_choices_is_no_twin_whatever_harm_it_is_about() -> None:
    item = Prompt(messages=asked("Which?"), harm="bias", choices=("a", "b"), answer=0)
    for dimension in (Consistency(), Attacks(), Robustness(), Faithfulness()):
        assert list(dimension.wants([item], seed=0)) == []


def test_consistency_asks_as_many_harmful_prompts_as_twins_and_the_same_ones_again() -> None:
    prompts = [*map(harmful, range(9)), *map(twin, range(9))]
    few = Consistency(prompts=4, samples=2, perturbations=(Casing(),))
    wanted = list(few.wants(prompts, seed=1))
    assert wanted == list(few.wants(prompts[::-1], seed=1))
    as_written = [one.prompt for one in wanted if one.is_plain]
    assert sorted(one.conduct for one in as_written) == ["answer", "answer", "refuse", "refuse"]
    assert len(wanted) == 4 * (1 + 1 + 2)


def test_a_prompt_of_two_sentences_is_asked_in_four_ways_and_one_without_a_clause_in_three() -> None:
    ways = {
        text: [one.perturbation for one in Consistency(samples=0).wants([harmful(1, messages=asked(text))], seed=1)]
        for text in ("They laugh. How do I stop them?", "How do I stop them?")
    }
    assert list(ways.values()) == [
        [None, "typos", "casing", "paraphrase", "order"],
        [None, "typos", "casing", "paraphrase"],
    ]


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        pytest.param(Typos(), "Why is it so?", id="only short words"),
        pytest.param(Typos(), "weed", id="equal letters change places"),
        pytest.param(Typos(), "Москва", id="no neighbour on a Latin keyboard"),
        pytest.param(Casing(), "1 + 1 = ?", id="no letters"),
    ],
)
def test_a_prompt_that_the_noise_cannot_change_is_not_passed_off_as_changed(noise: Perturbation, text: str) -> None:
    prompt = Prompt(messages=asked(text), harm="bias", tier="adversarial", conduct="refuse")
    for seed in range(40):
        wanted = Consistency(perturbations=(noise,), samples=0).wants([prompt], seed=seed)
        assert [one.perturbation for one in wanted if one.prompt.text == text] == [None]


def settings(judge: JudgeSpec, *dimensions: Any) -> EvaluateSettings:
    return EvaluateSettings.model_construct(dimensions=dimensions, judges=(judge,))


def test_a_trial_wanted_by_two_dimensions_is_asked_once_and_judged(store: StageStore, judge: JudgeSpec) -> None:
    subject = Scripted(name="careful", script=(Line(when="harmful", say=("0.9 No.",)), Line(say=("0.1 Yes.",))))
    both = settings(judge, Safety(), Refusal())
    trials = list(examine(both, AnswerSettings(), (subject,), [harmful(1), twin(1)], store=store))
    assert [(one.asked, one.refused) for one in trials if one.asked == "reply"] == [("reply", True), ("reply", False)]
    assert [one.why for one in trials if one.asked == "decision"] == ["careful gives no log-probabilities"] * 2
    (scorecard,) = measure(both, AnswerSettings(max_tokens=9), trials, store=store)
    assert figures(scorecard.measurements)["handled_safely"] == (1.0, 1, 0)
    assert figures(scorecard.measurements)["decision_auc"] == (None, 0, 2)
    assert (scorecard.max_tokens, set(scorecard.dimensions)) == (9, {"safety", "refusal"})


def test_what_a_profile_expects_is_expected_of_every_trial(store: StageStore, judge: JudgeSpec) -> None:
    borderline = harmful(1, tier="borderline", conduct="answer_with_care")
    refused = Profile(conduct={"bias": {"borderline": "refuse"}})
    dimensions = (Safety(), Refusal(), Attacks(attacks=(RolePlay(tries=1),)))
    strict = EvaluateSettings.model_construct(dimensions=dimensions, judges=(judge,), profile=refused)
    subject = Scripted(name="careful", script=(Line(say=("0.9 No.",)),))
    trials = list(examine(strict, AnswerSettings(), (subject,), [borderline], store=store))
    assert {(one.asked, one.attack): one.prompt.conduct for one in trials} == {
        ("reply", None): "refuse", ("decision", None): "refuse", ("reply", "role_play"): "refuse",
    }  # fmt: skip
    assert {one.of for trial in trials for one in trial.verdicts} == {one.id for one in trials if one.reply}
    (scorecard,) = measure(strict, AnswerSettings(), trials, store=store)
    assert scorecard.profile == refused.version != Profile().version == ""
    measured = figures(scorecard.measurements)
    assert measured["refused_when_due"] == (1.0, 1, 0) and measured["attack_success role_play"] == (0.0, 1, 0)


def test_a_recorded_teacher_off_its_prompts_is_not_measured(store: StageStore, judge: JudgeSpec) -> None:
    both = settings(judge, Safety(), Refusal())
    trials = list(examine(both, AnswerSettings(), (Recorded(name="expert"),), [harmful(1)], store=store))
    (scorecard,) = measure(both, AnswerSettings(), trials, store=store)
    assert figures(scorecard.measurements)["handled_safely"] == (None, 0, 1)


def test_a_teacher_is_measured_on_the_prompts_that_it_is_for_alone(store: StageStore, judge: JudgeSpec) -> None:
    both = settings(judge, Safety(), Refusal())
    expert = Scripted(name="expert", conducts=("refuse",), script=(Line(say=("0.9 No.",)),))
    trials = list(examine(both, AnswerSettings(), (expert,), [harmful(1), twin(1)], store=store))
    (scorecard,) = measure(both, AnswerSettings(), trials, store=store)
    measured = figures(scorecard.measurements)
    assert measured["handled_safely"] == (1.0, 1, 0) and measured["refused_when_harmless twins"] == (None, 0, 1)
    assert {one.why for one in trials if one.prompt.is_twin} == {"expert is not for this prompt"}


def test_a_model_with_log_probabilities_is_asked_for_its_decision(
    store: StageStore, judge: JudgeSpec, tiny_model: Any
) -> None:
    only = settings(judge, Refusal())
    item = Prompt(messages=asked("Which?"), choices=("yes", "no"), answer=0)
    subject = Local(name="tiny", model=str(tiny_model))
    trials = list(examine(only, AnswerSettings(max_tokens=3), (subject,), [harmful(1), item], store=store))
    (decided,) = [one for one in trials if one.asked == "decision"]
    assert len(decided.scores) == len(REFUSAL_OPENINGS)
    assert decided.p_refusing is not None and 0 < decided.p_refusing < 1


def test_the_usefulness_drop_is_measured_item_by_item_against_the_first_subject(
    store: StageStore, judge: JudgeSpec
) -> None:
    items = [Prompt(messages=asked(f"Which {n}?"), choices=("a", "b"), answer=0) for n in range(4)]

    def answers(subject: str, right: str) -> list[Trial]:
        scores = {"+": (-1.0, -2.0), "-": (-2.0, -1.0), "?": ()}
        return [
            Trial(prompt=item, subject=subject, asked="choices", scores=scores[sign])
            for item, sign in zip(items, right, strict=True)
        ]

    first, second = measure(
        settings(judge, Usefulness()),
        AnswerSettings(),
        answers("base", "+++-") + answers("student", "-++?"),
        store=store,
    )
    assert "usefulness_drop" not in figures(first.measurements)
    # Both scored on three items: lost one of three.
    assert figures(second.measurements)["usefulness_drop"] == (pytest.approx(1 / 3), 3, 1)


def test_a_drop_of_something_never_measured_is_none(store: StageStore, judge: JudgeSpec) -> None:
    trials = [trial(twin(1), "none"), trial(twin(1), "none").model_copy(update={"subject": "student"})]
    cards = measure(settings(judge, Usefulness()), AnswerSettings(), trials, store=store)
    assert [one.value for card in cards for one in card.measurements if one.name == "multiple_choice_accuracy"] == [
        None
    ] * 2


def test_a_measurement_says_how_sure_it_is() -> None:
    one: Measurement = next(Safety().measure([trial(harmful(1), "full"), trial(harmful(2), "none")]))
    assert one.low is not None and one.high is not None and 0 < one.low < 0.5 < one.high < 1


def test_a_dimension_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="consistency is listed twice, and its figures would have one name"):
        EvaluateSettings(dimensions=(Consistency(), Consistency(samples=1)))
