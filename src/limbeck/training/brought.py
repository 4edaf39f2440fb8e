"""Lessons in, soft targets out that others made: beside the replies in their rows, or in a folder of DistillKit's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path

from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spelling import Spelling
from limbeck.protocols import Store, TopK
from limbeck.records import TargetSet
from limbeck.spec import Spec
from limbeck.targets.cache import PART_LESSONS, Targets, write_part
from limbeck.training.captured import captured
from limbeck.training.lessons import LessonFiles, lessons_in, rows_in
from limbeck.training.logprobs import RowReader


class Brought(Spec):
    """Lessons files, and the folder of DistillKit's with the soft targets of their replies; without it they stand in
    the rows."""

    lessons: LessonFiles
    captured: Path | None = None


def brings_targets(files: LessonFiles) -> bool:
    """Whether any row brings a soft target."""
    return any(row.values.get("logprobs") is not None for row, _ in lessons_in(files))


def read_targets(settings: Brought, student: Local, *, store: Store) -> TargetSet:
    """The soft targets of the lessons, in files of the stage's folder.

    Raises InputError where one is not that of the student's tokens, or the folder has none.
    """
    tokenizer = load_tokenizer(resolve(student.model))
    if settings.captured is None:
        reader = RowReader(tokenizer, Spelling.of_tokenizer(tokenizer))
        found: Iterator[tuple[str, TopK]] = chain.from_iterable(rows_in(settings.lessons, reader.targets))
    else:
        found = captured(settings.captured, settings.lessons, tokenizer)
    folder = store.folder("targets")
    for number in count():
        if not (part := list(islice(found, PART_LESSONS))):
            break
        write_part(Targets.part(folder, number=number), part)
    # A lesson that stands in two rows counts once.
    return TargetSet(folders=(folder,), lessons=len(Targets((folder,))), key=store.key)
