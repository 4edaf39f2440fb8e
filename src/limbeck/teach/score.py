"""Lessons in, soft targets out: what the teacher thinks of each token that the student is to learn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from limbeck.models.chat import check_same_vocabulary
from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, SoftLabeller, Store
from limbeck.records import Lesson, TargetSet
from limbeck.targets.cache import Targets, write_part
from limbeck.teach.settings import TeachSettings

# Lessons to a file: what a kill costs at most.
PART_LESSONS = 64


def score(
    settings: TeachSettings, student: Local, lessons: Sequence[Lesson], before: TargetSet | None, *, store: Store
) -> TargetSet:
    """The soft targets of every lesson with a reply that has none from `before`, in files of the stage's folder.

    A teacher that offers distributions gives its own; for one that offers text alone `settings.soft_labels`
    scores the reply. Without either a lesson has no soft target. Raises InputError where ids mean other tokens
    than the student's.
    """
    folder = store.folder("targets")
    earlier = before.folders if before is not None else ()
    known = Targets(earlier)
    by_teacher: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in lessons:
        if lesson.reply is not None and lesson.id not in known:
            by_teacher[lesson.teacher].append(lesson)
    scored = len(known)
    for place, teacher in enumerate(settings.teachers):
        labeller = settings.labeller(teacher)
        mine = by_teacher[teacher.name]
        if labeller is None or not mine:
            continue
        scored += len(mine)
        parts = [mine[at : at + PART_LESSONS] for at in range(0, len(mine), PART_LESSONS)]
        files = [folder / f"targets-{place}-{number:05d}.parquet" for number in range(len(parts))]
        missing = [(file, part) for file, part in zip(files, parts, strict=True) if not file.exists()]
        work = _write(labeller, student, missing, settings.top) if missing else iter(())
        total = sum(len(part) for _, part in missing)
        for _ in store.progress(f"{teacher.name or teacher.kind} soft labels", work, total=total):
            pass
    return TargetSet(folders=(*earlier, folder), lessons=scored, key=store.key)


def _write(
    labeller: ModelSpec, student: Local, missing: Sequence[tuple[Any, Sequence[Lesson]]], top: int
) -> Iterator[str]:
    with labeller.open() as model:
        assert isinstance(model, SoftLabeller)
        check_same_vocabulary(labeller, model, load_tokenizer(resolve(student.model)))
        for file, part in missing:
            wanted = [
                Continuation(lesson.id, lesson.prompt.messages, lesson.reply or "", lesson.ends) for lesson in part
            ]
            targets = []
            for lesson, target in model.soft_targets(wanted, top=top):
                targets.append((lesson, target))
                yield lesson
            write_part(file, targets)
