"""Lessons in, soft targets out: what the teacher thinks of each token that the student is to learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from limbeck.models.chat import check_same_vocabulary
from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spec import ModelSpec
from limbeck.protocols import SoftLabeller, Store
from limbeck.records import Lesson, TargetSet
from limbeck.targets.cache import Targets, write_disagreements, write_part
from limbeck.teach.keep import Keep
from limbeck.teach.mixture import Label, Panel, continuation
from limbeck.teach.settings import TeachSettings

# Lessons to a file: what a kill costs at most.
PART_LESSONS = 64
# Says the soft targets of some lessons.
Labels = Callable[[Sequence[Lesson]], Iterator[Label]]


class Task(NamedTuple):
    """Some lessons and who says their soft targets: a number and a name of their own, and what opens the models."""

    number: int
    name: str
    lessons: list[Lesson]
    opened: Callable[[], AbstractContextManager[Labels]]


def score(
    settings: TeachSettings, student: Local, lessons: Sequence[Lesson], before: TargetSet | None, *, store: Store
) -> TargetSet:
    """The soft targets of every lesson with a reply that has none from `before`, in files of the stage's folder.

    Where `settings.mixture` is given, those are the mixture of its teachers, whoever replied. Else a teacher that
    offers distributions gives its own; for one that offers text alone `settings.soft_labels` scores the reply. Without
    any of them a lesson has no soft target. Raises InputError where ids mean other tokens than the student's.
    """
    folder = store.folder("targets")
    earlier = before.folders if before is not None else ()
    known = Targets.of(before)
    wanted = {lesson.id: lesson for lesson in lessons if lesson.reply is not None and lesson.id not in known}
    scored = len(known)
    for task in _tasks(settings, student, list(wanted.values())):
        scored += len(task.lessons)
        parts = [task.lessons[at : at + PART_LESSONS] for at in range(0, len(task.lessons), PART_LESSONS)]
        files = [folder / f"targets-{task.number}-{number:05d}.parquet" for number in range(len(parts))]
        missing = [(file, part) for file, part in zip(files, parts, strict=True) if not file.exists()]
        work = _write(task, missing) if missing else iter(())
        total = sum(len(part) for _, part in missing)
        for _ in store.progress(f"{task.name} soft labels", work, total=total):
            pass
    return TargetSet(folders=(*earlier, folder), lessons=scored, key=store.key)


def _tasks(settings: TeachSettings, student: Local, lessons: Sequence[Lesson]) -> Iterator[Task]:
    if settings.mixture is not None:
        if lessons:
            yield Task(0, "mixture", list(lessons), partial(_mixture, settings, student))
        return
    for number, teacher in enumerate(settings.teachers):
        mine = [lesson for lesson in lessons if lesson.teacher == teacher.name]
        for labeller in settings.labellers(teacher):
            if mine:
                opened = partial(_one, labeller, student, settings.keep)
                yield Task(number, teacher.name or teacher.kind, mine, opened)


@contextmanager
def _mixture(settings: TeachSettings, student: Local) -> Iterator[Labels]:
    assert settings.mixture is not None
    tokenizer = load_tokenizer(resolve(student.model))
    with Panel.open(settings.mixture, settings.mixed, tokenizer, keep=settings.keep) as panel:
        yield panel.labels


@contextmanager
def _one(labeller: ModelSpec, student: Local, keep: Keep) -> Iterator[Labels]:
    with labeller.open() as model:
        assert isinstance(model, SoftLabeller)
        check_same_vocabulary(labeller, model, load_tokenizer(resolve(student.model)))

        def labels(lessons: Sequence[Lesson]) -> Iterator[Label]:
            for lesson, target in keep.labels(model, list(map(continuation, lessons))):
                yield Label(lesson, target)

        yield labels


def _write(task: Task, missing: Sequence[tuple[Path, Sequence[Lesson]]]) -> Iterator[str]:
    with task.opened() as labels:
        for file, part in missing:
            found = []
            for label in labels(part):
                found.append(label)
                yield label.lesson
            if apart := [label.apart for label in found if label.apart is not None]:
                write_disagreements(file, apart)
            # Last, for it says that the part is there.
            write_part(file, [(label.lesson, label.target) for label in found])
