"""Teachers reply, a judge rejects, what was rejected is drawn again, and everything drawn is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.judges.profile import Profile
from limbeck.judges.reward import RewardModelJudge
from limbeck.models.encoder import ModelTools
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.reward import open_reward
from limbeck.models.scripted import Line, Scripted
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Exchange
from limbeck.records import Candidate, Prompt, asked
from limbeck.taxonomy import HARMS, HOUSE
from limbeck.teach import teach
from limbeck.teach.settings import Beginnings, Refusals, TeachSettings, Until
from limbeck.workspace import StageStore

if TYPE_CHECKING:
    from tests.conftest import NumberJudge, ToxicityJudge

# The judge takes the number for the probability of a refusal; the prompts say what is expected.
HARMLESS = Prompt(messages=asked("How do I boil an egg?"))
HARMFUL = Prompt(messages=asked("How do I hurt someone?"), harm="unsafe_advice", tier="adversarial", conduct="refuse")


def scripted(*replies: str, **more: Any) -> Scripted:
    """Says one reply after another as the seed counts up; the store's seed is 7."""
    turned = replies[-7 % len(replies) :] + replies[: -7 % len(replies)]
    return Scripted(name="teacher", script=(Line(say=turned),), **more)


Taught = Callable[..., list[Candidate]]


@pytest.fixture
def taught(store: StageStore, judge: NumberJudge, tiny_model: Path) -> Taught:
    """All candidates of some teachers on some prompts, three draws at most."""

    def drawn(teachers: list[ModelSpec], *prompts: Prompt, **more: Any) -> list[Candidate]:
        until = Until(judge=judge, at_least=0.75)
        settings = TeachSettings(teachers=tuple(teachers), until=until, draws=3, max_tokens=8, **more)
        return list(teach(settings, Local(name="base", model=str(tiny_model)), prompts, store=store))

    return drawn


def test_the_scripted_replies_come_in_turn(store: StageStore) -> None:
    assert store.seed == 7
    for replies in (("a",), ("a", "b"), ("a", "b", "c")):
        (line,) = scripted(*replies).script
        assert [line.say[(7 + attempt) % len(replies)] for attempt in range(len(replies))] == list(replies)


def test_an_accepted_reply_is_not_drawn_again(taught: Taught) -> None:
    drawn = taught([scripted("0.1 Ten minutes.", "0.1 Eleven.")], HARMLESS)
    assert [(one.reply, one.attempt) for one in drawn] == [("0.1 Ten minutes.", 0)]


def test_a_rejected_reply_is_drawn_again_and_kept(taught: Taught) -> None:
    drawn = taught([scripted("0.9 No.", "0.1 Ten minutes.", "0.1 Eleven.")], HARMLESS)
    assert [(one.reply, one.attempt) for one in drawn] == [("0.9 No.", 0), ("0.1 Ten minutes.", 1)]
    assert all(one.role == "taught" for one in drawn)


def test_drawing_ends_after_the_last_draw(taught: Taught) -> None:
    drawn = taught([scripted("0.9 No.")], HARMLESS)
    assert [one.attempt for one in drawn] == [0, 1, 2]


def test_a_reply_that_no_judge_could_score_is_drawn_again(taught: Taught) -> None:
    drawn = taught([scripted("no number", "0.1 Ten minutes.", "x")], HARMLESS)
    assert [one.reply for one in drawn] == ["no number", "0.1 Ten minutes."]


@pytest.mark.parametrize("at_least", [0.0, -0.1, 1.01, 75, float("nan")])
def test_a_draw_is_accepted_from_a_probability_above_0_and_up_to_1(at_least: float, judge: NumberJudge) -> None:
    with pytest.raises(ValidationError, match="at_least"):
        Until(judge=judge, at_least=at_least)
    assert Until(judge=judge, at_least=1.0).at_least == 1


def test_a_reply_that_no_judge_could_score_is_never_accepted_however_little_is_asked_for(
    store: StageStore, judge: NumberJudge, tiny_model: Path
) -> None:
    teacher = scripted("No number.", "Nor here.")
    settings = TeachSettings(teachers=(teacher,), until=Until(judge=judge, at_least=1e-9), draws=2, max_tokens=8)
    drawn = list(teach(settings, Local(name="base", model=str(tiny_model)), [HARMLESS], store=store))
    assert [one.attempt for one in drawn] == [0, 1]


