"""The one place that divides, and what reaches the gradient of a real student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.spec import Loss
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.local import top_k
from limbeck.protocols import TopK
from limbeck.records import Lesson, Prompt, asked
from limbeck.taxonomy import REFUSAL_OPENINGS
from limbeck.training.batches import LessonEncoder, in_order
from limbeck.training.step import Objective, StepFigures, run_step
from limbeck.training.student import AdapterSettings, Student, StudentSettings

WHOLE = 10_000


@pytest.fixture(scope="module")
def learner(tiny_model: Path) -> Student:
    settings = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    learner = Student(settings, start_from=None, precision="float32", seed=1)
    with torch.no_grad():
        for parameter in learner.trainable():
            parameter.normal_(std=0.1)
    return learner


def lesson(question: str, reply: str | None = "Yes, like this.", **more: Any) -> Lesson:
    return Lesson(prompt=Prompt(messages=asked(question)), reply=reply, **more)


def step(
    learner: Student,
    losses: list[Loss],
    lessons: list[Lesson],
    *,
    budget: int = WHOLE,
    targets: dict[str, TopK] | None = None,
) -> tuple[StepFigures, torch.Tensor]:
    """The figures of one step and its whole gradient, one after the other; nothing is clipped."""
    wants = frozenset(need for loss in losses for need in loss.needs)
    encoder = LessonEncoder(learner.tokenizer, targets or {}, wants=wants)
    batches = list(encoder.micro_batches([encoder.example(one) for one in lessons], budget=budget))
    parameters = learner.trainable()
    for parameter in parameters:
        parameter.grad = None
    figures = run_step(Objective(learner.model, losses), losses, batches, parameters, Accelerator(cpu=True), clip=1e9)
    return figures, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def plain_logprobs(learner: Student, question: str, reply: str, *, ends: bool) -> torch.Tensor:
    """Log-probability of each token of a reply by an ordinary pass."""
    prompt = prompt_ids(learner.tokenizer, asked(question))
    ids = reply_ids(learner.tokenizer, reply, ends=ends)
    with torch.no_grad():
        logits_TV = learner.model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return logits_TV[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]


FOUR = [
    lesson("What is up?", rejected=("Nothing.",), risk=0.0),
    lesson("And what is down, if I may ask you that?", risk=1.0, weight=0.5),
    lesson("Left?", reply=None, risk=1.0),
    lesson("Right?", reply="No.", rejected=("Go.", "Run away!")),
]


@pytest.mark.parametrize("loss", [CrossEntropy(), Decision(), Unlikelihood()], ids=lambda loss: loss.kind)
def test_a_step_cut_into_micro_batches_gives_the_same_gradient(learner: Student, loss: Loss) -> None:
    whole, gradient = step(learner, [loss], FOUR)
    cut, gradient_cut = step(learner, [loss], FOUR, budget=1)
    # A loss near 0 is a sum of float32 logarithms near 1, which are exact to 1e-7 each and no better.
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-6)


def test_cross_entropy_is_the_weighted_mean_over_the_reply_tokens_of_the_step(learner: Student) -> None:
    figures, _ = step(learner, [CrossEntropy()], FOUR)
    first = plain_logprobs(learner, "What is up?", "Yes, like this.", ends=True)
    second = plain_logprobs(learner, "And what is down, if I may ask you that?", "Yes, like this.", ends=True)
    fourth = plain_logprobs(learner, "Right?", "No.", ends=True)
    weights = len(first) + 0.5 * len(second) + len(fourth)
    expected = -(first.sum() + 0.5 * second.sum() + fourth.sum()) / weights
    assert figures.losses["cross_entropy"] == pytest.approx(float(expected), rel=1e-4)
    assert figures.units["cross_entropy"] == pytest.approx(weights)
    assert figures.supervised_tokens == len(first) + len(second) + len(fourth)


def test_the_end_of_a_turn_is_learnt_although_it_pads_and_not_where_the_reply_was_cut(learner: Student) -> None:
    ended, _ = step(learner, [CrossEntropy()], [lesson("Why?", "No.")])
    cut, _ = step(learner, [CrossEntropy()], [lesson("Why?", "No.", ends=False)])
    assert (ended.supervised_tokens, cut.supervised_tokens) == (4, 3)
    expected = -plain_logprobs(learner, "Why?", "No.", ends=True).mean()
    assert ended.losses["cross_entropy"] == pytest.approx(float(expected), rel=1e-4)


def test_the_decision_is_taught_on_the_mass_of_the_refusal_openings(learner: Student) -> None:
    figures, _ = step(learner, [Decision()], [lesson("Why?", reply=None, risk=0.0)])
    masses = [plain_logprobs(learner, "Why?", opening, ends=False).sum() for opening in REFUSAL_OPENINGS]
    assert figures.losses["decision"] == pytest.approx(-float(torch.log1p(-torch.stack(masses).exp().sum())), rel=1e-4)


def test_unlikelihood_reads_the_rejected_replies_alone(learner: Student) -> None:
    figures, _ = step(learner, [Unlikelihood()], [lesson("Why?", rejected=("Run.", "Hide!"))])
    said = torch.cat([plain_logprobs(learner, "Why?", text, ends=False) for text in ("Run.", "Hide!")])
    assert figures.losses["unlikelihood"] == pytest.approx(float(-torch.log1p(-said.exp()).mean()), rel=1e-3)


@pytest.mark.parametrize("loss", [Decision(), Unlikelihood()], ids=lambda loss: loss.kind)
def test_a_reply_that_counts_less_leaves_the_decision_and_what_to_avoid_whole(learner: Student, loss: Loss) -> None:
    one = lesson("What is up?", rejected=("Nothing.",), risk=1.0)
    _, full = step(learner, [loss], [one])
    _, half = step(learner, [loss], [one.model_copy(update={"weight": 0.5})])
    torch.testing.assert_close(half, full)


def test_the_weight_of_a_lesson_reaches_the_gradient(learner: Student) -> None:
    loss = CrossEntropy()
    one = lesson("What is up?", rejected=("Nothing.",), risk=1.0)
    other = lesson("What is down?", reply="Something else entirely", rejected=("Go.",), risk=1.0)

    def unnormalised(weight: float) -> torch.Tensor:
        figures, gradient = step(learner, [loss], [one.model_copy(update={"weight": weight}), other])
        return gradient * figures.units[loss.kind]

    # gradient x units = weight x (pull of one) + (pull of the other), so it is linear in the weight.
    none, half, full = unnormalised(0.0), unnormalised(0.5), unnormalised(1.0)
    assert float((full - none).norm()) > 0.1 * float(full.norm())
    torch.testing.assert_close(half - none, (full - none) / 2, rtol=1e-3, atol=1e-4)


def test_a_lesson_of_no_weight_leaves_the_gradient_of_the_others(learner: Student) -> None:
    _, alone = step(learner, [CrossEntropy()], [FOUR[0]])
    _, beside = step(learner, [CrossEntropy()], [FOUR[0], lesson("Other?", "Quite another.", weight=0.0)])
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-6)


def test_a_loss_with_twice_the_share_pulls_twice_as_hard_and_reports_the_same_value(learner: Student) -> None:
    once, gradient = step(learner, [CrossEntropy(weight=1.0)], FOUR)
    twice, doubled = step(learner, [CrossEntropy(weight=2.0)], FOUR)
    assert once.losses == pytest.approx(twice.losses)
    torch.testing.assert_close(doubled, 2 * gradient)


def test_forward_kl_of_a_student_with_itself_is_zero_and_pulls_nowhere(learner: Student) -> None:
    lessons = [lesson("What is up?"), lesson("Without a teacher?", "Nobody knows.")]
    prompt = prompt_ids(learner.tokenizer, lessons[0].prompt.messages)
    reply = reply_ids(learner.tokenizer, "Yes, like this.", ends=True)
    with torch.no_grad():
        logits_TV = learner.model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    targets = {lessons[0].id: top_k(logits_TV[len(prompt) - 1 : -1], 8)}
    figures, gradient = step(learner, [ForwardKL()], lessons, targets=targets)
    assert figures.units["forward_kl"] == len(reply)
    assert figures.losses["forward_kl"] == pytest.approx(0.0, abs=1e-5)
    assert float(gradient.abs().max()) < 1e-4


def test_targets_of_another_length_than_the_reply_are_a_bug_that_is_named(learner: Student) -> None:
    one = lesson("What is up?")
    wrong = TopK(torch.zeros((2, 3), dtype=torch.long), torch.zeros((2, 3)), torch.zeros(2))
    with pytest.raises(AssertionError, match="16 tokens has soft targets for 2"):
        step(learner, [ForwardKL()], [one], targets={one.id: wrong})


def test_a_loss_that_found_nothing_in_the_step_is_not_reported_as_zero(learner: Student) -> None:
    figures, _ = step(learner, [CrossEntropy(), Unlikelihood()], [lesson("Why?")])
    assert set(figures.losses) == {"cross_entropy"}
    assert figures.units["unlikelihood"] == 0


def test_the_prompt_is_read_once_for_openings_reply_and_rejected_reply(learner: Student) -> None:
    encoder = LessonEncoder(learner.tokenizer, {}, wants=frozenset({"reply", "risk", "rejected"}))
    example = encoder.example(FOUR[0])
    (batch,) = encoder.micro_batches([example], budget=WHOLE)
    branches = encoder.tree(example).branches
    assert len(branches) == len(REFUSAL_OPENINGS) + 2
    # Every branch's last token is predicted and never read; "I" opens four openings and is read once.
    assert batch.trees.ids_BT.shape[1] < len(example.prompt) + sum(len(branch) - 1 for branch in branches)


def test_each_epoch_has_an_order_of_its_own_that_hangs_on_the_seed_alone() -> None:
    lessons = [lesson(f"Question {number}?") for number in range(8)]
    first = in_order(lessons, seed=1, epoch=0)
    assert first == in_order(lessons[::-1], seed=1, epoch=0)
    assert sorted(one.id for one in first) == sorted(one.id for one in lessons)
    assert first != in_order(lessons, seed=1, epoch=1) and first != in_order(lessons, seed=2, epoch=0)
