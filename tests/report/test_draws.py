"""The ledger: every draw counted once, by what came of it, and what it cost."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.models.answer import trial_of
from limbeck.records import Candidate, Lesson, Prompt, Provenance, Reply, Risk, Trial, Verdict, asked
from limbeck.report.draws import ledger
from limbeck.taxonomy import EVERYDAY, Finish

HARMLESS = Prompt(messages=asked("How do I boil an egg?"))
HARMFUL = Prompt(messages=asked("How do I rob a till?"), harm="unsafe_advice", tier="adversarial", conduct="refuse")


def draw(prompt: Prompt, reply: str, *, finish: Finish = "stop", **more: Any) -> Candidate:
    return Candidate(
        prompt=prompt,
        teacher="expert",
        role="taught",
        reply=reply,
        finish=finish,
        prompt_tokens=10,
        reply_tokens=2,
        **more,
    )


def verdict(of: Candidate, p_refused: float | None) -> Verdict:
    refused = None if p_refused is None else "full" if p_refused > 0.5 else "none"
    unscored = "empty" if p_refused is None else None
    return Verdict(of=of.id, judge="refusal", version="1", refused=refused, p_refused=p_refused, unscored=unscored)


def lesson(best: Candidate, *, learnt: bool) -> Lesson:
    provenance = Provenance(candidates=(best.id,), verdicts=(), rule="")
    return Lesson(prompt=best.prompt, reply=best.reply if learnt else None, provenance=provenance)


def test_every_draw_is_counted_by_what_came_of_it() -> None:
    no, yes, again = draw(HARMLESS, "No."), draw(HARMLESS, "Ten minutes."), draw(HARMLESS, "About ten.")
    told, odd = draw(HARMFUL, "Sure, first…"), draw(HARMFUL, "?")
    blocked = draw(HARMFUL, "", finish="blocked", why="400, flagged")
    failed = draw(HARMFUL, "", finish="failed", why="empty; asked 3 times", attempt=1)
    and_failed = draw(HARMFUL, "", finish="failed", why="empty; asked 7 times", attempt=2)
    drawn = [no, yes, again, told, odd, blocked, failed, and_failed]
    verdicts = [verdict(no, 0.9), verdict(yes, 0.1), verdict(again, 0.1), verdict(told, 0.1), verdict(odd, None)]
    found = ledger([(drawn, verdicts, [lesson(yes, learnt=True), lesson(told, learnt=False)])])
    assert found.outcomes == {
        ("everyday", "refused"): 1,
        ("everyday", "learnt"): 1,
        ("everyday", "spare"): 1,
        ("unsafe_advice", "not refused"): 1,
        ("unsafe_advice", "unscored"): 1,
        ("unsafe_advice", "blocked"): 1,
        ("unsafe_advice", "failed"): 2,
    }
    assert found.harms == ["unsafe_advice", "everyday"]
    assert (found.of("everyday"), len(found.prompts["everyday"])) == (3, 1)
    # Figures in a reason do not make it another one.
    assert found.reasons == {("blocked", "…, flagged"): 1, ("failed", "empty; asked … times"): 2}


@pytest.mark.parametrize(
    ("prompt", "said", "outcome"),
    [
        (HARMLESS, [{"harm": {"toxicity": 0.9}, "harmful": ("toxicity",)}], "harmful"),
        # As expected by what it refuses, and yet one to avoid: a guard that tells both.
        (HARMLESS, [{"p_refused": 0.0, "harm": {"bias": 1.0}, "harmful": ("bias",)}], "harmful"),
        (HARMLESS, [{"unscored": "too long"}, {"harm": {"bias": 1.0}, "harmful": ("bias",)}], "harmful"),
        # Likelier harmful than not, but below the threshold.
        (HARMLESS, [{"harm": {"toxicity": 0.6}, "harmful": ()}], "spare"),
        (HARMLESS, [{"reward": 3.0, "p_preferred": 0.6}], "spare"),
        (HARMLESS, [{"reward": -3.0, "p_preferred": 0.4}], "not preferred"),
        (HARMFUL, [{"p_refused": 0.9}, {"reward": -3.0, "p_preferred": 0.4}], "not preferred"),
        (HARMFUL, [{"p_refused": 0.2}, {"reward": -3.0, "p_preferred": 0.4}], "not refused"),
        (HARMLESS, [{"p_refused": 0.8}, {"reward": -3.0, "p_preferred": 0.4}], "refused"),
    ],
)
def test_a_rejected_draw_is_named_by_what_its_judges_say(
    prompt: Prompt, said: list[dict[str, Any]], outcome: str
) -> None:
    one = draw(prompt, "So.")
    verdicts = [Verdict(of=one.id, judge=str(number), version="1", **what) for number, what in enumerate(said)]
    assert list(ledger([([one], verdicts, [])]).outcomes) == [(prompt.harm or EVERYDAY, outcome)]


def test_a_harm_score_below_its_threshold_does_not_hide_a_refusal() -> None:
    one = draw(HARMLESS, "No.")
    unsure = Verdict(of=one.id, judge="harm", version="1", harm={"toxicity": 0.75}, harmful=())
    refused = Verdict(of=one.id, judge="refusal", version="1", refused="full", p_refused=0.7)
    assert list(ledger([([one], [unsure, refused], [])]).outcomes) == [("everyday", "refused")]


def test_a_draw_that_a_later_round_takes_over_is_counted_and_paid_once() -> None:
    one, new = draw(HARMLESS, "Ten.", cost=0.5), draw(HARMFUL, "No.", cost=0.25)
    graded = [verdict(one, 0.1), verdict(new, 0.9)]
    found = ledger([([one], graded[:1], [lesson(one, learnt=True)]), ([one, new], graded, [lesson(one, learnt=True)])])
    asked_of = found.teachers["expert"]
    assert (len(asked_of.prompts), asked_of.draws, asked_of.learnt) == (2, 2, 1)
    assert (asked_of.prompt_tokens, asked_of.reply_tokens, asked_of.cost, asked_of.without_cost) == (20, 4, 0.75, 0)


def test_a_beginning_that_is_learnt_is_no_whole_reply() -> None:
    begun = draw(HARMLESS, "Put it into", finish="length", begun=True)
    found = ledger([([begun], [verdict(begun, 0.1)], [lesson(begun, learnt=True)])])
    assert found.outcomes == {("everyday", "begun"): 1} and found.teachers["expert"].learnt == 0


def test_a_cost_that_nobody_knows_is_not_zero() -> None:
    free = ledger([([draw(HARMLESS, "Ten.")], [], [])]).teachers["expert"]
    assert (free.cost, free.without_cost) == (None, 1)
    some = ledger([([draw(HARMLESS, "Ten."), draw(HARMFUL, "No.", cost=0.0)], [], [])]).teachers["expert"]
    assert (some.cost, some.without_cost) == (0.0, 1)


def test_draws_that_told_a_risk_are_paid_once_and_stand_apart() -> None:
    judged = {"teacher": "expert", "judge": "refusal", "version": "1"}
    known = Risk(prompt="a", **judged, said=(1.0, 0.0), prompt_tokens=8, reply_tokens=6, cost=0.5)
    free = Risk(prompt="b", **judged, said=(1.0, None), reply_tokens=6, without_cost=2)
    # The second round says of the first prompt what the first did.
    asked_of = ledger([([draw(HARMLESS, "Ten.")], [], [])], [known, known, free]).teachers["expert, for the risk"]
    assert (len(asked_of.prompts), asked_of.draws, asked_of.learnt) == (2, 4, 0)
    assert (asked_of.prompt_tokens, asked_of.reply_tokens, asked_of.cost, asked_of.without_cost) == (8, 6, 0.5, 2)
    # Half of its tokens are not all of them.
    assert asked_of.without_tokens == 2


def test_a_guard_that_told_the_risk_of_a_prompt_is_no_teacher() -> None:
    told = Risk(prompt="a", teacher=None, judge="wild_guard", version="1", said=(1.0,))
    assert ledger([([draw(HARMLESS, "Ten.")], [], [])], [told]).teachers.keys() == {"expert"}


def test_a_teachers_replies_in_the_exam_are_paid_and_stand_apart() -> None:
    reply = Reply(request_id="a", text="Ten.", finish="stop", prompt_tokens=10, reply_tokens=2, cost=0.25)
    trials = [trial_of(Trial(prompt=HARMLESS, subject=name, asked="reply"), reply) for name in ("expert", "silent")]
    scored = Trial(prompt=HARMLESS, subject="expert", asked="decision")
    found = ledger([([draw(HARMLESS, "Ten.", cost=0.5)], [], [])], exam=[*trials, scored]).teachers
    assert found.keys() == {"expert", "expert, in the exam", "silent, in the exam"}
    in_the_exam = found["expert, in the exam"]
    assert (in_the_exam.draws, in_the_exam.prompt_tokens, in_the_exam.reply_tokens) == (1, 10, 2)
    assert (found["expert"].cost, in_the_exam.cost) == (0.5, 0.25)


def test_what_the_student_itself_drew_is_no_teachers_draw() -> None:
    own = draw(HARMFUL, "Sure, first…").model_copy(update={"role": "rejected"})
    assert not ledger([([own], [], [])]).teachers


def test_a_reply_in_another_language_is_counted_for_its_teacher() -> None:
    prompt = Prompt(messages=asked("How long do I have to boil an egg so that it is soft?"))
    german = draw(prompt, "Lege das Ei für fünf Minuten in kochendes Wasser, und dann halte es unter kaltes Wasser.")
    english = draw(prompt, "Put it into boiling water for five minutes, and then hold it under the cold tap.")
    assert ledger([([german, english], [], [])]).teachers["expert"].other_language == 1
    assert ledger([([english], [], [])]).teachers["expert"].other_language == 0


def test_where_nobody_looked_at_the_language_it_is_not_known() -> None:
    (asked_of,) = ledger(
        [], [Risk(prompt="p", teacher="expert", judge="j", version="1", said=(0.0,))]
    ).teachers.values()
    assert asked_of.other_language is None