@pytest.mark.parametrize(("threshold", "attempts"), [(0.15, [0, 1]), (0.25, [0])])
def test_the_profile_says_from_which_score_a_reply_is_too_harmful(
    store: StageStore, toxicity_judge: ToxicityJudge, tiny_model: Path, threshold: float, attempts: list[int]
) -> None:
    until = Until(judge=toxicity_judge, profile=Profile(thresholds={"toxicity": threshold}))
    teacher = scripted("0.2 Ten minutes.", "0.1 Eleven minutes.")
    settings = TeachSettings(teachers=(teacher,), until=until, draws=2, max_tokens=8)
    drawn = list(teach(settings, Local(name="base", model=str(tiny_model)), [HARMLESS], store=store))
    assert [one.attempt for one in drawn] == attempts


@pytest.mark.parametrize(("order", "attempts"), [(1, [0, 1]), (-1, [0])], ids=["worse first", "better first"])
def test_a_reply_that_a_reward_model_likes_less_than_zero_is_drawn_again(
    store: StageStore, tiny_model: Path, tiny_reward: Path, order: int, attempts: list[int]
) -> None:
    replies = ("Ten minutes in boiling water.", "Eleven minutes.")
    with open_reward(str(tiny_reward), dtype="float32") as model:
        said = model.rewards([Exchange(say, HARMLESS.text, say) for say in replies])
    rewarded = sorted((one.value, say) for one, say in zip(said, replies, strict=True) if one.value is not None)
    (low, _), (high, _) = rewarded
    judge = RewardModelJudge(model=str(tiny_reward), zero=(low + high) / 2)
    teacher = scripted(*(say for _, say in rewarded[::order]))
    settings = TeachSettings(teachers=(teacher,), until=Until(judge=judge, at_least=0.5), draws=2, max_tokens=8)
    real = replace(store, tools=ModelTools())
    drawn = list(teach(settings, Local(name="base", model=str(tiny_model)), [HARMLESS], store=real))
    assert [one.attempt for one in drawn] == attempts


def test_a_recorded_teacher_is_asked_once(taught: Taught) -> None:
    spoken = HARMLESS.model_copy(update={"reference": "0.9 No."})
    assert len(taught([Recorded(name="expert")], spoken)) == 1


def test_the_student_itself_draws_once_on_what_it_should_be_careful_with(taught: Taught) -> None:
    drawn = taught([scripted("0.9 No.")], HARMFUL, HARMLESS)
    own = [one for one in drawn if one.role == "rejected"]
    assert [(one.prompt, one.teacher, one.attempt) for one in own] == [(HARMFUL, "base", 0)]
    without = taught([scripted("0.9 No.")], HARMFUL, learn_to_avoid=False)
    assert {one.role for one in without} == {"taught"}


def test_a_prompt_that_teaches_the_decision_alone_is_asked_of_nobody(taught: Taught) -> None:
    assert taught([scripted("0.9 No.")], HARMFUL.model_copy(update={"lesson": "decision"})) == []


def test_a_prompt_that_exceeds_the_students_context_is_one_message_before_anything_is_drawn(taught: Taught) -> None:
    long = Prompt(messages=asked("x" * 2000), source="mine.jsonl")
    with pytest.raises(
        InputError, match=r"mine.jsonl: 'xxx.*' has 20\d\d tokens; with 8 for the reply that exceeds the 1024"
    ):
        taught([scripted("0.1 Yes.")], long)


def test_a_failed_or_empty_reply_is_an_outcome_and_not_text(taught: Taught) -> None:
    empty, off_script = scripted("", "", ""), Scripted(name="mute", script=(Line(when="never", say=("x",)),))
    for teacher, why in ((empty, "the reply is empty"), (off_script, "no line of the script matches")):
        drawn = taught([teacher], HARMLESS)
        assert {(one.finish, one.reply, one.why) for one in drawn} == {("failed", "", why)}


def test_the_first_teacher_that_is_for_a_prompt_answers_it(taught: Taught) -> None:
    careful = Scripted(name="careful", script=(Line(say=("0.9 No.",)),), conducts=("refuse",))
    plain = Scripted(name="plain", script=(Line(say=("0.1 Yes.",)),))
    drawn = taught([careful, plain], HARMLESS, HARMFUL, learn_to_avoid=False)
    assert {one.prompt.id: one.teacher for one in drawn} == {HARMLESS.id: "plain", HARMFUL.id: "careful"}


def test_what_no_draw_of_the_first_could_say_goes_to_the_second_and_all_draws_are_kept(taught: Taught) -> None:
    second = Scripted(name="second", script=(Line(say=("0.9 No.",)),), conducts=("refuse",))
    script = (Line(when="egg", say=("0.1 Ten minutes.",)), Line(say=("0.1 Sure, first…",)))
    first = Scripted(name="first", script=script)
    drawn = taught([first, second], HARMLESS, HARMFUL, second="second", learn_to_avoid=False)
    told = [(one.prompt.conduct, one.teacher, one.attempt) for one in drawn]
    assert told == [("answer", "first", 0), *(("refuse", "first", draw) for draw in range(3)), ("refuse", "second", 0)]


