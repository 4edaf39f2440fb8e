"""Refusals in the student's tokens, at the start of a reply and in its midst."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from limbeck.errors import InputError
from limbeck.losses.spec import Refusal
from limbeck.models.chat import reply_ids
from limbeck.models.prefill import common
from limbeck.taxonomy import REFUSAL_OPENINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# What stands before a refusal in the midst of a reply: tokenizers spell a word otherwise there.
MIDWAY = "Yes, "


class Wording(NamedTuple):
    """The refusal openings in tokens, `sizes` of each; the first goes on as a refusal is taught."""

    openings: list[list[int]]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, refusals: Sequence[Refusal], *, after: str = "") -> Wording:
        """The openings that any of the refusals reads, spelt as a reply goes on after some text. Raises InputError
        where the words do not begin with the first opening's tokens."""
        before = reply_ids(tokenizer, after.rstrip(), ends=False)

        def spelt(text: str) -> list[int]:
            whole = reply_ids(tokenizer, after + text, ends=False)
            return whole[common(before, whole) :]

        # All decisions teach the same words.
        words = spelt(refusals[0].words)
        first, *others = map(spelt, REFUSAL_OPENINGS[: max(one.openings for one in refusals)])
        if words[: len(first)] != first:
            place = f"after {after!r} " if after else ""
            raise InputError(
                f"loss 'decision': the student's tokens of {refusals[0].words!r} {place}do not begin with those of "
                f"{REFUSAL_OPENINGS[0]!r}; choose other words for refuse_with"
            )
        return cls([words, *others], tuple(map(len, (first, *others))))

    @property
    def tokens(self) -> list[int]:
        """Those of the openings, one after the other, and then what goes on from the first."""
        return self.rest_last(self.openings)

    def at(self, risk: float) -> list[list[int]]:
        """The openings to read: the first goes on as a refusal is taught where there is any risk."""
        first, *others = self.openings
        return [first if risk > 0 else first[: self.sizes[0]], *others]

    def rest_last(self, openings: Sequence[Sequence[int]]) -> list[int]:
        """What belongs to the openings, one after the other, and then what goes on from the first."""
        first = self.sizes[0]
        return [*openings[0][:first], *chain.from_iterable(openings[1:]), *openings[0][first:]]
