"""Lessons in, soft targets out: what the teacher thinks of each token that the student is to learn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import InputError
from limbeck.models.answer import KeptLabeller
from limbeck.models.chat import check_same_vocabulary
from limbeck.models.local import Local
from limbeck.models.reasoning import Reasoning
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, SharedModel, SoftLabeller, Store, Target, Tools
from limbeck.records import Lesson, TargetSet
from limbeck.targets.cache import PART_LESSONS, Cached, Targets, write_disagreements, write_part
from limbeck.teach.keep import Keep
from limbeck.teach.mixture import Label, Panel, continuation
from limbeck.teach.settings import TeachSettings

# Why a reply may have no soft target.
UNHEARD = "who scores them has no room for them in its context, declines them or spells them otherwise than the student"
# Says the soft targets of each of some parts of the lessons, with its position among them.
Labels = Callable[[Sequence[Sequence[Lesson]]], Iterator[tuple[int, Iterator[Label]]]]


class Form(NamedTuple):
    """What soft targets are: who reads and writes their files, who says those of one model, and whether the student
    reasons."""

    read: type[Cached[Any]]
    write: Callable[[Path, Sequence[tuple[str, Any]]], None]
    one: Callable[[ModelSpec, Local, Keep, Tools], AbstractContextManager[Labels]]
    reasons: Reasoning | None = None


class Task(NamedTuple):
    """Some lessons and who says their soft targets: a number and a name of their own, and what opens the models."""

    number: int
    name: str
    lessons: list[Lesson]
    opened: Callable[[], AbstractContextManager[Labels]]


def score(
    settings: TeachSettings,
    student: Local,
    lessons: Sequence[Lesson],
    before: TargetSet | None,
    reasons: Reasoning | None = None,
    *,
    store: Store,
) -> TargetSet:
    """The soft targets of every lesson with a reply that has none from `before`, in files of the stage's folder.

    Where `settings.mixture` is given, those are the mixture of its teachers, whoever replied. Else a teacher that
    offers distributions gives its own; for one that offers text alone `settings.soft_labels` scores the reply. Without
    any of them a lesson has no soft target; nor has one that exceeds the context of who scores it, or that a server
    declines, which is counted. Where the student `reasons`, its reasoning is scored too. Raises InputError where ids
    mean other tokens than the student's.
    """
    form = Form(Targets, write_part, partial(_one, reasons=reasons, store=store), reasons)
    return scored(form, settings, student, lessons, before, store=store)


def unlabelled_line(targets: TargetSet | None) -> str | None:
    """What to say where some replies have no soft target."""
    if targets is None or not targets.unlabelled:
        return None
    return (
        f"soft labels: {targets.unlabelled} of {targets.lessons + targets.unlabelled} replies have none, and losses "
        f"that need one learn nothing from them: {UNHEARD}"
    )


def scored(
    form: Form,
    settings: TeachSettings,
    student: Local,
    lessons: Sequence[Lesson],
    before: TargetSet | None,
    *,
    store: Store,
) -> TargetSet:
    """The soft targets of this form, as `score` says."""
    folder = store.folder("targets")
    earlier = before.folders if before is not None else ()
    known = form.read.of(before)
    taught = [lesson for lesson in lessons if lesson.reply is not None and not lesson.by_house]
    wanted = {lesson.id: lesson for lesson in taught if lesson.id not in known}
    asked = len(known)
    for task in _tasks(form, settings, student, list(wanted.values()), store.tools):
        asked += len(task.lessons)
        parts = [task.lessons[at : at + PART_LESSONS] for at in range(0, len(task.lessons), PART_LESSONS)]
        files = [form.read.part(folder, task=task.number, number=number) for number in range(len(parts))]
        missing = [(file, part) for file, part in zip(files, parts, strict=True) if not file.exists()]
        work = _write(form, task, missing) if missing else iter(())
        total = sum(len(part) for _, part in missing)
        for _ in store.progress(f"{task.name} soft labels", work, total=total):
            pass
    found = len(known) + len(form.read((folder,)))
    if asked and not found:
        # Asked anew the next time, when the server may have more room.
        shutil.rmtree(folder)
        raise InputError(
            f"soft labels: none of {asked} replies has one: {UNHEARD}; give who scores them a longer context or a "
            "shorter policy, set soft_labels: none, or take out the losses that need a distribution"
        )
    return TargetSet(folders=(*earlier, folder), lessons=found, unlabelled=asked - found, key=store.key)


def _tasks(
    form: Form, settings: TeachSettings, student: Local, lessons: Sequence[Lesson], tools: Tools
) -> Iterator[Task]:
    if settings.mixture is not None:
        if lessons:
            yield Task(0, "mixture", list(lessons), partial(_mixture, settings, student, form.reasons))
        return
    for number, teacher in enumerate(settings.teachers):
        mine = [lesson for lesson in lessons if lesson.teacher == teacher.name]
        for labeller in settings.labellers(teacher):
            if mine:
                opened = partial(form.one, labeller, student, settings.keep, tools)
                yield Task(number, teacher.name or teacher.kind, mine, opened)


def in_turn(labels: Callable[[Sequence[Lesson]], Iterator[Label]]) -> Labels:
    """The labels of one part after the other, from what says those of one."""
    return lambda parts: ((at, labels(part)) for at, part in enumerate(parts))


@contextmanager
def _mixture(settings: TeachSettings, student: Local, reasons: Reasoning | None) -> Iterator[Labels]:
    assert settings.mixture is not None
    tokenizer = load_tokenizer(resolve(student.model))
    with Panel.open(settings.mixture, settings.mixed, tokenizer, keep=settings.keep, reasons=reasons) as panel:
        yield in_turn(panel.labels)


@contextmanager
def _one(
    labeller: ModelSpec, student: Local, keep: Keep, tools: Tools, *, reasons: Reasoning | None, store: Store
) -> Iterator[Labels]:
    with tools.opened(labeller) as opened:
        assert isinstance(opened, SharedModel | SoftLabeller)
        check_same_vocabulary(labeller, opened.vocabulary, load_tokenizer(resolve(student.model)))
        model: SharedModel | SoftLabeller = opened
        if not labeller.shareable and not isinstance(opened, SharedModel):
            # Each reply is paid for, and a file of many is written when the last of them is there. By another tokenizer
            # or chat template, which the vocabulary does not tell, it is other tokens.
            cut_by = "" if labeller.tokens_of is None else resolve(labeller.tokens_of).identity
            model = KeptLabeller(opened, store, identity=f"{opened.identity} {cut_by}")

        def targets_of(groups: Sequence[Sequence[Continuation]]) -> Iterator[tuple[int, Iterable[tuple[str, Target]]]]:
            if isinstance(model, SharedModel):
                return model.targets_of(groups, keep.labels)
            return ((at, keep.labels(model, group)) for at, group in enumerate(groups))

        def labels(parts: Sequence[Sequence[Lesson]]) -> Iterator[tuple[int, Iterator[Label]]]:
            for at, targets in targets_of([[continuation(lesson, reasons) for lesson in part] for part in parts]):
                yield at, (Label(lesson, target) for lesson, target in targets)

        yield labels


def _write(form: Form, task: Task, missing: Sequence[tuple[Path, Sequence[Lesson]]]) -> Iterator[str]:
    with task.opened() as labels:
        for at, said in labels([part for _, part in missing]):
            file = missing[at][0]
            found = []
            for label in said:
                found.append(label)
                yield label.lesson
            if apart := [label.apart for label in found if label.apart is not None]:
                write_disagreements(file, apart)
            # Last, for it says that the part is there.
            form.write(file, [(label.lesson, label.target) for label in found])
            heard = {label.lesson for label in found}
            yield from (lesson.id for lesson in missing[at][1] if lesson.id not in heard)
