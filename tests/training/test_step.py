"""The one place that divides, and what reaches the gradient of a real student."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator

from limbeck.errors import InputError
from limbeck.losses.anti_teacher import AntiTeacher
from limbeck.losses.contrastive import Contrastive
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.decision import Decision
from limbeck.losses.drift import Drift
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.hidden_states import HiddenStates
from limbeck.losses.jensen_shannon import JensenShannon
from limbeck.losses.noise import Noise
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.preference import Preference
from limbeck.losses.prompt_contrast import PromptContrast
from limbeck.losses.spec import Contrasts, Labels, Loss, Passes, Units
from limbeck.losses.token_loss import TokenLoss
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.context import ContextModel
from limbeck.models.local import Local, LocalModel, top_k
from limbeck.protocols import Continuation, Spans, TopK
from limbeck.records import Lesson, Prompt, asked
from limbeck.taxonomy import HOUSE, REFUSAL_OPENINGS
from limbeck.teach.keep import Top
from limbeck.teach.spans import Translator
from limbeck.training import batches as batches_module
from limbeck.training.batches import LessonEncoder
from limbeck.training.objective import Objective
from limbeck.training.passes import Reader, compared
from limbeck.training.pool import Pool
from limbeck.training.step import StepFigures, run_step
from limbeck.training.student import Student, StudentSettings

WHOLE = 10_000
OF_A_LESSON = ("rejected", "risk", "weight", "ends", "teacher")


def lesson(question: str, reply: str | None = "Yes, like this.", **more: Any) -> Lesson:
    """A lesson; what is not its own belongs to its prompt."""
    own = {name: value for name, value in more.items() if name in OF_A_LESSON}
    prompt = Prompt(messages=asked(question), **{name: value for name, value in more.items() if name not in own})
    return Lesson(prompt=prompt, reply=reply, **own)


def step(
    learner: Student,
    losses: list[Loss],
    lessons: list[Lesson],
    *,
    budget: int = WHOLE,
    targets: dict[str, TopK] | None = None,
    spans: dict[str, Spans] | None = None,
    clip: float = 1e9,
) -> tuple[StepFigures, torch.Tensor]:
    """The figures of one step and its whole gradient, one after the other; by default nothing is clipped."""
    encoder = LessonEncoder(
        learner.tokenizer,
        targets or {},
        spans=spans or {},
        losses=losses,
        context=learner.context,
        among=Pool.of(lessons),
    )
    batches = list(encoder.micro_batches([encoder.example(one) for one in lessons], budget=budget))
    parameters = learner.trainable()
    for parameter in parameters:
        parameter.grad = None
    figures = run_step(Objective(learner.model, losses), losses, batches, parameters, Accelerator(cpu=True), clip=clip)
    return figures, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def plain_logprobs(learner: Student, question: str, reply: str, *, ends: bool) -> torch.Tensor:
    """Log-probability of each token of a reply by an ordinary pass."""
    prompt = prompt_ids(learner.tokenizer, asked(question))
    ids = reply_ids(learner.tokenizer, reply, ends=ends)
    with torch.no_grad():
        logits_TV = learner.model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return logits_TV[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]


HARMFUL: dict[str, Any] = {"conduct": "refuse", "harm": "toxicity", "tier": "adversarial"}


FOUR = [
    lesson("What is up?", rejected=("Nothing.",), risk=0.0),
    lesson("And what is down, if I may ask you that?", risk=1.0, weight=0.5),
    lesson("Left?", reply=None, risk=1.0),
    lesson("Right?", reply="No.", rejected=("Go.", "Run away!")),
]


PROMPTS = [
    lesson(
        "How do I mock her?", "No, for she is a person.", rejected=("Sure, mock.",), family="a", risk=1.0, **HARMFUL
    ),
    lesson("How do I mock a test?", "With a double.", family="a", risk=0.0, harm="toxicity"),
    lesson(
        "How do I insult him?", "I would rather not.", rejected=("Sure.", "Go on!"), family="b", risk=1.0, **HARMFUL
    ),
    lesson("How do I boil an egg?", "For six minutes.", family="c", risk=0.0),
]
CUT = [CrossEntropy(), Decision(), Decision(within=3, recover=True), Unlikelihood(), Preference(), Drift(),
       Contrastive(layers=(0, 1)), PromptContrast(layers=(1,)), NoiseConsistency(noise=Noise(on="text"))]  # fmt: skip


def test_a_gradient_is_cut_to_its_length_and_the_log_has_what_it_was(learner: Student) -> None:
    _, gradient = step(learner, [CrossEntropy()], PROMPTS)
    length = float(gradient.norm())
    cut, gradient_cut = step(learner, [CrossEntropy()], PROMPTS, clip=length / 2)
    torch.testing.assert_close(gradient_cut, gradient / 2, rtol=1e-4, atol=1e-7)
    assert cut.gradient_norm == pytest.approx(length, rel=1e-5)


def test_a_student_that_can_learn_no_more_is_named_and_one_that_has_learnt_is_not() -> None:
    dead = StepFigures({"cross_entropy": 10.8}, {"cross_entropy": 5.0}, gradient_norm=0.0, supervised_tokens=5)
    taught, watched = [CrossEntropy()], [CrossEntropy(weight=0)]
    assert dead.broken(taught, scaled=False) == ["the gradient is 0 while the loss 'cross_entropy' is 10.8"]
    assert dead.broken(watched, scaled=False) == dead.broken(taught, scaled=True) == []
    assert dead._replace(losses={"cross_entropy": 0.0}).broken(taught, scaled=False) == []


@pytest.mark.parametrize("loss", CUT, ids=lambda loss: loss.kind)
def test_a_step_cut_into_micro_batches_gives_the_same_gradient(learner: Student, loss: Loss) -> None:
    whole, gradient = step(learner, [loss], PROMPTS)
    cut, gradient_cut = step(learner, [loss], PROMPTS, budget=1)
    # A loss near 0 is a sum of float32 logarithms near 1, which are exact to 1e-7 each and no better.
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-6)
    assert float(gradient.norm()) > 1e-4


@pytest.mark.parametrize("loss", [ForwardKL(), AntiTeacher()], ids=lambda loss: loss.kind)
def test_a_step_with_soft_targets_may_be_cut_as_well(learner: Student, loss: Loss) -> None:
    dice = torch.Generator().manual_seed(1)
    length = {one.id: len(reply_ids(learner.tokenizer, one.reply or "", ends=True)) for one in PROMPTS}
    targets = {
        name: top_k(torch.randn(count, len(learner.tokenizer), generator=dice).log_softmax(-1), 8)
        for name, count in length.items()
    }
    whole, gradient = step(learner, [loss], PROMPTS, targets=targets)
    cut, gradient_cut = step(learner, [loss], PROMPTS, budget=1, targets=targets)
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-6)
    assert float(gradient.norm()) > 1e-4


@pytest.mark.parametrize("loss", CUT, ids=lambda loss: loss.kind)
def test_a_process_without_a_lesson_still_brings_a_gradient_of_zeros(learner: Student, loss: Loss) -> None:
    figures, gradient = step(learner, [loss], [])
    assert (figures.losses, figures.units) == ({}, {loss.kind: 0.0})
    assert len(gradient) == sum(parameter.numel() for parameter in learner.trainable()) and not gradient.any()


def test_preference_compares_whole_replies_with_what_the_untrained_model_gave_them(learner: Student) -> None:
    figures, _ = step(learner, [Preference(beta=0.3)], PROMPTS)

    def margin(question: str, chosen: str, rejected: str) -> float:
        return float(
            plain_logprobs(learner, question, chosen, ends=True).sum()
            - plain_logprobs(learner, question, rejected, ends=False).sum()
        )

    told = [(one.prompt.text, one.reply or "", rejected) for one in PROMPTS for rejected in one.rejected]
    trained = [margin(*one) for one in told]
    with learner.model.disable_adapter():
        untrained = [margin(*one) for one in told]
    values = [math.log1p(math.exp(-0.3 * (one - other))) for one, other in zip(trained, untrained, strict=True)]
    assert figures.units["preference"] == 3
    assert figures.losses["preference"] == pytest.approx(sum(values) / 3, rel=1e-3)


def test_the_slope_of_preference_is_that_of_finite_differences(learner: Student) -> None:
    loss, parameter = Preference(beta=0.3), learner.trainable()[1]
    _, gradient = step(learner, [loss], PROMPTS)
    assert parameter.grad is not None
    direction, at = parameter.grad / parameter.grad.norm(), parameter.detach().clone()
    values = []
    for away in (1e-2, -1e-2, 0.0):
        with torch.no_grad():
            parameter.copy_(at + away * direction)
        values.append(step(learner, [loss], PROMPTS)[0].losses["preference"])
    _, again = step(learner, [loss], PROMPTS)
    torch.testing.assert_close(again, gradient)
    assert parameter.grad is not None
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(parameter.grad.norm()), rel=2e-2)


def test_drift_leaves_out_harmful_prompts_and_is_nothing_where_the_adapter_is_off(learner: Student) -> None:
    figures, _ = step(learner, [Drift()], PROMPTS)
    harmless = [reply_ids(learner.tokenizer, one.reply or "", ends=True) for one in PROMPTS[1::2]]
    assert figures.units["drift"] == sum(map(len, harmless))
    assert figures.losses["drift"] > 1e-3
    untouched = Student(StudentSettings(model=learner.name), start_from=None, precision="float32", seed=1)
    assert step(untouched, [Drift()], PROMPTS)[0].losses["drift"] == pytest.approx(0.0, abs=1e-6)


def test_states_are_compared_where_a_prompt_ends_and_pooled_over_a_reply(learner: Student) -> None:
    losses = [Contrastive(), PromptContrast()]
    encoder = LessonEncoder(learner.tokenizer, {}, losses=losses, context=learner.context, among=Pool.of(PROMPTS))
    (micro,) = encoder.micro_batches([encoder.example(PROMPTS[0])], budget=WHOLE)

    def plainly(question: str, reply: str = "", *, ends: bool = False) -> torch.Tensor:
        ids = prompt_ids(learner.tokenizer, asked(question))
        said = reply_ids(learner.tokenizer, reply, ends=ends) if reply else []
        decoder = learner.model.get_base_model().get_decoder()
        with torch.no_grad():
            states_TH = decoder(input_ids=torch.tensor([ids + said]), output_hidden_states=True).hidden_states[1][0]
        return states_TH[len(ids) : -1].mean(0) if reply else states_TH[-1]

    def layer(found: Contrasts, at: int) -> torch.Tensor:
        return found.states[0][at].detach()

    _, first = Reader(learner.model).read(micro.trees, watched=[0])
    beside = compared(micro.prompts, micro.trees, first)
    replies = compared(micro.replies, micro.trees, first)
    others = [int(at) for at in beside.others_CM[0]]
    # Alike: the other harmful one. Apart: the twin, and one more harmless one.
    texts = [PROMPTS[2].prompt.text, PROMPTS[1].prompt.text, PROMPTS[3].prompt.text]
    for text, at in zip([PROMPTS[0].prompt.text, *texts], [int(beside.anchor_C[0]), *others], strict=True):
        torch.testing.assert_close(layer(beside, at), plainly(text), rtol=1e-4, atol=1e-5)
    safe = plainly(PROMPTS[0].prompt.text, PROMPTS[0].reply or "", ends=True)
    torch.testing.assert_close(layer(replies, int(replies.others_CM[0, 0])), safe, rtol=1e-4, atol=1e-5)
    unsafe = plainly(PROMPTS[0].prompt.text, "Sure, mock.")
    torch.testing.assert_close(layer(replies, int(replies.others_CM[0, 1])), unsafe, rtol=1e-4, atol=1e-5)


def noisy(learner: Student, **noise: Any) -> tuple[float, float]:
    """Noise consistency and the length of its gradient."""
    torch.manual_seed(3)
    figures, gradient = step(learner, [NoiseConsistency(noise=Noise(**noise))], PROMPTS)
    return figures.losses["noise_consistency"], float(gradient.norm())


class OwnContrast(Loss):
    """What somebody else wrote: how long the states after a layer are."""

    kind: Literal["own_contrast"] = "own_contrast"
    needs = frozenset({"contrasts"})
    over = "contrasts"

    @property
    def student_layers(self) -> tuple[int, ...]:
        return (1,)

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        among = passes.contrasts
        return Units(among.states[1][among.anchor_C].square().sum(-1), self.weights(labels))


class OwnNoise(TokenLoss):
    """What somebody else wrote: the words of a reply after a disturbed prompt."""

    kind: Literal["own_noise"] = "own_noise"
    needs = frozenset({"reply"})

    @property
    def under(self) -> Noise:
        return Noise(epsilon=0.2)

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(-passes.noisy[self.under].said(labels.tokens_N), self.weights(labels))


@pytest.mark.parametrize("loss", [OwnContrast(), OwnNoise()], ids=lambda loss: loss.kind)
def test_a_loss_of_ones_own_gets_the_states_and_the_noise_that_it_asks_for(learner: Student, loss: Loss) -> None:
    figures, gradient = step(learner, [loss], PROMPTS)
    assert figures.losses[loss.kind] > 0 and float(gradient.norm()) > 0


@pytest.mark.parametrize("on", ["embedding", "hidden"])
def test_noise_that_climbs_disturbs_more_than_noise_at_random(learner: Student, on: str) -> None:
    noises = {one: noisy(learner, on=on, direction=one, epsilon=0.1) for one in ("random", "vat", "pgd")}
    assert 0 < noises["random"][0] < noises["vat"][0] < 1.05 * noises["pgd"][0]
    assert all(slope > 0 for _, slope in noises.values())
    assert noisy(learner, on=on, epsilon=1e-5)[0] < 1e-5


def test_noise_goes_with_replies_to_avoid_which_are_read_without_it(learner: Student) -> None:
    torch.manual_seed(3)
    figures, _ = step(learner, [NoiseConsistency(), Unlikelihood()], PROMPTS)
    avoided, _ = step(learner, [Unlikelihood()], PROMPTS)
    assert figures.losses["noise_consistency"] > 0
    assert figures.losses["unlikelihood"] == pytest.approx(avoided.losses["unlikelihood"], rel=1e-5)


def test_a_prompt_is_rewritten_another_way_in_each_step_and_stays_within_the_context(learner: Student) -> None:
    losses = [NoiseConsistency(noise=Noise(on="text", rewrites=("typos", "casing")))]
    one = lesson("Where could I possibly find a locksmith tomorrow?")
    wide = LessonEncoder(learner.tokenizer, {}, losses=losses, context=learner.context)
    ways = {tuple(wide.example(one, seed=number).rewritten) for number in range(12)}
    assert len(ways) > 6 and tuple(wide.example(one).prompt) not in ways
    exact = len(wide.example(one).prompt) + len(wide.example(one).reply)
    narrow = LessonEncoder(learner.tokenizer, {}, losses=losses, context=exact)
    # A doubled letter is one token too many.
    assert {len(narrow.example(one, seed=number).rewritten) for number in range(30)} <= {
        len(narrow.example(one).prompt) - 1, len(narrow.example(one).prompt)
    }  # fmt: skip


def test_misspelt_prompts_are_noise_too(learner: Student) -> None:
    value, slope = noisy(learner, on="text")
    assert value > 1e-4 and slope > 0


def test_a_multiplier_pulls_on_its_own_lessons_alone_and_leaves_the_figures(learner: Student) -> None:
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[CrossEntropy()], context=learner.context)
    shares = []
    for multipliers in ({}, {"toxicity": 2.0}, {"over_refusal": 0.5, "usefulness_drop": 1.0}):
        examples = [encoder.example(one) for one in PROMPTS]
        (micro,) = encoder.micro_batches(examples, budget=WHOLE, multipliers=multipliers)
        shares.append(micro.labels.taught)
    assert [set(share.pull.tolist()) for share in shares] == [{1.0}, {1.0, 3.0}, {1.0, 1.5, 2.0}]
    assert torch.equal(shares[0].weight, shares[1].weight)
    assert set(shares[1].pull[shares[1].harmful].tolist()) == {3.0}


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
    exact = -float(torch.log1p(-torch.stack(masses).exp().sum()))
    assert figures.losses["decision"] == pytest.approx(exact, rel=1e-4, abs=1e-7)


def begun_in(encoder: LessonEncoder, one: Lesson) -> str:
    """The beginning of an answer after which the lesson is decided upon once more."""
    _, midway = encoder.example(one).decisions
    return str(encoder.tokenizer.decode(midway.begun))


def test_an_answer_is_decided_upon_once_more_in_its_midst(learner: Student) -> None:
    loss, answered = Decision(openings=1, within=3), lesson("Why?", "So it is.", risk=0.0)
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[loss], context=learner.context)
    begun = begun_in(encoder, answered)
    # One to three letters, a byte each, without the space after them, and the end of a phrase.
    assert begun[:-1] in ("S", "So") and begun[-1] in ",.!"
    masses = [
        plain_logprobs(learner, "Why?", "I can't", ends=False).sum(),
        plain_logprobs(learner, "Why?", f"{begun} I can't", ends=False)[len(begun) :].sum(),
    ]
    figures, _ = step(learner, [loss], [answered])
    assert figures.units["decision"] == 2
    exact = -float(torch.log1p(-torch.stack(masses).exp()).mean())
    assert figures.losses["decision"] == pytest.approx(exact, rel=1e-4, abs=1e-7)


def test_an_answer_to_avoid_is_broken_off_in_its_midst(learner: Student) -> None:
    loss = Decision(openings=1, within=3, recover=True)
    due = lesson("Why?", reply=None, rejected=("Sure!",), risk=1.0, **HARMFUL)
    begun = begun_in(LessonEncoder(learner.tokenizer, {}, losses=[loss], context=learner.context), due)
    values = [
        plain_logprobs(learner, "Why?", "I can't", ends=False).sum(),
        plain_logprobs(learner, "Why?", f"{begun} I can't", ends=False)[len(begun) :].sum(),
    ]
    figures, _ = step(learner, [loss], [due])
    assert figures.units["decision"] == 2
    assert figures.losses["decision"] == pytest.approx(-float(torch.stack(values).mean()), rel=1e-4)
    begun_alone, _ = step(learner, [Decision(openings=1, within=3)], [due])
    assert begun_alone.units["decision"] == 1


def test_an_answer_with_care_is_not_broken_off_whatever_is_to_be_avoided(learner: Student) -> None:
    careful = lesson("Why?", "With care.", rejected=("Sure!",), risk=0.0, conduct="answer_with_care", harm="bias",
                     tier="borderline")  # fmt: skip
    soft = lesson("Why?", "So it is.", risk=0.2)
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[Decision(within=3, recover=True)], context=learner.context)
    for one, beginning in ((careful, "With care."), (soft, "So it is.")):
        assert beginning.startswith(begun_in(encoder, one)[:-1])
        assert [decision.risk for decision in encoder.example(one).decisions] == [one.risk, 0.0]


@pytest.mark.parametrize(
    ("reply", "within", "begun"),
    [("Ä", 1, None), (" \n", 2, None), ("So.", 3, "So."), ("你好，再见", 9, "你好，"), ("", 3, None)],
)
def test_a_beginning_is_cut_between_letters_and_its_own_end_of_a_phrase_is_one(
    reply: str, within: int, begun: str | None, learner: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as may be: the hash that draws how much of it is read is one less than `within`.
    monkeypatch.setattr(batches_module, "drawn", lambda of: within - 1)
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[Decision(within=within)], context=learner.context)
    found = encoder._begun(reply, of="a")
    assert (learner.tokenizer.decode(found) if found else None) == begun


def test_where_the_context_is_full_a_lesson_is_decided_upon_at_its_start_alone(learner: Student) -> None:
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[Decision(openings=1, within=8)], context=learner.context)
    template = len(prompt_ids(learner.tokenizer, asked("")))
    full = lesson("x" * (learner.context - template - 10), "Yes, do.", risk=0.0)
    assert [decision.begun for decision in encoder.example(full).decisions] == [[]]


def test_a_lesson_without_an_answer_is_decided_upon_at_its_start_alone(learner: Student) -> None:
    loss = Decision(within=3)
    others = [
        lesson("Why?", reply=None, risk=0.0),
        lesson("Why?", "I can't help with that.", risk=1.0, **HARMFUL),
        lesson("Why?", "So it is."),
    ]
    figures, gradient = step(learner, [loss], others)
    plain, same = step(learner, [Decision()], others)
    assert figures.units["decision"] == plain.units["decision"] == 2
    torch.testing.assert_close(gradient, same)


def test_what_is_due_is_taught_all_words_of_the_refusal_and_what_is_harmless_kept_from_its_opening(
    learner: Student,
) -> None:
    words = Decision(refuse_with="I can't help you")
    due, _ = step(learner, [words], [lesson("Why?", reply=None, risk=1.0)])
    expected = -float(plain_logprobs(learner, "Why?", "I can't help you", ends=False).sum())
    assert due.losses["decision"] == pytest.approx(expected, rel=1e-4)
    for risk in (0.0, 1.0):
        whole, _ = step(learner, [words], [lesson("Why?", reply=None, risk=risk)])
        opening, _ = step(learner, [Decision()], [lesson("Why?", reply=None, risk=risk)])
        assert (whole.losses["decision"] == pytest.approx(opening.losses["decision"], rel=1e-4)) == (risk == 0.0)


@pytest.mark.parametrize("reply", [None, "Yes, like this."])
def test_a_risk_of_a_fifth_pulls_a_fifth_to_refusing_and_the_rest_to_answering(
    learner: Student, reply: str | None
) -> None:
    # The soft cross-entropy is linear in the risk, and so is its gradient: 0.2 of the one and 0.8 of the other.
    (soft, due, harmless) = (
        step(learner, [Decision()], [lesson("Why?", reply=reply, risk=risk)]) for risk in (0.2, 1.0, 0.0)
    )
    expected = 0.2 * due[0].losses["decision"] + 0.8 * harmless[0].losses["decision"]
    assert soft[0].losses["decision"] == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(soft[1], 0.2 * due[1] + 0.8 * harmless[1], rtol=1e-3, atol=1e-7)


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


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> Iterator[LocalModel]:
    with Local(name="teacher", model=str(tiny_model)).open() as model:
        yield model


def live_step(
    learner: Student, teacher: Any, losses: list[Loss], lessons: list[Lesson], *, budget: int = WHOLE
) -> tuple[StepFigures, Any]:
    encoder = LessonEncoder(learner.tokenizer, {}, losses=losses, context=learner.context, live=teacher)
    batches = list(encoder.micro_batches([encoder.example(one) for one in lessons], budget=budget))
    parameters = learner.trainable()
    for parameter in parameters:
        parameter.grad = None
    objective = Objective(learner.model, losses, live=teacher)
    figures = run_step(objective, losses, batches, parameters, Accelerator(cpu=True), clip=1e9)
    return figures, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize(
    "loss", [ForwardKL(temperature=2.0), JensenShannon(), AntiTeacher()], ids=lambda loss: loss.kind
)
def test_a_live_teacher_is_a_cached_one_that_keeps_every_id(learner: Student, teacher: LocalModel, loss: Loss) -> None:
    wanted_of = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in PROMPTS]
    targets = dict(teacher.soft_targets(wanted_of, top=10_000))
    cached, slope = step(learner, [loss], PROMPTS, targets=targets)
    live, slope_live = live_step(learner, teacher, [loss], PROMPTS)
    assert live.units == cached.units
    assert live.losses[loss.kind] == pytest.approx(cached.losses[loss.kind], rel=1e-4)
    torch.testing.assert_close(slope_live, slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", [ForwardKL(), HiddenStates(layers=((0, 0), (1, 1)))], ids=lambda loss: loss.kind)
def test_a_step_beside_a_live_teacher_may_be_cut_as_well(learner: Student, teacher: LocalModel, loss: Loss) -> None:
    whole, gradient = live_step(learner, teacher, [loss], PROMPTS)
    cut, gradient_cut = live_step(learner, teacher, [loss], PROMPTS, budget=1)
    assert cut.units == whole.units and cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-6)
    assert float(gradient.norm()) > 1e-4


def test_a_reply_for_which_a_live_teacher_has_no_room_is_named_before_any_step(
    learner: Student, teacher: LocalModel
) -> None:
    full = ContextModel(teacher, "x" * 1000)
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[ForwardKL()], context=learner.context, live=full)
    with pytest.raises(InputError, match=f"lesson {PROMPTS[0].id}: .* exceeds the 1024 of teacher 'teacher'"):
        encoder.teaches(PROMPTS[0])


def test_a_live_teacher_may_know_what_the_student_does_not(learner: Student, teacher: LocalModel) -> None:
    informed = ContextModel(teacher, "Be kind.")
    plain, _ = live_step(learner, teacher, [ForwardKL()], PROMPTS)
    told, _ = live_step(learner, informed, [ForwardKL()], PROMPTS)
    assert told.losses != plain.losses and told.units == plain.units
    # And is scored where the reply stands in its own chat.
    wanted_of = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in PROMPTS]
    cached, _ = step(learner, [ForwardKL()], PROMPTS, targets=dict(informed.soft_targets(wanted_of, top=10_000)))
    assert told.losses["forward_kl"] == pytest.approx(cached.losses["forward_kl"], rel=1e-4)


def test_a_live_teacher_is_not_heard_on_what_the_house_says(learner: Student, teacher: LocalModel) -> None:
    first, *others = PROMPTS
    house = first.model_copy(update={"teacher": HOUSE})
    losses = [ForwardKL(), HiddenStates(layers=((0, 0),)), CrossEntropy()]
    found, _ = live_step(learner, teacher, losses, [house, *others])
    alone, _ = live_step(learner, teacher, losses, others)
    for kind in ("forward_kl", "hidden_states"):
        assert found.losses[kind] == pytest.approx(alone.losses[kind], rel=1e-4)
    assert found.units["cross_entropy"] > alone.units["cross_entropy"]


def test_states_are_those_of_the_same_tokens_in_both(learner: Student, teacher: LocalModel, tiny_model: Path) -> None:
    loss = HiddenStates(layers=((0, 0), (1, 1)))
    # A new adapter changes nothing yet: the student is its own teacher, and both are equally wide.
    new = Student(StudentSettings(model=str(tiny_model)), start_from=None, precision="float32", seed=1)
    same, _ = live_step(new, teacher, [loss], PROMPTS)
    assert same.losses["hidden_states"] == pytest.approx(0.0, abs=1e-6)
    assert same.units["hidden_states"] == same.supervised_tokens
    apart, slope = live_step(learner, teacher, [loss, ForwardKL()], PROMPTS)
    assert apart.losses["hidden_states"] > 0.01 and apart.losses["forward_kl"] > 0
    assert float(slope.abs().max()) > 0


def spans_by(model: LocalModel, learner: Student, lessons: list[Lesson], *, top: int) -> dict[str, Spans]:
    labels = Translator.between(model, learner.tokenizer, keep=Top(ids=top)).labels(lessons)
    found = {label.lesson: label.target for label in labels}
    return {name: target for name, target in found.items() if isinstance(target, Spans)}


@pytest.mark.parametrize("top", [1, 4, 32])
def test_across_the_same_tokenizer_the_loss_is_forward_kl(learner: Student, teacher: LocalModel, top: int) -> None:
    wanted_of = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in PROMPTS]
    plain, slope = step(learner, [ForwardKL()], PROMPTS, targets=dict(teacher.soft_targets(wanted_of, top=top)))
    across, slope_across = step(
        learner, [CrossTokenizer()], PROMPTS, spans=spans_by(teacher, learner, PROMPTS, top=top)
    )
    assert across.units["cross_tokenizer"] == plain.units["forward_kl"]
    assert across.losses["cross_tokenizer"] == pytest.approx(plain.losses["forward_kl"], rel=1e-6, abs=1e-6)
    torch.testing.assert_close(slope_across, slope, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def stranger(merging_model: Path) -> Iterator[LocalModel]:
    with Local(name="stranger", model=str(merging_model)).open() as model:
        yield model


def test_across_tokenizers_a_step_may_be_cut_and_a_span_counts_once(learner: Student, stranger: LocalModel) -> None:
    # "Yes" and " this" are tokens of the teacher's; every byte is one of the student's.
    lessons = [
        lesson("Is it?", "Yes, like this."),
        lesson("Was it so?", "Yes."),
        lesson("No?", "It is not.", weight=0.5),
    ]
    spans = spans_by(stranger, learner, lessons, top=8)
    whole, slope = step(learner, [CrossTokenizer()], lessons, spans=spans)
    cut, slope_cut = step(learner, [CrossTokenizer()], lessons, spans=spans, budget=1)
    # Yes , _ l i k e _this . end; Yes . end; I t _ is _ n o t . end.
    assert whole.units["cross_tokenizer"] == 10 + 3 + 0.5 * 10
    assert whole.supervised_tokens == 16 + 5 + 11
    assert cut.losses["cross_tokenizer"] == pytest.approx(whole.losses["cross_tokenizer"], rel=1e-5)
    torch.testing.assert_close(slope_cut, slope, rtol=1e-3, atol=1e-6)


def test_the_slope_across_tokenizers_is_that_of_finite_differences(learner: Student, stranger: LocalModel) -> None:
    lessons = [lesson("Is it?", "Yes, like this."), lesson("Was it so?", "Yes, this is.")]
    spans, parameter = spans_by(stranger, learner, lessons, top=8), learner.trainable()[1]
    step(learner, [CrossTokenizer()], lessons, spans=spans)
    assert parameter.grad is not None
    direction, length, at = parameter.grad / parameter.grad.norm(), parameter.grad.norm(), parameter.detach().clone()
    values = []
    for away in (1e-2, -1e-2, 0.0):
        with torch.no_grad():
            parameter.copy_(at + away * direction)
        values.append(step(learner, [CrossTokenizer()], lessons, spans=spans)[0].losses["cross_tokenizer"])
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(length), rel=2e-2)


def test_a_lesson_that_was_not_aligned_teaches_its_words_alone(learner: Student, stranger: LocalModel) -> None:
    lessons = [lesson("Is it?", "Yes, this."), lesson("Was it so?", "Yes, <|end|> this.")]
    spans = spans_by(stranger, learner, lessons, top=8)
    assert set(spans) == {lessons[0].id}
    both, _ = step(learner, [CrossEntropy(), CrossTokenizer()], lessons, spans=spans)
    alone, _ = step(learner, [CrossTokenizer()], lessons[:1], spans=spans)
    assert both.units["cross_tokenizer"] == alone.units["cross_tokenizer"] == 5
    assert both.losses["cross_tokenizer"] == pytest.approx(alone.losses["cross_tokenizer"], rel=1e-5)
    assert both.units["cross_entropy"] > 20


@pytest.mark.parametrize("loss", [ForwardKL(), JensenShannon(temperature=2.0)], ids=lambda loss: loss.kind)
def test_replies_of_which_more_or_fewer_ids_are_known_go_in_one_batch(
    learner: Student, teacher: LocalModel, loss: Loss
) -> None:
    wanted_of = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in PROMPTS]
    targets = {
        name: target
        for top, one in zip((3, 7, 5, 3), wanted_of, strict=True)
        for name, target in teacher.soft_targets([one], top=top)
    }
    whole, gradient = step(learner, [loss], PROMPTS, targets=targets)
    cut, gradient_cut = step(learner, [loss], PROMPTS, budget=1, targets=targets)
    assert cut.losses[loss.kind] == pytest.approx(whole.losses[loss.kind], rel=1e-4)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-3, atol=1e-5)


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
    losses = [CrossEntropy(), Decision(), Unlikelihood()]
    encoder = LessonEncoder(learner.tokenizer, {}, losses=losses, context=learner.context)
    example = encoder.example(FOUR[0])
    (batch,) = encoder.micro_batches([example], budget=WHOLE)
    branches = example.tree().branches
    assert len(branches) == len(REFUSAL_OPENINGS) + 2
    # Every branch's last token is predicted and never read; "I" opens four openings and is read once.
    assert batch.trees.ids_BT.shape[1] < len(example.prompt) + sum(len(branch) - 1 for branch in branches)


def test_openings_that_do_not_count_are_not_read(learner: Student) -> None:
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[Decision(openings=2)], context=learner.context)
    assert len(encoder.example(FOUR[0]).refusing) == 2
    # Where another loss counts more of them, each still has its own.
    encoder = LessonEncoder(
        learner.tokenizer, {}, losses=[Decision(openings=2), Decision(openings=5)], context=learner.context
    )
    assert len(encoder.example(FOUR[0]).refusing) == 5


@pytest.mark.parametrize("openings", [1, len(REFUSAL_OPENINGS)])
@pytest.mark.parametrize("risk", [0.2, 1.0])
def test_how_a_refusal_goes_on_is_read_only_where_there_is_a_risk(learner: Student, openings: int, risk: float) -> None:
    loss = Decision(refuse_with="I can't help you", openings=openings)
    due, harmless = lesson("Why?", reply=None, risk=risk), lesson("What is up?", reply=None, risk=0.0)
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[loss], context=learner.context)
    (longer, *others), (shorter, *same_others) = (encoder.example(one).refusing for one in (due, harmless))
    assert longer[: len(shorter)] == shorter and len(longer) > len(shorter) and others == same_others
    both, gradient = step(learner, [loss], [due, harmless])
    alone = [step(learner, [loss], [one]) for one in (due, harmless)]
    assert both.losses["decision"] == pytest.approx(sum(one.losses["decision"] for one, _ in alone) / 2, rel=1e-4)
    torch.testing.assert_close(gradient, sum(one for _, one in alone) / 2, rtol=1e-3, atol=1e-6)


def test_a_reply_to_compare_with_is_cut_where_the_context_ends(learner: Student) -> None:
    long = lesson("Why?", "Because " * 100, family="long")
    asked_long = lesson("Who? " * 100, "Me.", family="other")
    pool = Pool.of([long, asked_long])
    encoder = LessonEncoder(learner.tokenizer, {}, losses=[Contrastive()], context=learner.context, among=pool)
    example = encoder.example(asked_long)
    assert len(example.foreign) == learner.context - len(example.prompt) < 800
