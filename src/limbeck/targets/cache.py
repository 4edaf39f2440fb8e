"""Soft targets on disk: Parquet files of a fixed number of lessons, each written whole or not at all.

A row holds one lesson's target at temperature 1: how many ids are known at each token of the reply (`sizes`), those ids
and their log-probs one token after the other, and the log of the mass of the rest (`tail`). Ids that were drawn have no
tail: their weights are right in the mean and stay as they are. Across tokenizers a row holds one lesson's Spans. Row
groups of 8 lessons keep a random read short. Beside each file lies its SHA-256, in the format of sha256sum.
"""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limbeck.errors import InputError
from limbeck.files import file_sha256, replacing, write_atomically
from limbeck.protocols import Drawn, Spans, Target, TopK
from limbeck.records import Disagreement, TargetSet
from limbeck.targets.ragged import rectangle
from limbeck.targets.spans import placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Lessons to a file: what a kill costs at most.
PART_LESSONS = 64
ROW_GROUP = 8
SCHEMA = pa.schema([
    ("lesson", pa.string()),
    ("sizes", pa.list_(pa.int32())),
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


def write_part(file: Path, targets: Sequence[tuple[str, Target]]) -> None:
    """One file of targets by lesson id, whole or not at all, and its SHA-256."""
    rows = [{"lesson": lesson, **_columns(target)} for lesson, target in targets]
    table = pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)
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
    """The file and its SHA-256."""
    content = io.BytesIO()
    pq.write_table(
        table,
        content,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=3,
        use_dictionary=["lesson", "sizes.list.element"],
        column_encoding={"ids.list.element": "BYTE_STREAM_SPLIT"},
        write_page_checksum=True,
    )
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    write_atomically(_sum_of(file), f"{digest}  {file.name}\n")
    # Last, for it says that the part is there.
    with replacing(file) as stream:
        stream.write(content.getbuffer())


def _columns(target: Target) -> dict[str, Any]:
    if isinstance(target, Drawn):
        sizes_N, ids_S, logprobs_S, tail = target.sizes_N, target.ids_S, target.logweights_S, None
    else:
        known_NK = target.logprobs_NK.isfinite()
        sizes_N, ids_S, logprobs_S = known_NK.sum(-1), target.ids_NK[known_NK], target.logprobs_NK[known_NK]
        tail = target.tail_N.float().numpy()
    return {
        "sizes": sizes_N.int().numpy(),
        "ids": ids_S.int().numpy(),
        "logprobs": logprobs_S.numpy().astype(np.float16),
        "tail": tail,
    }


def _sum_of(file: Path) -> Path:
    return file.with_suffix(".sha256")


def write_disagreements(file: Path, found: Sequence[Disagreement]) -> None:
    """How far the teachers are apart on the lessons of one file of targets, beside it."""
    write_atomically(file.with_suffix(".jsonl"), "".join(f"{one.line()}\n" for one in found))


def read_disagreements(folders: Sequence[Path]) -> Iterator[Disagreement]:
    """What `write_disagreements` left beside the targets of these folders."""
    for file in sorted(file for folder in folders for file in folder.glob("targets-*.jsonl")):
        with _readable(file), file.open(encoding="utf-8") as lines:
            yield from map(Disagreement.read, lines)


class Cached(Mapping[str, Soft]):
    """Soft targets of one form in some folders by lesson id, read from disk when asked for; in memory are 20 bytes of
    each, the sorted ids (N) and where their rows stand.

    `name` is what their files' names begin with. Raises InputError for a file whose content is not what its SHA-256
    says, or that is gone.
    """

    name: ClassVar[str]

    @classmethod
    def part(cls, folder: Path, *, task: int = 0, number: int) -> Path:
        """The file of a task's lessons from `number` times PART_LESSONS on."""
        return folder / f"{cls.name}-{task}-{number:05d}.parquet"

    def __init__(self, folders: Sequence[Path]) -> None:
        self.files: list[Path] = []
        self.starts: list[int] = []
        lessons: list[NDArray[np.bytes_]] = [np.empty(0, "S1")]
        count = 0
        named = {
            file.with_suffix(".parquet")
            for folder in folders
            for suffix in ("parquet", "sha256")
            for file in folder.glob(f"{self.name}-*.{suffix}")
        }
        for file in sorted(named):
            with _readable(file):
                if file_sha256(file) != _sum_of(file).read_text(encoding="utf-8").partition(" ")[0]:
                    raise ValueError(f"its content is not what {_sum_of(file).name} says")
                with pq.ParquetFile(file) as opened:
                    column = opened.read(columns=["lesson"], use_threads=False)["lesson"]
            self.files.append(file)
            self.starts.append(count)
            lessons.append(np.array(column.to_pylist(), "S"))
            count += len(column)
        ids_N = np.concatenate(lessons)
        order_N = ids_N.argsort(kind="stable")
        # Of a lesson that is there twice, the later one.
        last_N = np.append(ids_N[order_N][1:] != ids_N[order_N][:-1], True)[:count]
        self.numbers_N = order_N[last_N].astype(np.int32)
        self.ids_N = ids_N[self.numbers_N]

    @classmethod
    def of(cls, made: TargetSet | None) -> Self:
        """The targets of a set, none without one. Raises InputError where some of them are gone."""
        found = cls(made.folders if made is not None else ())
        if made is not None and len(found) != made.lessons:
            raise InputError(
                f"{made.folders[-1]}: of {made.lessons} soft targets {len(found)} are there; delete the folder "
                f"{made.folders[-1].parent} and run again: its targets are made anew"
            )
        return found

    def _number(self, lesson: str) -> int | None:
        """The place of a lesson among the rows of all files."""
        at = int(np.searchsorted(self.ids_N, lesson.encode()))
        return int(self.numbers_N[at]) if at < len(self) and self.ids_N[at] == lesson.encode() else None

    def __contains__(self, lesson: object) -> bool:
        return isinstance(lesson, str) and self._number(lesson) is not None

    def __getitem__(self, lesson: str) -> Soft:
        if (number := self._number(lesson)) is None:
            raise KeyError(lesson)
        part = bisect_right(self.starts, number) - 1
        at = number - self.starts[part]
        file = self.files[part]
        # So little is read that to hand it to other threads, as buffering does, costs more than it brings.
        with (
            _readable(file),
            pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as opened,
        ):
            group = opened.read_row_group(at // ROW_GROUP, use_threads=False)
        return self.read({name: group[name][at % ROW_GROUP] for name in group.column_names})

    @abstractmethod
    def read(self, row: Mapping[str, Any]) -> Soft:
        """What a row says, by column."""

    def __iter__(self) -> Iterator[str]:
        return (lesson.decode() for lesson in self.ids_N.tolist())

    def __len__(self) -> int:
        return len(self.ids_N)


class Targets(Cached[TopK]):
    """Distributions over the ids that teacher and student share. Drawn ids come as the TopK of nothing but their
    weights."""

    name = "targets"

    def read(self, row: Mapping[str, Any]) -> TopK:
        import torch

        sizes_N = torch.from_numpy(row["sizes"].values.to_numpy().astype(np.int64))
        ids_S = torch.from_numpy(row["ids"].values.to_numpy().astype(np.int64))
        logprobs_S = torch.from_numpy(row["logprobs"].values.to_numpy(zero_copy_only=False).astype(np.float32))
        width = max(1, *sizes_N.tolist())
        if not row["tail"].is_valid:
            return rectangle(sizes_N, ids_S, logprobs_S, torch.full(sizes_N.shape, -torch.inf), width=width)
        tail_N = torch.from_numpy(row["tail"].values.to_numpy().copy())
        return _summing_to_1(rectangle(sizes_N, ids_S, logprobs_S, tail_N, width=width))


class SpanTargets(Cached[Spans]):
    """Distributions of teachers with another tokenizer, at the start of spans."""

    name = "spans"

    def read(self, row: Mapping[str, Any]) -> Spans:
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


def _summing_to_1(target: TopK) -> TopK:
    """The target whose ids have what the tail leaves: in half precision that is so within a thousandth."""
    import torch

    left_N = torch.log1p(-target.tail_N.double().exp())
    off_N = (left_N - target.logprobs_NK.double().logsumexp(-1)).nan_to_num(nan=0.0, posinf=0.0, neginf=-torch.inf)
    return target._replace(logprobs_NK=target.logprobs_NK + off_N[:, None].float())


class _readable:
    """Says which file is damaged and how to make it anew."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError):
            stage = self.file.parent.parent
            raise InputError(
                f"{self.file}: damaged ({str(error).splitlines()[0]}); delete the folder {stage} and run again: its "
                "targets are made anew"
            ) from error
