"""Ids as the bytes that they stand for, in tokenizers of both common kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spelling import PROBE, Spelling


def sentencepiece() -> Any:
    """Letters and two words, spaces written as ▁, and bytes to fall back on; pieces as Gemma has them."""
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdeghostuy", "to", "▁b", "▁be"]
    merges = [("t", "o"), ("▁", "b"), ("▁b", "e")]
    return GemmaTokenizer(vocab={piece: at for at, piece in enumerate(pieces)}, merges=merges)


def test_bytes_come_back_from_a_byte_level_tokenizer(tiny_model: Path, merging_model: Path) -> None:
    for model in (tiny_model, merging_model):
        tokenizer = load_tokenizer(resolve(str(model)))
        spelling = Spelling.of_tokenizer(tokenizer)
        assert b"".join(spelling.spelt(tokenizer.encode(PROBE, add_special_tokens=False))) == PROBE.encode()
        assert spelling.of[0] is None and spelling.end == 0 and spelling.knows_ends


def test_bytes_come_back_from_sentencepiece_that_falls_back_on_bytes(tiny_model: Path) -> None:
    tokenizer = sentencepiece()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    spelling = Spelling.of_tokenizer(tokenizer)
    assert spelling.spelt(tokenizer.encode("to be é", add_special_tokens=False)) == [
        b"to", b" be", b" ", b"\xc3", b"\xa9",
    ]  # fmt: skip
    assert spelling.end == 1
    # Letters come from and go to pieces of text, be their ids before or behind those of bytes.
    tiny = Spelling.of_tokenizer(load_tokenizer(resolve(str(tiny_model))))
    at = {tiny.of[mine]: theirs for mine, theirs in tiny.counterparts(spelling).items()}
    assert [at[letter] for letter in (b"\n", b"t", b"Z")] == tokenizer.convert_tokens_to_ids(["\n", "t", "<0x5A>"])


def test_counterparts_spell_the_same_and_ends_belong_together(tiny_model: Path, merging_model: Path) -> None:
    tiny, merging = (Spelling.of_tokenizer(load_tokenizer(resolve(str(one)))) for one in (tiny_model, merging_model))
    found = merging.counterparts(tiny)
    assert {merging.of[theirs] for theirs in found} == {None, *(bytes([byte]) for byte in range(256))}
    assert all(merging.of[theirs] == tiny.of[mine] for theirs, mine in found.items())
    assert found[merging.end] == tiny.end
    # With the same vocabulary every id is its own.
    assert tiny.counterparts(tiny) == {at: at for at in range(len(tiny.of))}


def test_a_tokenizer_whose_tokens_spell_no_text_is_one_message() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece({"[UNK]": 0, "why": 1, "##s": 2}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="[UNK]",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    with pytest.raises(InputError, match="do not spell the text that they were made of"):
        Spelling.of_tokenizer(tokenizer)
