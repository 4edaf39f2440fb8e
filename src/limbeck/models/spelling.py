"""Which bytes each id of a tokenizer stands for, so that tokens can be told by what others call them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from limbeck.errors import InputError
from limbeck.models.chat import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Spaces at both ends, digits, line ends, and letters of two, three and four bytes.
PROBE = " Why 12,3?\n\n\tNaïve: 東京 🦙  ok"


class Spelling(NamedTuple):
    """The bytes of each id, None for special tokens; and which id ends a turn."""

    of: Sequence[bytes | None]
    end: int

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, *, name: str) -> Spelling:
        """The spelling of a tokenizer: byte-level BPE, or sentencepiece with bytes to fall back on.

        Raises InputError for one whose tokens do not spell the text that they were made of.
        """
        kinds = set(re.findall(rb'"type": ?"(\w+)"', bytes(tokenizer.backend_tokenizer.decoder.__getstate__())))
        spelt = _byte_level if b"ByteLevel" in kinds else _sentencepiece
        added = tokenizer.added_tokens_decoder
        of: list[bytes | None] = [None] * len(tokenizer)
        for token, at in tokenizer.get_vocab().items():
            if at not in added:
                of[at] = spelt(token)
            elif not added[at].special:
                of[at] = token.replace("▁", " ").encode()
        spelling = cls(of, end_of_turn(tokenizer))
        probe = tokenizer.encode(PROBE, add_special_tokens=False)
        if b"".join(spelling.spelt(probe)) not in (PROBE.encode(), b" " + PROBE.encode()):
            raise InputError(
                f"the tokens of {name} do not spell the text that they were made of, so they cannot be aligned with "
                "others; use a model with a byte-level or sentencepiece tokenizer"
            )
        return spelling

    def spelt(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, none for special ones."""
        return [self.of[one] or b"" for one in ids]


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
