"""A student that learns to reason, then answer: what reaches the gradient, and what comes after the reasoning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.judges.grade import GradeSettings
from limbeck.losses.contrastive import Contrastive
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.drift import Drift
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.preference import Preference
from limbeck.losses.spec import Loss
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.local import Local, LocalModel
from limbeck.models.reasoning import USUAL, Reasoning, before_answer
from limbeck.protocols import Continuation, TopK
from limbeck.records import Lesson, Prompt, asked
from limbeck.taxonomy import REFUSAL_OPENINGS
from limbeck.training import TrainSettings
from limbeck.training.batches import LessonEncoder
from limbeck.training.loop import train
from limbeck.training.objective import Objective
from limbeck.training.pool import Pool
from limbeck.training.step import StepFigures, run_step
from limbeck.training.student import Student, StudentSettings
from limbeck.workspace import StageStore

WHOLE = 10_000
LONG = {"reasoning": "It harms nobody.", "reply": "Boil it.", "rejected": ("No.",), "risk": 0.25}
THOUGHT = Lesson(prompt=Prompt(messages=asked("How do I boil an egg?"), family="boil"), **LONG)  # type: ignore[arg-type]
PLAIN = Lesson(
    prompt=Prompt(messages=asked("How do I peel an egg?"), family="peel"),
    reply="Crack it.",
    rejected=("Go.",),
    risk=0.25,
)


def encoder_of(
    learner: Student, losses: list[Loss], lessons: list[Lesson], targets: dict[str, TopK] | None = None, **more: Any
) -> LessonEncoder:
    return LessonEncoder(
        learner.tokenizer,
        targets or {},
        losses=losses,
        context=learner.context,
        among=Pool.of(lessons),
        **{"reasons": USUAL, **more},
    )


def step(
    learner: Student, losses: list[Loss], lessons: list[Lesson], *, budget: int = WHOLE, **more: Any
) -> tuple[StepFigures, torch.Tensor]:
    """The figures of one step and its whole gradient; nothing is clipped."""
    encoder = encoder_of(learner, losses, lessons, **more)
    batches = list(encoder.micro_batches([encoder.example(one) for one in lessons], budget=budget))
    parameters = learner.trainable()
    for parameter in parameters:
        parameter.grad = None
    figures = run_step(Objective(learner.model, losses), losses, batches, parameters, Accelerator(cpu=True), clip=1e9)
    return figures, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def said_after(learner: Student, lesson: Lesson, text: str, *, ends: bool) -> torch.Tensor:
    """Log-probability of each token of a text after the lesson's prompt and what stands before its answer."""
    before = reply_ids(learner.tokenizer, before_answer(lesson, USUAL), ends=False)
    prompt = prompt_ids(learner.tokenizer, lesson.prompt.messages) + before
    ids = reply_ids(learner.tokenizer, text, ends=ends)
    logprobs_TV = learner.model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return logprobs_TV[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_reasoning_and_answer_are_one_branch_and_who_answers_only_learns_what_it_did(learner: Student) -> None:
    reply = encoder_of(learner, [CrossEntropy()], [THOUGHT]).example(THOUGHT).reply
    assert learner.tokenizer.decode(reply) == "<think>\nIt harms nobody.\n</think>\n\nBoil it.<|end|>"
    bare = encoder_of(learner, [CrossEntropy()], [THOUGHT], reasons=None).example(THOUGHT).reply
    assert learner.tokenizer.decode(bare) == "Boil it.<|end|>"
    _, alone = step(learner, [CrossEntropy()], [THOUGHT], reasons=None)
    _, without = step(learner, [CrossEntropy()], [THOUGHT.model_copy(update={"reasoning": None})], reasons=None)
    torch.testing.assert_close(alone, without)


def test_reasoning_of_no_weight_is_read_and_not_learnt(learner: Student) -> None:
    figures, gradient = step(learner, [CrossEntropy()], [THOUGHT], reasoning_weight=0.0)
    loss = -said_after(learner, THOUGHT, "Boil it.", ends=True).mean()
    expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, learner.trainable())])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    assert figures.losses["cross_entropy"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert figures.units["cross_entropy"] == len("Boil it.") + 1


def test_reasoning_of_twice_the_weight_pulls_twice_as_hard(learner: Student) -> None:
    def unnormalised(weight: float) -> torch.Tensor:
        figures, gradient = step(learner, [CrossEntropy()], [THOUGHT, PLAIN], reasoning_weight=weight)
        return gradient * figures.units["cross_entropy"]

    none, once, twice = map(unnormalised, (0.0, 1.0, 2.0))
    assert float((once - none).norm()) > 0.1 * float(once.norm())
    torch.testing.assert_close(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-3)


CUT = [
    CrossEntropy(),
    Decision(),
    Decision(within=3, recover=True),
    Unlikelihood(),
    Preference(),
    Drift(),
    Contrastive(layers=(0, 1)),
]


@pytest.mark.parametrize("loss", CUT, ids=lambda loss: loss.kind)
def test_a_step_cut_into_micro_batches_gives_the_same_gradient(learner: Student, loss: Loss) -> None:
    whole, gradient = step(learner, [loss], [THOUGHT, PLAIN])
    cut, gradient_cut = step(learner, [loss], [THOUGHT, PLAIN], budget=1)
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-6)
    assert float(gradient.norm()) > 1e-4


