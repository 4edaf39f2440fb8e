"""Ready lessons from the user's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from limbeck.errors import InputError
from limbeck.files import Row, asked_last, lessons_of, read_each
from limbeck.protocols import Store
from limbeck.records import Lesson, Prompt
from limbeck.spec import Spec

Supervised = Literal["last", "all"]
Read = TypeVar("Read")


class LessonFile(Spec):
    """Ready lessons in a JSONL, CSV or Parquet file; their own weights count `weight` times."""

    path: Path
    weight: float = Field(default=1.0, gt=0, le=1)


class LessonFiles(Spec):
    """Several such files, and which turns of the assistant in a chat are learnt."""

    files: tuple[LessonFile, ...]
    supervise: Supervised


def lessons_in(settings: LessonFiles) -> Iterator[tuple[Row, Lesson]]:
    """The lessons of the files, in order, each with the row that it stands in."""
    for row, lessons in rows_in(settings, lambda row, lessons: (row, lessons)):
        for lesson in lessons:
            yield row, lesson


def rows_in(settings: LessonFiles, read: Callable[[Row, list[Lesson]], Read]) -> Iterator[Read]:
    """What `read` makes of each row of the files and its lessons, in order. Raises InputError at the end of a file that
    tells of every row that was wrong."""
    for file in settings.files:

        def made(row: Row, weight: float = file.weight) -> Read:
            lessons = lessons_of(row, every_turn=settings.supervise == "all")
            return read(row, [one.model_copy(update={"weight": one.weight * weight}) for one in lessons])

        count = 0
        for one in read_each(file.path, made):
            count += 1
            yield one
        if count == 0:
            raise InputError(f"{file.path}: there are no rows; write at least one lesson")


def read_lessons(settings: LessonFiles, held_out: Sequence[Prompt] = (), *, store: Store) -> Iterator[Lesson]:
    """The lessons of the files. Raises InputError for one on a prompt that is held out of training."""
    held = {asked_last(prompt.messages): prompt.split for prompt in held_out}
    for row, lesson in lessons_in(settings):
        if (split := held.get(asked_last(lesson.prompt.messages))) is not None:
            raise InputError(f"{row.where}: this prompt is in the {split} split and may not be taught; leave it out")
        yield lesson
