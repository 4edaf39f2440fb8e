"""Soft targets that stand in the rows of a lessons file: as a server gives them, or as lists of ids and log-probs.

Whoever made them has to have cut the reply into tokens as the student does: that is checked, token by token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from limbeck.errors import InputError
from limbeck.files import Row, noun_at
from limbeck.models.chat import reply_ids
from limbeck.models.local import top_of
from limbeck.models.spelling import Spelling
from limbeck.protocols import TopK
from limbeck.records import Lesson
from limbeck.targets.ragged import rectangle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Columns with the ids that `logprobs` belong to: plain, and as TRL's server calls them.
IDS = ("token_ids", "logprob_token_ids")
# What a server writes for a token that is too unlikely to be told.
UNTOLD = -9999.0
# How far above 1 the probabilities of a token may sum, and a log-probability may lie above 0.
ROUNDING = 1e-2
# What a server writes for bytes that are no text of their own.
NO_TEXT = "\ufffd".encode()
REMEDY = "give those of a teacher with the student's tokenizer, or leave 'logprobs' out of this row"


class _Told(BaseModel):
    """A token by name, and its log-probability."""

    token: str
    logprob: float
    utf_8: list[Annotated[int, Field(ge=0, le=255)]] | None = Field(default=None, alias="bytes")

    @property
    def spelt(self) -> bytes:
        return bytes(self.utf_8) if self.utf_8 else self.token.encode()


class _Place(_Told):
    """The token of the reply, and the likeliest ones in its place."""

    top_logprobs: list[_Told] | None = None


class RowReader:
    """Reads the `logprobs` of a row, which belong to its last reply."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spelling: Spelling) -> None:
        self.tokenizer = tokenizer
        self.size = len(spelling.of)
        special = {at: token.content.encode() for at, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.bytes_of = {at: spelt for at, spelt in enumerate(spelling.of) if spelt is not None} | special
        # A single byte may be a token and what is fallen back on; tokens of text have the larger ids.
        self.ids = {spelt: at for at, spelt in self.bytes_of.items()}

    def targets(self, row: Row, lessons: Sequence[Lesson]) -> list[tuple[str, TopK]]:
        """The target of the row's last lesson by its id, where there is one."""
        said = _listed(row, "logprobs")
        if said is None:
            return []
        lesson = lessons[-1]
        tokens = reply_ids(self.tokenizer, lesson.reply or "", ends=lesson.ends)
        missing = len(tokens) - len(said)
        if missing not in ((0, 1) if lesson.ends else (0,)):
            raise InputError(
                f"{row.where}: 'logprobs' has {len(said)} tokens, and the student's tokenizer makes {len(tokens)} of "
                f"the reply; {REMEDY}"
            )
        named = any(isinstance(one, Mapping) for one in said)
        places = self._of_server(row, said, tokens) if named else self._of_lists(row, said, tokens)
        # Nobody says how the turn ends: all mass is the rest's, which teaches nothing.
        return [(lesson.id, _target(row, [*places, *[{}] * missing]))]

    def _of_server(self, row: Row, said: Sequence[Any], tokens: Sequence[int]) -> list[dict[int, float]]:
        """OpenAI's and vLLM's form. A name that the student has no token for counts to the rest."""
        places = []
        for number, (one, token) in enumerate(zip(said, tokens, strict=False)):
            told = noun_at(row.where, _Place, one)
            mine = self.bytes_of.get(token, b"")
            # A sentencepiece tokenizer begins every text with a space that is none of the text's.
            same = told.spelt == mine or (number == 0 and b" " + told.spelt == mine)
            if not same and NO_TEXT not in told.spelt:
                raise InputError(
                    f"{row.where}: token {number + 1} of the reply is {_shown(told.spelt)} in 'logprobs' and "
                    f"{_shown(mine)} for the student; {REMEDY}"
                )
            others = {self.ids[one.spelt]: one.logprob for one in told.top_logprobs or () if one.spelt in self.ids}
            places.append({**others, token: told.logprob})
        return places

    def _of_lists(self, row: Row, said: Sequence[Any], tokens: Sequence[int]) -> list[dict[int, float]]:
        """A list of log-probs for each token, and beside it one of the ids that they belong to."""
        column = next((name for name in IDS if row.values.get(name) is not None), IDS[0])
        ids = _listed(row, column)
        if ids is None or not all(isinstance(one, list) for one in (*said, *ids)):
            raise InputError(
                f"{row.where}: 'logprobs' has numbers without ids; for each token give a list, and a list of their ids "
                f"in '{column}'"
            )
        if [len(one) for one in ids] != [len(one) for one in said]:
            raise InputError(f"{row.where}: '{column}' and 'logprobs' differ in size; give each log-prob its id")
        own = _listed(row, "completion_ids")
        if own is not None and own != list(tokens[: len(own)]):
            raise InputError(f"{row.where}: 'completion_ids' are not what the student makes of the reply; {REMEDY}")
        for some in ids:
            for one in some:
                if not isinstance(one, int) or not 0 <= one < self.size or some.count(one) > 1:
                    raise InputError(
                        f"{row.where}: '{column}' has the id {one!r:.20} for a token; use the student's, 0 to "
                        f"{self.size - 1}, each once"
                    )
        return [dict(zip(some, logprobs, strict=True)) for some, logprobs in zip(ids, said, strict=True)]


def _listed(row: Row, column: str) -> list[Any] | None:
    """The list in the column, which may be JSON in text, or the `content` of what a server gave."""
    value = row.values.get(column)
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise InputError(f"{row.where}: '{column}' is text and no JSON ({error.msg}); write it as a list") from error
    value = value.get("content") if isinstance(value, Mapping) else value
    if value is not None and not isinstance(value, list):
        raise InputError(
            f"{row.where}: '{column}' is a {type(value).__name__}; give a list with one item for each token"
        )
    return value


def _shown(spelt: bytes) -> str:
    return repr(spelt.decode(errors="backslashreplace"))


def _target(row: Row, places: Sequence[Mapping[int, float]]) -> TopK:
    """What is known of each token, and the mass that it leaves. Raises InputError where that is none."""
    import torch

    for number, place in enumerate(places, 1):
        for one in place.values():
            if not isinstance(one, int | float) or not one <= ROUNDING:
                raise InputError(f"{row.where}: 'logprobs' has {one!r:.20} for token {number}; use numbers up to 0")
        if (mass := math.fsum(map(math.exp, place.values()))) > 1 + ROUNDING:
            raise InputError(
                f"{row.where}: the probabilities of token {number} in 'logprobs' sum to {mass:.3f}; give natural "
                "logarithms at temperature 1"
            )
    told = [{at: one for at, one in place.items() if one > UNTOLD} for place in places]
    known = rectangle(
        torch.tensor([len(place) for place in told]),
        torch.tensor([at for place in told for at in place], dtype=torch.long),
        torch.tensor([min(0.0, one) for place in told for one in place.values()], dtype=torch.float32),
        torch.zeros(len(told)),
        width=max(1, *map(len, told)),
    )
    return top_of(known.ids_NK, known.logprobs_NK)