def test_the_decision_window_counts_from_the_first_token_of_the_answer(learner: Student) -> None:
    loss = CrossEntropy(decision_window=4, floor=0.5)
    encoder = encoder_of(learner, [loss], [THOUGHT])
    (micro,) = encoder.micro_batches([encoder.example(THOUGHT)], budget=WHOLE)
    before = len(before_answer(THOUGHT, USUAL))
    # A byte a token: "Boil" is in the window, " it." and the end of the turn are past it.
    assert loss.weights(micro.labels).tolist() == [1.0] * (before + 4) + [0.5] * 5


@pytest.mark.parametrize("lesson", [THOUGHT, PLAIN.model_copy(update={"reply": None})])
def test_the_decision_is_taught_after_the_reasoning_and_without_any_after_empty_tags(
    learner: Student, lesson: Lesson
) -> None:
    figures, _ = step(learner, [Decision()], [lesson])
    with torch.no_grad():
        masses = [said_after(learner, lesson, opening, ends=False).sum() for opening in REFUSAL_OPENINGS]
    # A quarter of the pull is to the first opening, the rest away from all.
    expected = -float(0.25 * masses[0] + 0.75 * torch.log1p(-torch.stack(masses).exp().sum()))
    assert figures.losses["decision"] == pytest.approx(expected, rel=1e-4)


def test_what_is_rejected_is_read_after_the_same_reasoning(learner: Student) -> None:
    figures, _ = step(learner, [Unlikelihood()], [THOUGHT])
    with torch.no_grad():
        said = said_after(learner, THOUGHT, "No.", ends=False)
    assert figures.losses["unlikelihood"] == pytest.approx(float(-torch.log1p(-said.exp()).mean()), rel=1e-3)


def test_preference_compares_answers_after_the_same_reasoning(learner: Student) -> None:
    figures, _ = step(learner, [Preference(beta=0.3)], [THOUGHT])

    def margin() -> torch.Tensor:
        chosen = said_after(learner, THOUGHT, "Boil it.", ends=True).sum()
        return chosen - said_after(learner, THOUGHT, "No.", ends=False).sum()

    with torch.no_grad():
        trained = margin()
        with learner.model.disable_adapter():
            untrained = margin()
    expected = -float(torch.nn.functional.logsigmoid(0.3 * (trained - untrained)))
    assert figures.losses["preference"] == pytest.approx(expected, rel=1e-3)


def test_drift_compares_answers_alone(learner: Student) -> None:
    figures, _ = step(learner, [Drift()], [THOUGHT])
    assert figures.units["drift"] == len("Boil it.") + 1


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> Iterator[LocalModel]:
    with Local(name="teacher", model=str(tiny_model)).open() as model:
        yield model


def test_a_teacher_speaks_of_the_reasoning_and_the_answer_and_not_of_the_tags(
    learner: Student, teacher: LocalModel
) -> None:
    lessons = [THOUGHT, PLAIN]
    written = [
        Continuation(one.id, one.prompt.messages, before_answer(one, USUAL) + (one.reply or ""), one.ends)
        for one in lessons
    ]
    figures, _ = step(learner, [ForwardKL()], lessons, targets=dict(teacher.soft_targets(written, top=8)))
    # Empty tags are not a teacher's either.
    answers = len("Boil it.") + 1 + len("Crack it.") + 1
    assert figures.units["forward_kl"] == len("It harms nobody.") + answers
    assert figures.supervised_tokens == sum(len(before_answer(one, USUAL)) for one in lessons) + answers


def test_another_reasoning_before_the_same_reply_is_another_lesson_and_none_is_the_one_it_was() -> None:
    other = THOUGHT.model_copy(update={"reasoning": "Why not?"})
    without = THOUGHT.model_copy(update={"reasoning": None})
    assert len({THOUGHT.id, other.id, without.id}) == 3
    # Worked out before lessons could have reasoning.
    assert Lesson(prompt=Prompt(messages=asked("Why?")), reply="So.").id == "8aaf38947311d68f"


@pytest.mark.parametrize("odd", [{"reply": "<think>Hm.</think>So."}, {"reasoning": "A </think> in it."}])
def test_the_students_tags_inside_a_lesson_are_one_message(learner: Student, odd: dict[str, str]) -> None:
    one = THOUGHT.model_copy(update=odd)
    with pytest.raises(InputError, match=r"give reasoning and answer apart and without them"):
        encoder_of(learner, [CrossEntropy()], [one]).teaches(one)
    assert encoder_of(learner, [CrossEntropy()], [one], reasons=None).teaches(one)


def test_a_template_that_opens_the_reasoning_itself_is_one_message(learner: Student) -> None:
    opens = Reasoning(opening="assistant", closing="</assistant>")
    with pytest.raises(InputError, match="chat template begins every reply with assistant itself"):
        encoder_of(learner, [CrossEntropy()], [THOUGHT], reasons=opens)


def test_nothing_to_reason_from_is_one_message(store: StageStore, tiny_model: Path) -> None:
    settings = TrainSettings(losses=(CrossEntropy(),), max_steps=1, reasoning="then_answer")
    student = StudentSettings(model=str(tiny_model), reasoning=Reasoning(max_tokens=8))
    with pytest.raises(InputError, match="none of the 1 lessons has reasoning; name a teacher that reasons"):
        train(settings, student, [PLAIN], None, None, (), GradeSettings(), store=store)


def test_a_weight_without_reasoning_and_tags_that_nobody_teaches_are_refused() -> None:
    with pytest.raises(ValidationError, match="set reasoning: then_answer"):
        TrainSettings(reasoning_weight=0.5)
    with pytest.raises(ValidationError, match="needs cross_entropy"):
        TrainSettings(losses=(ForwardKL(),), reasoning="then_answer")
    with pytest.raises(ValidationError, match="reasoning_weight"):
        TrainSettings(reasoning="then_answer", reasoning_weight=-1.0)
