"""Reward models: whole replies, whatever they are read together with, and nothing that is not one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from limbeck.errors import InputError
from limbeck.models import reward
from limbeck.models.reward import open_reward
from limbeck.protocols import Exchange

EXCHANGES = [
    Exchange("a", "What is tea?", "A drink made of leaves."),
    Exchange("b", "Why?", "No."),
    Exchange("c", "Where does the sun go at night?", "Nowhere: the earth turns, and our side looks away from it."),
]


def given(folder: Path, exchanges: list[Exchange]) -> list[float | None]:
    with open_reward(str(folder), dtype="float32") as model:
        return [one.value for one in model.rewards(exchanges)]


def test_a_reward_is_what_the_classifier_says_of_the_chat(tiny_reward: Path) -> None:
    weights = LlamaForSequenceClassification.from_pretrained(tiny_reward).eval()
    chat = "<|turn|>user\nWhy?<|end|>\n<|turn|>assistant\nNo.<|end|>\n"
    ids = AutoTokenizer.from_pretrained(tiny_reward)(chat, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = weights(ids).logits.item()
    assert given(tiny_reward, EXCHANGES[1:2]) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("pad", [0, None])
def test_what_it_is_read_together_with_does_not_matter(classifier: Callable[..., Path], pad: int | None) -> None:
    folder = classifier(pad=pad)
    together = given(folder, EXCHANGES)
    assert together == pytest.approx([given(folder, [one])[0] for one in EXCHANGES], abs=1e-5)
    assert len(set(together)) == len(together)


def test_small_batches_give_the_same(tiny_reward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = given(tiny_reward, EXCHANGES)
    monkeypatch.setattr(reward, "BATCH_TOKENS", 1)
    assert given(tiny_reward, EXCHANGES) == pytest.approx(together, abs=1e-5)


def test_the_end_of_a_reply_counts(tiny_reward: Path) -> None:
    first, other = (Exchange("a", "Why?", "word " * 30 + end) for end in ("Good.", "Bad."))
    assert given(tiny_reward, [first]) != given(tiny_reward, [other])


def test_a_reply_that_is_too_long_gets_no_reward_and_the_reason(tiny_reward: Path) -> None:
    long = Exchange("d", "Why?", "x" * 300)
    with open_reward(str(tiny_reward), dtype="float32") as model:
        said = model.rewards([long, *EXCHANGES])
    assert said[0].value is None
    # 4 + 300 bytes of text, 5 of "user\n", 10 of "assistant\n", and for each turn its two marks and a line break.
    assert said[0].why == "prompt and reply have 325 tokens, the reward model reads 256"
    assert all(one.value is not None for one in said[1:])


def test_without_a_chat_template_prompt_and_reply_are_a_pair(tiny_reward: Path) -> None:
    chat = given(tiny_reward, EXCHANGES[1:2])
    (tiny_reward / "chat_template.jinja").unlink()
    weights = LlamaForSequenceClassification.from_pretrained(tiny_reward).eval()
    pair = AutoTokenizer.from_pretrained(tiny_reward)("Why?", "No.", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = weights(pair).logits.item()
    assert given(tiny_reward, EXCHANGES[1:2]) == pytest.approx([expected], abs=1e-5)
    assert chat != pytest.approx([expected])


def test_a_reward_that_is_no_number_is_none(tiny_reward: Path) -> None:
    with open_reward(str(tiny_reward), dtype="float32") as model:
        model.weights.score.weight.data.fill_(torch.nan)
        (said,) = model.rewards(EXCHANGES[:1])
    assert said == (None, "the reward is nan")


def test_two_outputs_are_no_reward(classifier: Callable[..., Path]) -> None:
    folder = classifier(outputs=2)
    with pytest.raises(InputError, match=r"its classifier has 2 outputs, a reward model has one"):
        given(folder, EXCHANGES)


def test_a_chat_model_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"has no weights for score.weight: it is no classifier"):
        given(tiny_model, EXCHANGES)


def test_weights_that_are_no_safetensors_are_not_read(tiny_reward: Path) -> None:
    (tiny_reward / "model.safetensors").rename(tiny_reward / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"there are no \*\.safetensors"):
        given(tiny_reward, EXCHANGES)


def test_another_model_is_another_identity(tiny_reward: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_reward, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with open_reward(str(tiny_reward), dtype="float32") as one, open_reward(str(other), dtype="float32") as two:
        assert one.identity != two.identity