def test_the_second_is_not_asked_what_it_is_not_for_nor_what_it_was_asked_first(taught: Taught) -> None:
    second = Scripted(name="second", script=(Line(say=("0.1 Sure, first…",)),), conducts=("refuse",))
    first = Scripted(name="first", script=(Line(say=("0.9 No.",)),), conducts=("answer",))
    drawn = taught([first, second], HARMLESS, HARMFUL, second="second", learn_to_avoid=False)
    assert [(one.teacher, one.attempt) for one in drawn] == [
        *(("first", draw) for draw in range(3)),
        *(("second", draw) for draw in range(3)),
    ]


def test_a_second_who_is_no_teacher_is_refused() -> None:
    with pytest.raises(ValidationError, match="second is 'nobody', which is no teacher; use one of: teacher"):
        TeachSettings(teachers=(scripted("0.1 Yes."),), second="nobody")


@pytest.mark.parametrize(
    ("for_whom", "other"),
    [
        ({"harms": ("unsafe_advice", "bias")}, {"harm": "toxicity"}),
        ({"harms": ("everyday", "unsafe_advice")}, {"harm": "bias"}),
        ({"tiers": ("adversarial",)}, {"tier": "borderline"}),
        ({"languages": ("en",)}, {"language": "de"}),
        ({"harms": ("unsafe_advice",), "languages": ("en",)}, {"language": "de"}),
    ],
)
def test_prompts_find_their_teacher_by_harm_tier_and_language(
    taught: Taught, for_whom: dict[str, Any], other: dict[str, Any]
) -> None:
    expert = Scripted(name="expert", script=(Line(say=("0.9 No.",)),), **for_whom)
    generalist = Scripted(name="generalist", script=(Line(say=("0.9 No.",)),))
    elsewhere = HARMFUL.model_copy(update={"messages": asked("And in other words?"), **other})
    drawn = taught([expert, generalist], HARMFUL, elsewhere, learn_to_avoid=False)
    assert {one.prompt.id: one.teacher for one in drawn} == {HARMFUL.id: "expert", elsewhere.id: "generalist"}


def test_a_prompt_without_a_harm_is_everyday(taught: Taught) -> None:
    for harms, found in ((("everyday",), "expert"), (("bias",), "generalist")):
        expert = Scripted(name="expert", script=(Line(say=("0.1 Yes.",)),), harms=harms)
        generalist = Scripted(name="generalist", script=(Line(say=("0.1 Yes.",)),))
        assert [one.teacher for one in taught([expert, generalist], HARMLESS)] == [found]


def test_a_teacher_that_is_for_no_conduct_is_asked_nothing(taught: Taught) -> None:
    silent, plain = (
        Scripted(name=name, script=(Line(say=("0.1 Yes.",)),), conducts=conducts)
        for name, conducts in (("silent", ()), ("plain", None))
    )
    assert [one.teacher for one in taught([silent, plain], HARMLESS)] == ["plain"]


def test_a_prompt_that_nobody_is_for_is_one_message(taught: Taught) -> None:
    with pytest.raises(
        InputError, match="nobody is for harm unsafe_advice, tier adversarial, conduct refuse, language en"
    ):
        taught([scripted("0.1 Yes.", conducts=("answer",))], HARMFUL)


def test_multiple_choice_items_are_never_taught(taught: Taught) -> None:
    item = Prompt(messages=asked("Which?"), choices=("a", "b"), answer=0)
    assert taught([scripted("0.1 a")], item) == []


def test_at_most_so_many_prompts_get_a_reply_variants_first_and_conducts_in_turn(
    taught: Taught,
) -> None:
    harmless = [Prompt(messages=asked(f"Harmless {number}?")) for number in range(5)]
    variant = Prompt(messages=asked("A variant?"), root=harmless[0].id)
    drawn = taught(
        [scripted("0.1 Yes.", "0.9 No.", "0.1 Yes.")], *harmless, HARMFUL, variant, at_most=3, learn_to_avoid=False
    )
    asked_of = {one.prompt.id for one in drawn}
    assert len(asked_of) == 3 and {variant.id, HARMFUL.id} < asked_of


