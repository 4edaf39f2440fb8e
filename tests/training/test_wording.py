"""Refusals in the student's tokens, at the start of a reply and in its midst."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace, Sequence
from transformers import PreTrainedTokenizerFast

from limbeck.errors import InputError
from limbeck.losses.spec import Refusal
from limbeck.training.wording import MIDWAY, Wording

LETTERS = "▁ INYabcdefghilnoprstuwy',!"


@pytest.fixture(scope="module")
def prefixing() -> PreTrainedTokenizerFast:
    """A letter a token, with a blank before every text as sentencepiece has it for Llama 2."""
    tokens = Tokenizer(BPE(vocab={letter: at for at, letter in enumerate(LETTERS)}, merges=[]))
    tokens.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    tokens.decoder = Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokens)


def spelt(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_in_the_midst_of_a_reply_a_refusal_is_spelt_as_a_running_text_is(prefixing: PreTrainedTokenizerFast) -> None:
    refusals = [Refusal("I can't help you", 2)]
    for after in ("", MIDWAY):
        (first, second), sizes = Wording.of(prefixing, refusals, after=after)
        assert (spelt(prefixing, first), spelt(prefixing, second)) == ("▁I▁can't▁help▁you", "▁I▁won't")
        assert sizes == (len("▁I▁can't"), len("▁I▁won't"))


def test_the_words_go_on_only_where_there_is_a_risk_and_stand_last(prefixing: PreTrainedTokenizerFast) -> None:
    wording = Wording.of(prefixing, [Refusal("I can't help", 2)])
    assert [spelt(prefixing, one) for one in wording.at(0.0)] == ["▁I▁can't", "▁I▁won't"]
    assert spelt(prefixing, wording.at(0.1)[0]) == "▁I▁can't▁help"
    assert spelt(prefixing, wording.tokens) == "▁I▁can't▁I▁won't▁help"


def test_words_that_are_spelt_otherwise_than_the_opening_are_refused_with_the_place(
    prefixing: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(InputError, match=r"'No thanks' after 'Yes, ' do not begin with those of"):
        Wording.of(prefixing, [Refusal("No thanks", 1)], after=MIDWAY)
