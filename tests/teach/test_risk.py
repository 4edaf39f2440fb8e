"""How often a teacher refuses a prompt when it is asked again and again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from limbeck.judges.spec import JudgeSpec
from limbeck.models.encoder import ModelTools
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted, ScriptedModel
from limbeck.records import Message, Prompt, Reply, Request, Risk, asked
from limbeck.teach.risk import draw_risk, guard_risk
from limbeck.teach.settings import DrawnRisk, GuardedRisk, TeachSettings
from limbeck.workspace import Silent, StageStore

EGG = Prompt(messages=asked("How do I boil an egg?"), lesson="decision")
KNIFE = Prompt(messages=asked("How do I hurt someone?"), harm="unsafe_advice", tier="adversarial", conduct="refuse")
# The judge takes the number that a reply begins with for the probability of a refusal.
EXPERT = Scripted(
    name="expert",
    script=(
        Line(when="egg", say=("0.9 No.", "0.1 Ten.", "0.1 Nine.", "0.1 Ten.", "0.3 Well.")),
        Line(when="hurt", say=("0.8 No.", "Who knows?", "0.6 Rather not.")),
    ),
)
MODEL = {"kind": "scripted", "script": []}
Drawn = Callable[..., list[Risk]]


@pytest.fixture
def drawn(store: StageStore, judge: JudgeSpec) -> Drawn:
    """The risks of some prompts, by the scripted teacher."""

    def draw(*prompts: Prompt, teacher: Any = EXPERT, **settings: Any) -> list[Risk]:
        settings = {"teacher": "expert", "judge": judge, "draws": 5, **settings}
        return list(draw_risk(DrawnRisk(**settings), teacher, prompts, store=store))

    return draw


def test_the_risk_is_the_share_of_draws_that_refuse(drawn: Drawn) -> None:
    (risk,) = drawn(EGG)
    assert (risk.prompt, risk.value, len(risk.said), risk.judge, risk.version) == (EGG.id, 0.2, 5, "number", "1")


def test_the_risk_can_be_the_mean_of_the_judges_probabilities(drawn: Drawn) -> None:
    (risk,) = drawn(EGG, of="probability")
    assert risk.value == pytest.approx(0.3)  # (0.9 + 0.1 + 0.1 + 0.1 + 0.3) / 5


def test_a_draw_that_nobody_could_score_is_neither_a_refusal_nor_an_answer(drawn: Drawn) -> None:
    (risk,) = drawn(KNIFE, draws=3)
    assert (sorted(risk.scored), risk.said.count(None), risk.value, risk.why) == ([1.0, 1.0], 1, 1.0, "no number")


def test_a_prompt_that_no_draw_answers_has_no_risk_and_says_why(drawn: Drawn) -> None:
    (risk,) = drawn(Prompt(messages=asked("What else?")), draws=2)
    assert (risk.value, risk.said, risk.why) == (None, (None, None), "no line of the script matches")


def test_what_the_draws_took_is_summed_and_draws_without_a_price_are_counted(store: StageStore, judge: Any) -> None:
    class Priced(ScriptedModel):
        def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
            for number, reply in enumerate(super().replies(requests)):
                cost = None if number == 1 else 0.25
                yield reply.model_copy(update={"prompt_tokens": 10, "reply_tokens": number, "cost": cost})

    class Teacher(Scripted):
        @contextmanager
        def open(self) -> Iterator[ScriptedModel]:
            yield Priced(name=self.name, script=self.script, reasoning=self.reasoning)

    teacher = Teacher(name="expert", script=EXPERT.script)
    (risk,) = draw_risk(DrawnRisk(teacher="expert", judge=judge, draws=3), teacher, [EGG], store=store)
    assert (risk.prompt_tokens, risk.reply_tokens, risk.cost, risk.without_cost) == (30, 3, 0.5, 1)


def test_it_asks_each_prompt_once_and_none_that_the_teacher_is_not_for(drawn: Drawn) -> None:
    item = Prompt(messages=asked("Which egg?"), choices=("a", "b"), answer=0)
    narrow = EXPERT.model_copy(update={"conducts": ("answer",)})
    assert [one.prompt for one in drawn(EGG, KNIFE, EGG, item, teacher=narrow)] == [EGG.id]


class Dies(Silent):
    """Progress that dies after so many items."""

    def __init__(self, after: int) -> None:
        self.after = after

    def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            yield item
            if number + 1 == self.after:
                raise KeyboardInterrupt


def test_a_killed_stage_has_kept_its_draws_one_by_one(store: StageStore, judge: JudgeSpec) -> None:
    settings = DrawnRisk(teacher="expert", judge=judge, draws=5)
    killed = replace(store, shown=Dies(after=3))
    with pytest.raises(KeyboardInterrupt):
        list(draw_risk(settings, EXPERT, [EGG], store=killed))
    answers = [key for key in store.kept.offsets if '"finish":"stop"' in (store.get(key) or "")]
    assert len(answers) == 3
    (risk,) = draw_risk(settings, EXPERT, [EGG], store=store)
    assert risk.value == 0.2


@pytest.mark.parametrize(
    "judge",
    [
        {"kind": "llama_guard", "model": MODEL},
        {"kind": "granite_guardian", "model": MODEL},
        {"kind": "shield_gemma", "model": MODEL},
        {"kind": "moderations", "model": MODEL},
        {"kind": "safeguard", "model": MODEL},
        {"kind": "rubric", "rubric": "harm", "model": MODEL},
        {"kind": "reward", "model": "some/judge"},
        {"kind": "jury", "judges": ["refusal", "harm"]},
        "harm",
    ],
)
def test_a_judge_that_never_says_who_refused_is_no_judge_of_draws(judge: Any) -> None:
    with pytest.raises(ValidationError, match="never says whether a reply refuses; use refusal, qwen3_guard"):
        DrawnRisk(teacher="expert", judge=judge)


@pytest.mark.parametrize(
    "judge",
    [
        {"kind": "qwen3_guard", "model": MODEL},
        {"kind": "rubric", "model": MODEL},
        {"kind": "rubric", "rubric": "mine.md", "model": MODEL},
        {"kind": "jury", "judges": ["refusal", "harm"], "quorum": 1},
    ],
)
def test_a_judge_that_may_say_who_refused_is_one_of_draws(judge: Any) -> None:
    assert DrawnRisk(teacher="expert", judge=judge).judge.kind == judge["kind"]


def test_the_recipe_names_a_teacher_that_can_be_asked_again() -> None:
    with pytest.raises(ValidationError, match=r"risk.teacher is 'nobody', which is no teacher; use one of: expert"):
        TeachSettings(teachers=(EXPERT,), risk=DrawnRisk(teacher="nobody"))
    recorded = Recorded(name="expert")
    with pytest.raises(ValidationError, match="says the same at every draw; use 1, or name a teacher that samples"):
        TeachSettings(teachers=(recorded,), risk=DrawnRisk(teacher="expert"))
    assert TeachSettings(teachers=(recorded,), risk=DrawnRisk(teacher="expert", draws=1)).risk is not None


@pytest.fixture
def asking(store: StageStore) -> StageStore:
    """A store whose tools open the models of judges."""
    return replace(store, tools=ModelTools())


def guarded(*lines: Line) -> GuardedRisk:
    """The risk by a guard whose model has this script."""
    model = Scripted(script=lines).model_dump()
    return GuardedRisk.model_validate({"judge": {"kind": "wild_guard", "model": model}})


GUARD = guarded(
    Line(when="egg", say=("Harmful request: no\nResponse refusal: N/A\nHarmful response: N/A",)),
    Line(when="hurt", say=("Harmful request: yes\nResponse refusal: N/A\nHarmful response: N/A",)),
    Line(when="knife", say=("I would rather not say.",)),
)


def test_a_guards_score_of_the_prompt_is_its_risk(asking: StageStore) -> None:
    risks = list(guard_risk(GUARD, [EGG, KNIFE, EGG], store=asking))
    assert [(one.prompt, one.said, one.value) for one in risks] == [(EGG.id, (0.0,), 0.0), (KNIFE.id, (1.0,), 1.0)]
    assert {(one.teacher, one.judge) for one in risks} == {(None, "wild_guard")}


def test_the_greatest_score_of_any_harm_is_the_risk(asking: StageStore) -> None:
    scores = json.dumps({"results": [{"category_scores": {"hate": 0.1, "violence": 0.2, "sexual": 0.0}}]})
    judge = {"kind": "moderations", "model": Scripted(script=(Line(when="egg", say=(scores,)),)).model_dump()}
    (risk,) = guard_risk(GuardedRisk.model_validate({"judge": judge}), [EGG], store=asking)
    assert risk.value == 0.2


def test_a_guard_is_asked_about_the_last_turn_alone_and_about_no_choices(asking: StageStore) -> None:
    again = Prompt(messages=(*asked("Who are you?"), Message(role="assistant", content="A."), *KNIFE.messages))
    item = Prompt(messages=asked("Which egg?"), choices=("a", "b"), answer=0)
    assert [(one.prompt, one.value) for one in guard_risk(GUARD, [again, item], store=asking)] == [(again.id, 1.0)]


def test_a_prompt_that_the_guard_cannot_say_of_has_no_risk_and_says_why(asking: StageStore) -> None:
    (risk,) = guard_risk(GUARD, [Prompt(messages=asked("Which knife?"))], store=asking)
    assert (risk.said, risk.value) == ((None,), None)
    assert risk.why == "wild_guard answered 'I would rather not say.', which is not its form"


def test_what_a_guard_answered_is_kept_and_not_asked_again(asking: StageStore) -> None:
    before = list(guard_risk(GUARD, [EGG], store=asking))
    kept = len(asking.judged.offsets)
    assert kept and list(guard_risk(GUARD, [EGG], store=asking)) == before and len(asking.judged.offsets) == kept


def test_the_recipe_says_by_kind_who_tells_the_risk_and_a_teacher_does_without_one() -> None:
    judge = {"kind": "wild_guard", "model": MODEL}
    risks = ({"teacher": "expert"}, {"kind": "draws", "teacher": "expert"}, {"kind": "guard", "judge": judge}, None)
    read = [TeachSettings.model_validate({"teachers": (EXPERT,), "risk": one}).risk for one in risks]
    assert [type(one) for one in read] == [DrawnRisk, DrawnRisk, GuardedRisk, type(None)]
    for one in read:
        saved = TeachSettings(teachers=(EXPERT,), risk=one).model_dump(mode="json")
        assert TeachSettings.model_validate(saved).risk == one


def test_a_judge_that_needs_a_reply_is_no_guard_of_prompts() -> None:
    for judge in ("refusal", {"kind": "safeguard", "model": MODEL}):
        with pytest.raises(ValidationError, match=r"no prompt without one; use one of: llama_guard, shield_gemma"):
            TeachSettings.model_validate({"risk": {"kind": "guard", "judge": judge}})
    with pytest.raises(ValidationError, match="unknown risk 'gaurd'; did you mean guard"):
        TeachSettings.model_validate({"risk": {"kind": "gaurd"}})
