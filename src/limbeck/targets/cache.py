"""Soft targets on disk: Parquet files of a fixed number of lessons, each written whole or not at all.

A row holds one lesson's TopK or Spans: ids int32 (byte-stream split), log-probs float16, tail float32, all at
temperature 1. Row groups of 8 lessons keep a random read short.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limbeck.errors import InputError
from limbeck.files import replacing, write_atomically
from limbeck.protocols import Spans, TopK
from limbeck.records import Disagreement
from limbeck.targets.spans import placed

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW_GROUP = 8
SCHEMA = pa.schema([
    ("lesson", pa.string()),
    ("top", pa.int32()),
    ("ids", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float16())),
    ("tail", pa.list_(pa.float32())),
])  # fmt: skip
SPANS_SCHEMA = pa.schema([
    ("lesson", pa.string()),
    ("begins", pa.list_(pa.bool_())),
    ("known", pa.list_(pa.bool_())),
    ("ids", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float16())),
    ("whole", pa.list_(pa.float32())),
    ("odd", pa.list_(pa.float16())),
    ("tail", pa.list_(pa.float32())),
])  # fmt: skip
Soft = TypeVar("Soft", TopK, Spans)


def write_part(file: Path, targets: Sequence[tuple[str, TopK]]) -> None:
    """One file of targets by lesson id, whole or not at all."""
    table = pa.table(
        {
            "lesson": [lesson for lesson, _ in targets],
            "top": [one.ids_NK.shape[1] for _, one in targets],
            "ids": [one.ids_NK.flatten().int().numpy() for _, one in targets],
            "logprobs": [one.logprobs_NK.flatten().numpy().astype(np.float16) for _, one in targets],
            "tail": [one.tail_N.float().numpy() for _, one in targets],
        },
        schema=SCHEMA,
    )
    _write(file, table)


def write_spans(file: Path, targets: Sequence[tuple[str, Spans]]) -> None:
    """One file of targets across tokenizers by lesson id, whole or not at all; rows of spans that are known alone."""
    known = [(lesson, one, one.known_N) for lesson, one in targets]
    table = pa.table(
        {
            "lesson": [lesson for lesson, _ in targets],
            "begins": [one.begins_N.numpy() for _, one in targets],
            "known": [one.known_N.numpy() for _, one in targets],
            "ids": [one.ids_NW[rows].flatten().int().numpy() for _, one, rows in known],
            "logprobs": [one.logprobs_NW[rows].flatten().numpy().astype(np.float16) for _, one, rows in known],
            "whole": [one.whole_N[rows].float().numpy() for _, one, rows in known],
            "odd": [one.odd_NU[rows].flatten().numpy().astype(np.float16) for _, one, rows in known],
            "tail": [one.tail_N[rows].float().numpy() for _, one, rows in known],
        },
        schema=SPANS_SCHEMA,
    )
    _write(file, table)


def _write(file: Path, table: pa.Table) -> None:
    with replacing(file) as stream:
        pq.write_table(
            table,
            stream,
            row_group_size=ROW_GROUP,
            compression="zstd",
            compression_level=3,
            use_dictionary=["lesson"],
            column_encoding={"ids.list.element": "BYTE_STREAM_SPLIT"},
            write_page_checksum=True,
        )


def write_disagreements(file: Path, found: Sequence[Disagreement]) -> None:
    """How far the teachers are apart on the lessons of one file of targets, beside it."""
    write_atomically(file.with_suffix(".jsonl"), "".join(f"{one.line()}\n" for one in found))


def read_disagreements(folders: Sequence[Path]) -> Iterator[Disagreement]:
    """What `write_disagreements` left beside the targets of these folders."""
    for file in sorted(file for folder in folders for file in folder.glob("targets-*.jsonl")):
        with _readable(file), file.open(encoding="utf-8") as lines:
            yield from map(Disagreement.read, lines)


class Cached(Mapping[str, Soft]):
    """Soft targets of one form in some folders by lesson id, read from disk when asked for."""

    files_are: ClassVar[str]

    def __init__(self, folders: Sequence[Path]) -> None:
        self.files: dict[Path, pq.ParquetFile] = {}
        self.where: dict[str, tuple[Path, int]] = {}
        for file in sorted(file for folder in folders for file in folder.glob(self.files_are)):
            with _readable(file):
                self.files[file] = pq.ParquetFile(file, page_checksum_verification=True)
                lessons = self.files[file].read(columns=["lesson"])["lesson"].to_pylist()
            self.where |= {lesson: (file, at) for at, lesson in enumerate(lessons)}

    def __getitem__(self, lesson: str) -> Soft:
        file, at = self.where[lesson]
        with _readable(file):
            group = self.files[file].read_row_group(at // ROW_GROUP)
        return self.of({name: group[name][at % ROW_GROUP] for name in group.column_names if name != "lesson"})

    @abstractmethod
    def of(self, row: Mapping[str, Any]) -> Soft:
        """What a row says, by column."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)


class Targets(Cached[TopK]):
    """Distributions over the ids that teacher and student share."""

    files_are = "targets-*.parquet"

    def of(self, row: Mapping[str, Any]) -> TopK:
        import torch

        top = row["top"].as_py()
        return TopK(
            torch.from_numpy(row["ids"].values.to_numpy().astype(np.int64)).view(-1, top),
            torch.from_numpy(row["logprobs"].values.to_numpy(zero_copy_only=False).astype(np.float32)).view(-1, top),
            torch.from_numpy(row["tail"].values.to_numpy().copy()),
        )


class SpanTargets(Cached[Spans]):
    """Distributions of teachers with another tokenizer, at the start of spans."""

    files_are = "spans-*.parquet"

    def of(self, row: Mapping[str, Any]) -> Spans:
        import torch

        begins_N, known_N = (
            torch.from_numpy(row[name].values.to_numpy(zero_copy_only=False).astype(np.bool_))
            for name in ("begins", "known")
        )
        ids, logprobs, whole_G, odd, tail_G = (
            torch.from_numpy(row[name].values.to_numpy(zero_copy_only=False).astype(kind))
            for name, kind in (
                ("ids", np.int64),
                ("logprobs", np.float32),
                ("whole", np.float32),
                ("odd", np.float32),
                ("tail", np.float32),
            )
        )
        ids_GW, logprobs_GW, odd_GU = (
            flat.view(len(tail_G), len(flat) // len(tail_G)) for flat in (ids, logprobs, odd)
        )
        return placed(begins_N, known_N, ids_GW, logprobs_GW, whole_G, odd_GU, tail_G)


class _readable:
    """Says which file is damaged and how to make it anew."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError):
            raise InputError(
                f"{self.file}: damaged ({str(error).splitlines()[0]}); delete its folder {self.file.parent} and run "
                "again: the targets are scored anew"
            ) from error
