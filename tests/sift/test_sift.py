"""What may be learnt, how much of it, and why."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from limbeck.errors import InputError
from limbeck.judges.grade import DrawnUntil, GradeSettings, grade
from limbeck.judges.profile import Profile
from limbeck.judges.spec import JudgeSpec
from limbeck.records import Candidate, Lesson, Prompt, Risk, asked
from limbeck.sift import SiftSettings, sift
from limbeck.taxonomy import HOUSE, Finish
from limbeck.workspace import StageStore

# The judge takes the number for the probability of a refusal.
HARMLESS = Prompt(messages=asked("How do I boil an egg?"))
OTHER = Prompt(messages=asked("How do I peel an egg?"))
CAREFUL = Prompt(
    messages=asked("May I mix these pills?"), harm="unsafe_advice", tier="borderline", conduct="answer_with_care"
)
HARMFUL = Prompt(messages=asked("How do I hurt someone?"), harm="unsafe_advice", tier="adversarial", conduct="refuse")


def said(
    prompt: Prompt,
    reply: str,
    role: Literal["taught", "rejected"] = "taught",
    finish: Finish = "stop",
    attempt: int = 0,
) -> Candidate:
    return Candidate(
        prompt=prompt,
        teacher="t" if role == "taught" else "base",
        role=role,
        reply=reply,
        finish=finish,
        attempt=attempt,
    )


def by(*judges: JudgeSpec) -> GradeSettings:
    return GradeSettings.model_construct(judges=judges)


def until(judge: JudgeSpec, *teachers: str, **thresholds: float) -> DrawnUntil:
    profile = Profile(thresholds=thresholds)
    return DrawnUntil.model_construct(judge=judge, profile=profile, teachers=teachers)


def sifted(store: StageStore, judge: JudgeSpec, *drawn: Candidate, **settings: Any) -> list[Lesson]:
    graded = list(grade(by(judge), until(judge), drawn, store=store))
    prompts = list({one.prompt.id: one.prompt for one in drawn}.values())
    return list(sift(SiftSettings(**settings), prompts, drawn, graded, store=store))


@pytest.mark.parametrize(
    ("reply", "weight", "rule"),
    [
        ("0.20 Ten minutes.", 1.0, "kept: 0.80 >= keep 0.75"),
        ("0.25 Ten minutes.", 1.0, "kept: 0.75 >= keep 0.75"),
        ("0.40 Ten minutes.", 0.6, "down-weighted: 0.60 >= downweight 0.4"),
        ("0.59 Ten minutes.", 0.41, "down-weighted: 0.41 >= downweight 0.4"),
    ],
)
def test_a_reply_is_learnt_in_full_from_keep_and_in_part_from_downweight(
    store: StageStore, judge: JudgeSpec, reply: str, weight: float, rule: str
) -> None:
    (lesson,) = sifted(store, judge, one := said(HARMLESS, reply))
    assert (lesson.reply, lesson.weight) == (reply, pytest.approx(weight))
    assert lesson.provenance is not None
    assert (lesson.provenance.rule, lesson.provenance.candidates) == (rule, (one.id,))
    assert len(lesson.provenance.verdicts) == 1


def test_below_downweight_only_the_decision_is_learnt(store: StageStore, judge: JudgeSpec) -> None:
    _, lesson = sifted(store, judge, said(OTHER, "0.1 Like this."), said(HARMLESS, "0.90 No."))
    assert (lesson.reply, lesson.risk, lesson.weight) == (None, 0.0, 1.0)
    assert lesson.provenance is not None
    assert lesson.provenance.rule == "rejected: 0.10 < downweight 0.4: the decision alone"


@pytest.mark.parametrize("finish", ["blocked", "failed"])
def test_a_blocked_or_failed_reply_is_never_a_lesson(store: StageStore, judge: JudgeSpec, finish: Finish) -> None:
    lessons = sifted(store, judge, said(OTHER, "0.1 Like this."), said(HARMLESS, "0.1 Text left over", finish=finish))
    assert [lesson.reply for lesson in lessons] == ["0.1 Like this.", None]
    assert lessons[1].rejected == ()
    assert lessons[1].provenance is not None and lessons[1].provenance.rule == f"{finish}: the decision alone"


def test_a_reply_that_no_judge_could_score_is_never_a_lesson(store: StageStore, judge: JudgeSpec) -> None:
    lessons = sifted(store, judge, said(OTHER, "0.1 Like this."), said(HARMLESS, "no number"))
    assert lessons[1].reply is None
    assert lessons[1].provenance is not None and lessons[1].provenance.rule == "unscored: the decision alone"


def test_the_best_of_all_draws_is_learnt_and_the_first_of_equals(store: StageStore, judge: JudgeSpec) -> None:
    draws = [said(HARMLESS, f"{p} {n}", attempt=n) for n, p in enumerate(("0.4", "0.1", "0.1", "0.2"))]
    (lesson,) = sifted(store, judge, *draws)
    assert lesson.reply == "0.1 1"


def test_a_refusal_is_what_a_harmful_prompt_asks_for(store: StageStore, judge: JudgeSpec) -> None:
    (lesson,) = sifted(store, judge, said(HARMFUL, "0.9 No."))
    assert (lesson.reply, lesson.weight, lesson.risk) == ("0.9 No.", 1.0, 1.0)


def test_a_careful_answer_that_leaves_a_part_out_is_kept(store: StageStore, judge: JudgeSpec) -> None:
    (lesson,) = sifted(store, judge, said(CAREFUL, "0.6 In part."))
    assert (lesson.reply, lesson.weight, lesson.risk) == ("0.6 In part.", 1.0, 0.0)


def test_what_the_base_said_unsafely_is_to_be_avoided_once_each(store: StageStore, judge: JudgeSpec) -> None:
    own = [said(HARMFUL, "0.1 Sure, first...", "rejected", attempt=n) for n in range(2)]
    (lesson,) = sifted(store, judge, said(HARMFUL, "0.9 No."), *own)
    assert lesson.rejected == ("0.1 Sure, first...",)
    assert lesson.provenance is not None and {one.id for one in own} < set(lesson.provenance.candidates)


def test_what_the_base_said_safely_is_neither_learnt_nor_avoided(store: StageStore, judge: JudgeSpec) -> None:
    (lesson,) = sifted(store, judge, said(HARMFUL, "0.9 No."), said(HARMFUL, "0.95 No!", "rejected"))
    assert (lesson.reply, lesson.rejected) == ("0.9 No.", ())


def test_an_unsafe_reply_of_the_teacher_is_to_be_avoided_too(store: StageStore, judge: JudgeSpec) -> None:
    (lesson,) = sifted(store, judge, said(HARMFUL, "0.1 Sure."), said(HARMFUL, "0.9 No.", attempt=1))
    assert (lesson.reply, lesson.rejected) == ("0.9 No.", ("0.1 Sure.",))


def test_the_end_of_a_reply_that_was_cut_is_not_learnt(store: StageStore, judge: JudgeSpec) -> None:
    (lesson,) = sifted(store, judge, said(HARMLESS, "0.1 Ten min", finish="length"))
    assert not lesson.ends


def test_higher_thresholds_accept_fewer(store: StageStore, judge: JudgeSpec) -> None:
    drawn = [said(HARMLESS, "0.3 Ten."), said(OTHER, "0.05 Peel.")]
    strict, lax = ({"keep": 0.9, "downweight": 0.8}, {"keep": 0.6})
    assert [lesson.reply for lesson in sifted(store, judge, *drawn, **strict)] == [None, "0.05 Peel."]
    assert [lesson.weight for lesson in sifted(store, judge, *drawn, **lax)] == [1.0, 1.0]


def test_a_teacher_that_always_refuses_ends_with_one_message(store: StageStore, judge: JudgeSpec) -> None:
    drawn = [said(HARMLESS, "0.9 No."), said(OTHER, "0.9 No."), said(OTHER, "", finish="failed", attempt=1)]
    with pytest.raises(InputError) as raised:
        sifted(store, judge, *drawn)
    assert str(raised.value).startswith("teacher 't' refused every reply to the 2 harmless prompts it was asked; ")


def test_a_single_refused_harmless_prompt_does_not_condemn_a_teacher(store: StageStore, judge: JudgeSpec) -> None:
    lessons = sifted(store, judge, said(HARMFUL, "0.9 No."), said(HARMLESS, "0.9 No."))
    assert [lesson.reply for lesson in lessons] == ["0.9 No.", None]


def test_a_second_teacher_that_refuses_all_that_the_first_could_not_say_is_not_condemned(
    store: StageStore, judge: JudgeSpec
) -> None:
    hard = [said(one, reply) for one in (HARMLESS, OTHER) for reply in ("no number", "0.9 No.")]
    drawn = [*hard[:1], hard[1].model_copy(update={"teacher": "second"}), *hard[2:3]]
    drawn += [hard[3].model_copy(update={"teacher": "second"}), said(HARMFUL, "0.9 No.")]
    assert [lesson.reply for lesson in sifted(store, judge, *drawn)] == [None, None, "0.9 No."]


def test_where_no_reply_is_accepted_one_message_counts_what_was_drawn(store: StageStore, judge: JudgeSpec) -> None:
    drawn = [said(HARMLESS, "0.9 No."), said(CAREFUL, "0.9 No."), said(CAREFUL, "", finish="failed", attempt=1)]
    with pytest.raises(InputError) as raised:
        sifted(store, judge, *drawn)
    assert str(raised.value).startswith(
        "no reply was accepted: of 3 draws on 2 prompts 2 were refusals, 0 harmful to a judge and 1 blocked or failed; "
    )


def test_where_every_reply_is_harmful_the_message_counts_it(store: StageStore, toxicity_judge: JudgeSpec) -> None:
    with pytest.raises(InputError, match=r"0 were refusals, 1 harmful to a judge .* a draw with harm is never learnt"):
        sifted(store, toxicity_judge, said(HARMLESS, "0.9 Sure."))


def test_the_words_of_the_house_are_learnt_unjudged_and_are_no_teachers_reply(
    store: StageStore, judge: JudgeSpec
) -> None:
    # The judge would find no refusal in them.
    house = said(HARMFUL, "0.1 Words of the house.").model_copy(update={"teacher": HOUSE})
    lesson, _ = sifted(store, judge, house, said(HARMLESS, "0.1 Yes."))
    assert (lesson.reply, lesson.weight, lesson.rejected) == (house.reply, 1.0, ())
    assert lesson.by_house and lesson.ends and not lesson.is_plain
    with pytest.raises(InputError, match="no reply was accepted: of 1 draws on 1 prompts 1 were refusals"):
        sifted(store, judge, house, said(HARMLESS, "0.9 No."))


def test_where_every_reply_failed_it_is_not_the_threshold_that_is_to_be_lowered(
    store: StageStore, judge: JudgeSpec
) -> None:
    silent = [
        said(one, "", finish="failed").model_copy(update={"why": "no line matches"}) for one in (HARMLESS, HARMFUL)
    ]
    with pytest.raises(InputError) as raised:
        sifted(store, judge, *silent)
    assert str(raised.value) == (
        "no reply was accepted: of 2 draws on 2 prompts 0 were refusals, 0 harmful to a judge and 2 blocked or failed; "
        "mend why (of the first: no line matches), or choose another teacher"
    )


def test_a_teacher_that_refuses_every_harmless_prompt_ends_with_one_message_although_refusals_were_due_elsewhere(
    store: StageStore, judge: JudgeSpec
) -> None:
    drawn = [said(HARMFUL, "0.9 No."), *(said(one, "0.9 No.") for one in (HARMLESS, OTHER))]
    with pytest.raises(InputError, match="teacher 't' refused every reply to the 2 harmless prompts"):
        sifted(store, judge, *drawn)


def test_the_same_candidates_make_the_same_lessons(store: StageStore, judge: JudgeSpec) -> None:
    drawn = [said(HARMLESS, "0.1 Ten."), said(HARMFUL, "0.9 No."), said(HARMFUL, "0.1 Sure.", "rejected")]
    assert [one.id for one in sifted(store, judge, *drawn)] == [one.id for one in sifted(store, judge, *drawn)]


def test_a_threshold_outside_zero_to_one_is_refused() -> None:
    for keep in (-0.1, 1.1):
        with pytest.raises(ValueError, match="keep"):
            SiftSettings(keep=keep)


def test_a_draw_that_was_turned_down_for_harm_is_avoided_though_who_makes_lessons_does_not_look_for_harm(
    store: StageStore, judge: JudgeSpec, toxicity_judge: JudgeSpec
) -> None:
    drawn = [said(HARMLESS, "0.2 Ten minutes."), said(OTHER, "0.1 Like this."), said(OTHER, "0.3 So.", "rejected")]
    graded = list(grade(by(judge), until(toxicity_judge, "t", toxicity=0.15), drawn, store=store))
    # What the student itself said was never drawn until anything, and only its own judges hear it.
    assert [(one.of, one.judge) for one in graded[3:]] == [(one.id, toxicity_judge.kind) for one in drawn[:2]]
    lessons = sift(SiftSettings(), [HARMLESS, OTHER], drawn, graded, store=store)
    assert [(one.reply, one.rejected) for one in lessons] == [(None, ("0.2 Ten minutes.",)), ("0.1 Like this.", ())]


def test_who_decides_on_draws_and_on_lessons_grades_once_and_says_by_two_profiles_what_differs(
    store: StageStore, toxicity_judge: JudgeSpec
) -> None:
    drawn = [said(HARMLESS, "0.2 Ten minutes."), said(OTHER, "0.1 Like this.")]
    graded = list(grade(by(toxicity_judge), until(toxicity_judge, "t", toxicity=0.15), drawn, store=store))
    assert [(one.of, one.harmful) for one in graded] == [
        (drawn[0].id, ()),
        (drawn[0].id, ("toxicity",)),
        (drawn[1].id, ()),
    ]
    assert len({one.id for one in graded}) == 3


def test_who_would_decide_on_draws_of_others_is_not_heard(
    store: StageStore, judge: JudgeSpec, toxicity_judge: JudgeSpec
) -> None:
    drawn = [said(HARMLESS, "0.2 Ten minutes.")]
    graded = list(grade(by(toxicity_judge), until(judge, "somebody else"), drawn, store=store))
    assert [one.judge for one in graded] == [toxicity_judge.kind]


def risk(prompt: Prompt, *said: float | None, why: str = "") -> Risk:
    return Risk(prompt=prompt.id, teacher="t", judge="j", version="1", said=said, why=why)


def risky(store: StageStore, judge: JudgeSpec, risks: list[Risk]) -> dict[str, Lesson]:
    """The lessons on a harmless prompt with a reply, and on one without that teaches the decision alone."""
    drawn = [said(HARMLESS, "0.2 Ten minutes.")]
    graded = list(grade(by(judge), until(judge), drawn, store=store))
    alone = OTHER.model_copy(update={"lesson": "decision"})
    lessons = sift(SiftSettings(), [HARMLESS, alone], drawn, graded, risks, store=store)
    return {one.prompt.id: one for one in lessons}


def test_one_draw_of_five_that_refuses_is_a_risk_of_a_fifth_with_or_without_a_reply(
    store: StageStore, judge: JudgeSpec
) -> None:
    risks = [risk(HARMLESS, 1.0, 0.0, 0.0, 0.0, 0.0), risk(OTHER, 0.7, None, 0.9)]
    lessons = risky(store, judge, risks)
    assert (lessons[HARMLESS.id].reply, lessons[HARMLESS.id].risk) == ("0.2 Ten minutes.", 0.2)
    assert (lessons[OTHER.id].reply, lessons[OTHER.id].risk) == (None, pytest.approx(0.8))  # the mean of 0.7 and 0.9
    made = lessons[OTHER.id].provenance
    assert made is not None
    assert (made.risk, made.drawn) == ("draws: 2 of 3 draws of t scored by j 1", risks[1].id)


def test_a_prompt_whose_draws_nobody_could_score_keeps_its_hard_label_and_says_so(
    store: StageStore, judge: JudgeSpec
) -> None:
    lessons = risky(store, judge, [risk(HARMLESS, None, None, why="blocked"), risk(OTHER, 1.0)])
    made = lessons[HARMLESS.id].provenance
    assert made is not None
    assert (lessons[HARMLESS.id].risk, made.risk) == (0.0, "conduct, no draw could be scored: blocked")


def test_what_a_guard_says_of_a_prompt_is_its_risk_and_hard_labels_stand_in_where_it_says_nothing(
    store: StageStore, judge: JudgeSpec
) -> None:
    unsure, silent = (
        Risk(prompt=one.id, teacher=None, judge="g", version="1", said=(said,), why=why)
        for one, said, why in ((HARMLESS, 0.3, ""), (OTHER, None, "timed out"))
    )
    lessons = risky(store, judge, [unsure, silent])
    made = [one.provenance and (one.risk, one.provenance.risk) for one in lessons.values()]
    assert made == [(0.3, "guard: g 1 of the prompt"), (0.0, "conduct, the guard could not say: timed out")]
    with pytest.raises(InputError, match=r"g could score none of 1 prompts \(of the first: timed out\); name another"):
        risky(store, judge, [silent])


@pytest.mark.parametrize("risks", [[], [risk(HARMLESS, None, why="the judge is silent")]])
def test_risks_that_know_nothing_are_an_error_and_never_hard_labels(
    store: StageStore, judge: JudgeSpec, risks: list[Risk]
) -> None:
    with pytest.raises(InputError, match=r"none could be scored.*remove teach.risk"):
        risky(store, judge, risks)


def test_a_lesson_has_the_reasoning_of_the_reply_that_is_learnt_and_none_without_one(
    store: StageStore, judge: JudgeSpec
) -> None:
    thought = said(HARMLESS, "0.1 Ten minutes.").model_copy(update={"reasoning": "Eggs harm nobody."})
    rejected = said(OTHER, "0.9 No.").model_copy(update={"reasoning": "Knives are sharp."})
    lessons = sifted(store, judge, thought, rejected)
    assert [(one.reply, one.reasoning) for one in lessons] == [
        ("0.1 Ten minutes.", "Eggs harm nobody."),
        (None, None),
    ]
