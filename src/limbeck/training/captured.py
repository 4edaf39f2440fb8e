"""Soft targets that DistillKit captured: for each lesson those of the row that has its very tokens.

DistillKit keeps the tokens of whole chats, as the tokenizer and the chat template made them, in an order of its own.
So a lesson is found by its tokens, and where they are found they line up.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from limbeck.errors import InputError
from limbeck.files import noun_at
from limbeck.models.chat import end_of_turn, prompt_ids, reply_ids
from limbeck.models.local import top_of
from limbeck.protocols import TopK
from limbeck.records import ID_DIGITS
from limbeck.targets.distillkit import COLUMNS, CONFIG, Compression, decoded
from limbeck.training.lessons import LessonFiles, lessons_in
from limbeck.yaml_file import plain, read_tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Found(NamedTuple):
    """A lesson, and at which of its tokens the reply begins."""

    lesson: str
    start: int


class _Wanted:
    """The lessons by the first 8 bytes of the SHA-256 of their tokens: 28 bytes of each."""

    def __init__(self, files: LessonFiles, tokenizer: PreTrainedTokenizerBase) -> None:
        sums, lessons, starts = array("Q"), bytearray(), array("i")
        for _, lesson in lessons_in(files):
            prompt = prompt_ids(tokenizer, lesson.prompt.messages)
            tokens = np.array([*prompt, *reply_ids(tokenizer, lesson.reply or "", ends=lesson.ends)], dtype=np.int64)
            sums.append(_sum_of(hashlib.sha256(tokens.tobytes())))
            lessons += lesson.id.encode()
            starts.append(len(prompt))
        sums_N = np.asarray(sums, np.uint64)
        order_N = sums_N.argsort(kind="stable")
        self.sums_N = sums_N[order_N]
        self.lessons_N = np.frombuffer(bytes(lessons), f"S{ID_DIGITS}")[order_N]
        self.starts_N = np.asarray(starts, np.int32)[order_N]

    def get(self, tokens: hashlib._Hash) -> _Found | None:
        """The last lesson of these tokens."""
        at = int(np.searchsorted(self.sums_N, np.uint64(_sum_of(tokens)), "right")) - 1
        if at < 0 or int(self.sums_N[at]) != _sum_of(tokens):
            return None
        return _Found(self.lessons_N[at].decode(), int(self.starts_N[at]))


def _sum_of(tokens: hashlib._Hash) -> int:
    return int.from_bytes(tokens.digest()[:8], "big")


def captured(folder: Path, files: LessonFiles, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, TopK]]:
    """The targets of the lessons whose tokens a row of the folder has from its first one to the end of a turn.

    Raises InputError where there is none, or the folder is not what DistillKit's sample_logits writes.
    """
    config = _compression(folder)
    wanted = _Wanted(files, tokenizer)
    end = end_of_turn(tokenizer)
    rows = found = 0
    for where, row in _rows(folder):
        rows += 1
        for one, stop in _lessons_of(row["input_ids"], end, wanted):
            found += 1
            yield one.lesson, _target(where, config, row, range(one.start, stop), ids=len(tokenizer))
    if not found:
        raise InputError(
            f"{folder}: none of its {rows} rows has the tokens of a lesson; capture the same chats with the student's "
            "tokenizer and chat template (sample_logits --apply-chat-template)"
        )


def _compression(folder: Path) -> Compression:
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; name the folder that DistillKit's sample_logits wrote")
    return noun_at(str(file), Compression, plain(read_tree(file, remedy="capture with DistillKit's sample_logits")))


def _rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of the folder's Parquet files, one in memory at a time, each with where it stands."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    for file in sorted(folder.glob("*.parquet")):
        number = 0
        try:
            with ParquetFile(file, page_checksum_verification=True) as opened:
                if lacking := [name for name in COLUMNS if name not in opened.schema_arrow.names]:
                    raise InputError(
                        f"{file}: there is no column {lacking[0]}; capture with a sample_logits of DistillKit's that "
                        "writes it (its older format is not read)"
                    )
                for batch in opened.iter_batches(batch_size=1, columns=list(COLUMNS)):
                    number += 1
                    yield f"{file}:{number}", {name: batch[name][0] for name in COLUMNS}
        except (ArrowException, OSError) as error:
            raise InputError(f"{file}:{number + 1}: damaged ({str(error).splitlines()[0]}); capture it anew") from error


def _lessons_of(input_ids: Any, end: int, wanted: _Wanted) -> Iterator[tuple[_Found, int]]:
    """The lessons that a row's tokens are up to the end of a turn, and how many tokens that are."""
    tokens = input_ids.values.to_numpy().astype(np.int64)
    read = hashlib.sha256()
    begin = 0
    for stop in (np.flatnonzero(tokens == end) + 1).tolist():
        read.update(tokens[begin:stop].tobytes())
        begin = stop
        if (found := wanted.get(read)) is not None:
            yield found, stop


def _target(where: str, config: Compression, row: Mapping[str, Any], reply: Sequence[int], *, ids: int) -> TopK:
    """The target of the tokens at these places of a row, which says at each place what comes after it.

    From the id `ids` on there is no token, only the padding of a head.
    """
    columns = []
    for name in COLUMNS[1:]:
        told = row[name].values.slice(reply[0] - 1, len(reply))
        sizes = set(told.value_lengths().to_pylist())
        if len(told) < len(reply) or len(sizes) > 1:
            raise InputError(f"{where}: '{name}' does not say as much of each token of a reply; capture it anew")
        columns.append(told.flatten().to_numpy().reshape(len(reply), -1))
    try:
        ids_NK, logprobs_NK = decoded(config, *columns)
    except ValueError as error:
        raise InputError(f"{where}: {error}; name the folder whose files belong to that configuration") from error
    # What is approximated may leave the range of a logarithm.
    logprobs_NK = logprobs_NK.clamp(max=0.0).nan_to_num(nan=-math.inf, neginf=-math.inf)
    return top_of(ids_NK, logprobs_NK.masked_fill(ids_NK >= ids, -math.inf))
