"""Which bytes each id of a tokenizer stands for, so that tokens of two tokenizers can be held side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from limbeck.errors import InputError
from limbeck.models.chat import end_of_turn, vocabulary_hash
from limbeck.models.references import is_untold

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Spaces at both ends, digits, line ends, and letters of two, three and four bytes.
PROBE = " Why 12,3?\n\n\tNaïve: 東京 🦙  ok"


class Spelling(NamedTuple):
    """The bytes of each id, None for special tokens; which of them are what is `fallen_back` on, a byte each; which id
    ends a turn; whether the model was told where turns end; and a hash of the vocabulary."""

    of: Sequence[bytes | None]
    fallen_back: frozenset[int]
    end: int
    knows_ends: bool
    vocabulary: str

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Spelling:
        """The spelling of a tokenizer: byte-level BPE, or sentencepiece with bytes to fall back on.

        Raises InputError for one whose tokens do not spell the text that they were made of.
        """
        decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
        kinds = re.findall(rb'"type": ?"(\w+)"', bytes(decoder.__getstate__())) if decoder is not None else []
        spelt = _byte_level if b"ByteLevel" in kinds else _sentencepiece
        vocabulary, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
        of: list[bytes | None] = [None] * (1 + max(vocabulary.values()))
        for token, at in vocabulary.items():
            if at not in added:
                of[at] = spelt(token)
            elif not added[at].special:
                of[at] = token.replace("▁", " ").encode()
        fallen_back = frozenset(at for token, at in vocabulary.items() if BYTE_TOKEN.fullmatch(token) is not None)
        spelling = cls(of, fallen_back, end_of_turn(tokenizer), not is_untold(tokenizer), vocabulary_hash(tokenizer))
        probe = tokenizer.encode(PROBE, add_special_tokens=False)
        if b"".join(spelling.spelt(probe)) not in (PROBE.encode(), b" " + PROBE.encode()):
            raise InputError(
                f"the tokens of {tokenizer.name_or_path} do not spell the text that they were made of, and cannot be "
                "aligned with others; use a model with a byte-level or sentencepiece tokenizer"
            )
        return spelling

    def spelt(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, none for special ones."""
        return [self.of[one] or b"" for one in ids]

    def counterparts(self, other: Spelling) -> dict[int, int]:
        """The ids of this tokenizer for which there is one id of the other that stands for the same, and that id."""
        if self.vocabulary == other.vocabulary:
            return {at: at for at in range(len(self.of))}
        # A letter may be a token too that is fallen back on: the one of the text comes last, and stays.
        ids = sorted(range(len(other.of)), key=lambda at: at not in other.fallen_back)
        whole = {spelt: at for at in ids if (spelt := other.of[at]) is not None}
        found = {at: whole[spelt] for at, spelt in enumerate(self.of) if spelt is not None and spelt in whole}
        return found | {self.end: other.end}


def _byte_level(token: str) -> bytes | None:
    try:
        return bytes(BYTES[letter] for letter in token)
    except KeyError:
        return None


def _sentencepiece(token: str) -> bytes:
    if (byte := BYTE_TOKEN.fullmatch(token)) is not None:
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode()


def _letters() -> dict[str, int]:
    """The letter that GPT-2's alphabet writes for each byte (Radford et al. 2019): itself where it can be seen, else
    the next one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


BYTES = _letters()
