"""A local model answers every request once, and as if it had been asked alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from limbeck.errors import InputError
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.local import OPEN, Local, LocalModel, _Row, check_lengths, name_of, top_k, uniform
from limbeck.models.references import DEFAULT_CHAT_TEMPLATE, load_tokenizer, load_weights, resolve
from limbeck.protocols import Continuation
from limbeck.records import ChoiceRequest, Reply, Request, asked

QUESTIONS = ["hi", "What is the capital of France?", "why?", "Name three colours, please.", "a" * 90]


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> Iterator[LocalModel]:
    with Local(name="tiny", model=str(tiny_model)).open() as model:
        yield model


def requests(temperature: float = 0.0, max_tokens: int = 12) -> list[Request]:
    return [Request(messages=asked(text), max_tokens=max_tokens, temperature=temperature) for text in QUESTIONS]


def texts(replies: Iterator[Reply]) -> dict[str, str]:
    return {reply.request_id: reply.text for reply in replies}


def test_a_model_whose_cache_cannot_drop_rows_answers_as_if_asked_alone(local: LocalModel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=local.weights.config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"],
        block_auto_adjust_ff_dim=False,
    )
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    local.tokenizer.save_pretrained(tmp_path)
    # Rows end one after the other, and are more than those that go on.
    asked_for = [one.model_copy(update={"max_tokens": 3 + 4 * at}) for at, one in enumerate(requests() + requests(1.0))]
    with Local(name="conv", model=str(tmp_path)).open() as model:
        together = texts(model.replies(asked_for))
        alone = {request.id: next(iter(texts(model.replies([request])).values())) for request in asked_for}
    assert together == alone and len(together) == 10


def test_models_with_the_same_weights_hold_them_once_for_as_long_as_one_is_open(tiny_model: Path) -> None:
    before = set(OPEN)
    with Local(name="one", model=str(tiny_model), dtype="bfloat16").open() as one:
        with Local(name="two", model=str(tiny_model), dtype="bfloat16").open() as two:
            assert two.weights is one.weights
        with Local(name="other", model=str(tiny_model)).open() as other:
            assert other.weights is not one.weights
    del one, two, other
    gc.collect()
    assert set(OPEN) <= before


@pytest.mark.parametrize("ends", [True, False])
def test_a_prompt_and_a_reply_may_fill_the_context_to_the_last_token(tiny_model: Path, ends: bool) -> None:
    model = Local(name="tiny", model=str(tiny_model))
    # 'How?' has 4 tokens and its turns 19, which leaves 1,001 of 1,024; the end of a reply is one of them.
    room = 1001 - ends
    check_lengths(model, [Continuation("a.jsonl:1", asked("How?"), "y" * room, ends)])
    said = (
        r"^a.jsonl:2: 'How\?…' has 23 tokens; with 1002 for the reply that exceeds the 1024 of .*; shorten it or leave"
    )
    with pytest.raises(InputError, match=said):
        check_lengths(model, [Continuation("a.jsonl:2", asked("How?"), "y" * (room + 1), ends)])


def test_a_reply_still_to_come_takes_its_room_too(tiny_model: Path) -> None:
    model, to_come = Local(name="tiny", model=str(tiny_model)), [Continuation("a", asked("How?"), "", ends=False)]
    check_lengths(model, to_come, reply_tokens=1001)
    with pytest.raises(InputError, match=r"a: .* has 23 tokens; with 1002 for the reply"):
        check_lengths(model, to_come, reply_tokens=1002)


def test_every_request_is_answered_exactly_once(local: LocalModel) -> None:
    wanted = requests()
    assert sorted(reply.request_id for reply in local.replies(wanted)) == sorted(one.id for one in wanted)


def test_who_takes_a_reply_as_it_comes_can_train_on_it(local: LocalModel) -> None:
    assert [torch.is_grad_enabled() for _ in local.replies(requests())] == [True] * len(QUESTIONS)


def test_a_base_model_ends_its_reply_where_it_begins_the_users_next_turn(tiny_model: Path) -> None:
    with Local(name="base", model=str(tiny_model)).open() as model:
        said = model.tokenizer.encode(" Paris.\n\nUser: And of Spain?", add_special_tokens=False)
        row = _Row(requests()[1], [2], said, {})
        assert model._finished(row, "length").text == "Paris.\n\nUser: And of Spain?"
        model.tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        reply = model._finished(row, "length")
        assert (reply.text, reply.finish, reply.reply_tokens) == ("Paris.", "stop", len(said))
        assert model._finished(row._replace(reply=said[:5]), "length").finish == "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_reply_comes_whatever_the_batch(local: LocalModel, temperature: float) -> None:
    wanted = requests(temperature)
    together = texts(local.replies(wanted))
    alone = {key: text for one in wanted for key, text in texts(local.replies([one])).items()}
    backwards = texts(local.replies(wanted[::-1]))
    assert together == alone == backwards
    assert len(set(together.values())) > 1


def test_a_small_token_budget_changes_no_reply(tiny_model: Path, local: LocalModel) -> None:
    with Local(name="tiny", model=str(tiny_model), batch_tokens=1).open() as one_by_one:
        assert texts(one_by_one.replies(requests(1.0))) == texts(local.replies(requests(1.0)))


def test_another_seed_is_another_reply_and_the_same_seed_the_same(local: LocalModel) -> None:
    def drawn(seed: int) -> str:
        wanted = Request(messages=asked("hi"), max_tokens=20, temperature=1.0, seed=seed)
        return next(local.replies([wanted])).text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_the_noise_of_a_sample_hangs_on_the_request_and_the_position_alone() -> None:
    wanted = Request(messages=asked("hi"), max_tokens=9, temperature=1.0, seed=3)
    same_again = Request(messages=asked("hi"), max_tokens=9, temperature=1.0, seed=3, prompt_id="elsewhere")
    draws = [uniform(wanted.id, position) for position in range(2000)]
    assert draws == [uniform(same_again.id, position) for position in range(2000)]
    assert all(0 <= draw < 1 for draw in draws) and len(set(draws)) == 2000
    # The mean of 2,000 even draws is 0.5 with a standard error of 0.29 / sqrt(2000) = 0.0065.
    assert sum(draws) / 2000 == pytest.approx(0.5, abs=0.03)


def test_greedy_is_what_transformers_generates(local: LocalModel) -> None:
    for wanted in requests(max_tokens=24):
        ids = torch.tensor([prompt_ids(local.tokenizer, wanted.messages)])
        with torch.inference_mode():
            out = local.weights.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        reply = next(local.replies([wanted]))
        new = out[0, ids.shape[1] :]
        assert reply.text == local.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert reply.reply_tokens == int((new != 0).sum())


def test_a_reply_ends_with_stop_at_the_end_of_turn_and_with_length_where_it_is_cut(local: LocalModel) -> None:
    wanted = [Request(messages=asked("hi"), max_tokens=60, temperature=2.0, seed=seed) for seed in range(60)]
    replies = list(local.replies(wanted))
    assert {reply.finish for reply in replies} == {"stop", "length"}
    assert all((reply.reply_tokens == 60) == (reply.finish == "length") for reply in replies)


def test_a_prompt_longer_than_the_context_is_failed_with_a_reason_and_the_others_are_answered(
    local: LocalModel,
) -> None:
    long = Request(messages=asked("x" * 2000), max_tokens=5)
    replies = {reply.request_id: reply for reply in local.replies([long, *requests()])}
    assert (replies[long.id].finish, replies[long.id].text) == ("failed", "")
    assert "exceed the context of 1024" in replies[long.id].why
    assert all(replies[one.id].finish in ("stop", "length") for one in requests())


CHOICES = ("red", "reddish", "blue")
FITS = ChoiceRequest(messages=asked("Which colour?"), choices=CHOICES)
TOO_LONG = ChoiceRequest(messages=asked("x" * 2000), choices=CHOICES)


def test_choices_score_as_plain_passes_do(local: LocalModel) -> None:
    (found,) = local.choice_scores([FITS])
    prompt = prompt_ids(local.tokenizer, FITS.messages)
    for choice, total, tokens in zip(CHOICES, found.total, found.tokens, strict=True):
        ids = reply_ids(local.tokenizer, choice, ends=False)
        with torch.inference_mode():
            logprobs_TV = local.weights(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        plain = sum(float(logprobs_TV[len(prompt) + at - 1, token]) for at, token in enumerate(ids))
        assert (total, tokens) == (pytest.approx(plain, abs=1e-4), len(ids))


def test_choices_that_do_not_fit_the_context_have_no_score_and_say_why(local: LocalModel) -> None:
    (found,) = local.choice_scores([TOO_LONG])
    assert found.total == () and "exceed the context of 1024" in found.why


def test_choices_that_fit_are_scored_although_a_request_in_their_batch_does_not(local: LocalModel) -> None:
    found = {one.request_id: one for one in local.choice_scores([FITS, TOO_LONG])}
    assert len(found[FITS.id].total) == 3


def test_soft_targets_of_a_reply_sum_to_one_with_the_tail(local: LocalModel) -> None:
    told = [
        Continuation("short", asked("hi"), "ok", ends=True),
        Continuation("cut", asked("What is the capital?"), "It is Par", ends=False),
    ]
    found = dict(local.soft_targets(told, top=5))
    assert {name: tuple(one.ids_NK.shape) for name, one in found.items()} == {"short": (3, 5), "cut": (9, 5)}
    for one in found.values():
        whole = one.logprobs_NK.double().exp().sum(-1) + one.tail_N.double().exp()
        torch.testing.assert_close(whole, torch.ones_like(whole))


def test_soft_targets_are_the_distributions_behind_each_token(local: LocalModel) -> None:
    ((_, found),) = local.soft_targets([Continuation("a", asked("hi"), "yes", ends=True)], top=4)
    prompt, reply = prompt_ids(local.tokenizer, asked("hi")), reply_ids(local.tokenizer, "yes", ends=True)
    with torch.inference_mode():
        logprobs_TV = local.weights(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    expected, ids = logprobs_TV[len(prompt) - 1 : -1].topk(4)
    torch.testing.assert_close(found.logprobs_NK, expected, atol=1e-4, rtol=0)
    assert torch.equal(found.ids_NK, ids)


def test_soft_targets_are_over_the_tokenizer_s_ids_however_far_the_head_is_padded(
    tiny_model: Path, tmp_path: Path
) -> None:
    told = [Continuation("a", asked("hi"), "yes", ends=True)]
    weights, tokenizer = load_weights(resolve(str(tiny_model)), "float32"), load_tokenizer(resolve(str(tiny_model)))
    with Local(model=str(tiny_model)).open() as model:
        ((_, narrow),) = model.soft_targets(told, top=4)
    weights.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    with torch.no_grad():
        # An id that no token has, and that is the likeliest everywhere.
        weights.get_output_embeddings().weight[-1] = 100 * weights.get_output_embeddings().weight.abs().max()
    weights.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with Local(model=str(tmp_path)).open() as model:
        ((_, wide),) = model.soft_targets(told, top=4)
        ((_, whole),) = model.soft_targets(told, top=10**6)
    assert torch.equal(wide.ids_NK, narrow.ids_NK)
    torch.testing.assert_close(wide.logprobs_NK, narrow.logprobs_NK, atol=1e-4, rtol=0)
    assert whole.ids_NK.shape[1] == len(tokenizer)


def test_a_reply_that_exceeds_the_context_has_no_soft_targets(local: LocalModel) -> None:
    room = local.context - len(prompt_ids(local.tokenizer, asked("hi")))
    # The last token is predicted, not read.
    replies = {
        name: Continuation(name, asked("hi"), "y" * (room + more), ends=True) for name, more in (("a", 0), ("b", 1))
    }
    assert [name for name, _ in local.soft_targets(list(replies.values()), top=4)] == ["a"]


def test_the_tail_of_all_ids_is_nothing() -> None:
    even = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    kept = top_k(even, 9)
    assert kept.ids_NK.shape == (1, 4)
    assert float(kept.tail_N) == -torch.inf
    assert float(top_k(even, 1).tail_N) == pytest.approx(float(torch.tensor(0.75).log()))


def test_the_end_of_a_turn_is_a_token_of_a_whole_reply_although_it_pads(local: LocalModel) -> None:
    assert local.tokenizer.pad_token_id == local.tokenizer.eos_token_id == 0
    whole = reply_ids(local.tokenizer, "yes", ends=True)
    assert whole == [*reply_ids(local.tokenizer, "yes", ends=False), 0]


def test_an_empty_choice_does_not_shift_the_scores_of_the_others(local: LocalModel) -> None:
    (found,) = local.choice_scores([ChoiceRequest(messages=asked("hi"), choices=("", "yes"))])
    assert found.tokens == (0, 3)
    (alone,) = local.choice_scores([ChoiceRequest(messages=asked("hi"), choices=("yes",))])
    assert found.total == (0.0, pytest.approx(alone.total[0], abs=1e-4))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("org/name", "name"),
        ("runs/mine/student/merged", "mine/student"),
        ("runs/mine/student/adapter/", "mine/student"),
        ("weaker/merged", "weaker"),
    ],
)
def test_an_exported_student_is_called_by_the_folder_that_says_whose_it_is(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As in a run folder, the student's is a link.
    Path("runs/mine").mkdir(parents=True)
    Path("export-1").mkdir()
    Path("runs/mine/student").symlink_to(tmp_path / "export-1")
    assert name_of(Path(place)) == name