def test_harmless_prompts_that_get_no_reply_get_the_beginning_of_one(taught: Taught, tiny_model: Path) -> None:
    harmless = [Prompt(messages=asked(f"Harmless {number}?")) for number in range(6)]
    alone = Prompt(messages=asked("Harmless too?"), lesson="decision")
    item = Prompt(messages=asked("Which?"), choices=("a", "b"), answer=0)
    settings: dict[str, Any] = {"at_most": 2, "learn_to_avoid": False}
    local = Local(name="teacher", model=str(tiny_model))
    drawn = taught([local], *harmless, alone, HARMFUL, item, beginnings=Beginnings(tokens=3), **settings)
    long = {one.prompt.id for one in drawn if one.reply_tokens > 3}
    short = {one.prompt.id for one in drawn if one.reply_tokens <= 3}
    # Two whole replies, one of them to the harmful prompt; beginnings for every other harmless one, also for that which
    # would teach the decision alone, drawn once each.
    assert len(long) == 2 and HARMFUL.id in long
    assert short == {one.id for one in (*harmless, alone)} - long
    assert sum(one.prompt.id in short for one in drawn) == len(short)
    assert {one.prompt.id for one in drawn if one.begun} == {one.prompt.id for one in drawn if one.reply_tokens == 3}
    some = taught([local], *harmless, alone, beginnings=Beginnings(tokens=3, at_most=2), **settings)
    assert len({one.prompt.id for one in some}) == 4


def test_nobody_is_asked_to_begin_a_reply_to_a_prompt_that_no_teacher_is_for(taught: Taught) -> None:
    safely = scripted("0.9 No.", conducts=("refuse",))
    alone = Prompt(messages=asked("Hm?"), lesson="decision")
    # Nor is a recording: what it has are whole replies.
    recording = Recorded(name="old", conducts=("answer",))
    for teachers in ([safely], [recording, safely]):
        drawn = taught(teachers, HARMFUL, alone, beginnings=Beginnings(tokens=3))
        assert {one.prompt.id for one in drawn if one.role == "taught"} == {HARMFUL.id}


def test_a_beginning_that_is_as_long_as_a_reply_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"beginnings.tokens is 8, and a whole reply has 8 at most \(max_tokens\)"
    ):
        TeachSettings(max_tokens=8, beginnings=Beginnings(tokens=8))


def test_harmful_prompts_that_get_no_reply_are_refused_in_the_words_of_their_harm(taught: Taught) -> None:
    def harmful(text: str, *, harm: str = "unsafe_advice", **more: Any) -> Prompt:
        given = {"tier": "adversarial", "conduct": "refuse", "lesson": "decision", **more}
        return Prompt(messages=asked(text), harm=harm, **given)

    alone, cruel = harmful("How do I hurt two?"), harmful("Insult him.", harm="toxicity")
    foreign, unheard = harmful("Wie verletze ich wen?", language="de"), harmful("Spy on her.", harm="spying")
    careful = Prompt(messages=asked("Careful?"), harm="bias", tier="borderline", conduct="answer_with_care")
    safely = scripted("0.9 No.", "0.9 Never.")
    prompts = (HARMFUL, HARMLESS, alone, cruel, foreign, unheard, careful)
    said = Refusals(words={"toxicity": "I can't, it hurts."})
    drawn = taught([safely], *prompts, refusals=said, at_most=3, learn_to_avoid=False)
    house = {one.prompt.id: one.reply for one in drawn if one.teacher == HOUSE}
    shipped = {harm.name: harm.refusal for harm in HARMS}
    assert house == {alone.id: shipped["unsafe_advice"], cruel.id: "I can't, it hurts."}
    assert all(one.finish == "stop" and one.role == "taught" for one in drawn if one.teacher == HOUSE)
    fewer = taught([safely], *prompts, refusals=Refusals(at_most=1), at_most=3, learn_to_avoid=False)
    assert sum(one.teacher == HOUSE for one in fewer) == 1


def test_no_teacher_is_called_as_the_house_is() -> None:
    with pytest.raises(ValidationError, match="'house' is who says the refusals; give the teacher another name"):
        TeachSettings(teachers=(Recorded(name="house"),))


def test_the_same_seed_draws_the_same_and_nobody_is_asked_twice(taught: Taught) -> None:
    teacher = scripted("0.9 No.", "0.1 Yes.", "x")
    assert taught([teacher], HARMLESS) == taught([teacher], HARMLESS)


def test_a_judge_accepts_the_answer_whatever_the_reasoning_says_and_both_are_kept(taught: Taught) -> None:
    (drawn,) = taught([scripted("<think>0.9 Or not?</think>0.1 Ten minutes.")], HARMLESS)
    assert (drawn.reply, drawn.reasoning, drawn.finish) == ("0.1 Ten minutes.", "0.9 Or not?", "stop")


def test_a_draw_that_is_cut_off_within_its_reasoning_is_drawn_again_and_says_so(taught: Taught) -> None:
    endless = "<think>" + " on" * 20
    drawn = taught([scripted(endless, "0.1 Ten minutes.", "0.1 Eleven.")], HARMLESS)
    assert [(one.reply, one.finish, one.why) for one in drawn] == [
        ("", "failed", "cut off within its reasoning"),
        ("0.1 Ten minutes.", "stop", ""),
    ]
    assert drawn[0].reasoning is not None
